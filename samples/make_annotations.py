"""Writes samples/annotations/NAME.json (COCO) from the published Pascal VOC files of the sample images.

    python samples/make_annotations.py fridge PATH/odFridgeObjects/annotations can carton milk_bottle water_bottle
    python samples/make_annotations.py blood_cells PATH/BCCD/Annotations RBC WBC Platelets

VOC's xmin, ymin, xmax, ymax become COCO's x, y, width = xmax - xmin, height = ymax - ymin, without an offset, as in the
COCO file that Microsoft publishes for the fridge objects. `area` is width * height.
"""

import json
import sys
from pathlib import Path

from deformable_detr_refine.data.formats.voc import read_voc_file

SAMPLES = Path(__file__).resolve().parent


def coco_from_voc(folder: Path, names: list[str]) -> dict:
    """The sample images that have a VOC file in `folder`, in COCO's form; boxes x, y, width, height in pixels."""
    images, annotations = [], []
    for picture in sorted((SAMPLES / "images").glob("*.jpg")):
        voc = folder / f"{picture.stem}.xml"
        if not voc.exists():
            continue
        found = read_voc_file(voc)
        size = {"width": found.width, "height": found.height}
        images.append({"id": len(images) + 1, "file_name": picture.name, **size})
        for item in found.objects:
            x0, y0, x1, y1 = (int(corner) for corner in item.corners())
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": names.index(item.name) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def one_item_per_line(coco: dict) -> str:
    parts = [f' "{key}": [\n  ' + ",\n  ".join(json.dumps(item) for item in coco[key]) + "\n ]" for key in coco]
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    name, folder, *names = sys.argv[1:]
    target = SAMPLES / "annotations" / f"{name}.json"
    target.write_text(one_item_per_line(coco_from_voc(Path(folder), names)))
    print(f"Written: {target}")
