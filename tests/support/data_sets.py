"""Small data sets for the tests: generated images, and the same objects in every form."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from deformable_detr_refine.data.formats.load import load_detection_data

# Of every split the images: name, (width, height), boxes of (label, x, y, width, height).
NAMES = ("can", "carton", "milk bottle")
IDS = (1, 4, 44)
SPLITS = {
    "train": [
        ("a.jpg", (40, 30), [(0, 1, 2, 10, 20), (2, 5.5, 6.25, 30.125, 20)]),
        ("b.png", (33, 50), []),
        ("c.jpg", (64, 64), [(2, 0, 0, 64, 64)]),
    ],
    "validation": [("d.jpg", (40, 30), [(0, 3, 3, 7, 7)]), ("e.jpg", (17, 19), [(2, 1 / 3, 0.1, 3.7, 18.9)])],
}


def write_image(path: Path, size: tuple[int, int], orientation: int | None = None) -> Path:
    """An image of this width and height, with an EXIF orientation where one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (size[0], size[1], len(path.name)))
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


def image_bytes(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    return buffer.getvalue()


def coco_content(images: list, names=NAMES, ids=IDS, first: int = 1) -> dict:
    """The JSON of a COCO file, with every annotation's number counted from `first`."""
    content = {"images": [], "annotations": [], "categories": []}
    for number, (name, (width, height), boxes) in enumerate(images):
        content["images"].append({"id": number + 7, "file_name": name, "width": width, "height": height})
        for label, *bbox in boxes:
            bbox = [float(np.float32(value)) for value in bbox]
            content["annotations"].append(
                {
                    "id": first + len(content["annotations"]),
                    "image_id": number + 7,
                    "category_id": ids[label],
                    "bbox": bbox,
                    "area": float(np.float32(bbox[2] * bbox[3])),
                    "iscrowd": 0,
                }
            )
    content["categories"] = [{"id": number, "name": name} for number, name in zip(ids, names, strict=True)]
    return content


def write_coco_set(folder: Path, splits=SPLITS, names=NAMES, ids=IDS) -> Path:
    """COCO's own layout: annotations/instances_train2017.json and train2017/."""
    for split, images in splits.items():
        token = {"train": "train2017", "validation": "val2017"}[split]
        write_json(folder / "annotations" / f"instances_{token}.json", coco_content(images, names, ids))
        for name, size, _ in images:
            write_image(folder / token / name, size)
    return folder


def write_json(path: Path, content) -> Path:
    """JSON with every item of the top lists on a line of its own, so that tests can count lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        lists = [
            json.dumps(key) + ": [\n" + ",\n".join(json.dumps(item) for item in value) + "]"
            for key, value in content.items()
        ]
        path.write_text("{" + ",\n".join(lists) + "}")
    else:
        path.write_text(json.dumps(content))
    return path


def voc_text(objects: list, size=(40, 30), file_name: str = "") -> str:
    """A VOC file; `objects` are (name, xmin, ymin, xmax, ymax), each beginning on a line of its own from line 3 on."""
    name = f"<filename>{file_name}</filename>" if file_name else ""
    lines = ["<annotation>", f"{name}<size><width>{size[0]}</width><height>{size[1]}</height></size>"]
    for label, *corners in objects:
        box = "".join(
            f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        )
        lines.append(f"<object><name>{label}</name><bndbox>{box}</bndbox></object>")
    return "\n".join([*lines, "</annotation>"])


def write_voc_set(folder: Path, files: dict[str, list], annotations="Annotations", images="JPEGImages") -> Path:
    """VOC files by stem, with an image of 40x30 each."""
    for stem, objects in files.items():
        (folder / annotations).mkdir(parents=True, exist_ok=True)
        (folder / annotations / f"{stem}.xml").write_text(voc_text(objects))
        write_image(folder / images / f"{stem}.jpg", (40, 30))
    return folder


def same_rows(one, other, absolute: float = 0, without: tuple[str, ...] = ()) -> None:
    """Checks that two splits hold the same, columns of `without` aside, boxes up to some pixels."""
    assert one.features == other.features
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        a, b = ({**row, **row["objects"]} for row in (a, b))
        for name in ("image_id", "file_name", "width", "height", "id", "category", "iscrowd"):
            if name not in without:
                assert a[name] == b[name], name
        for name, tolerance in (("bbox", absolute), ("area", 100 * absolute)):
            assert np.shape(a[name]) == np.shape(b[name])
            assert np.allclose(np.array(a[name]), np.array(b[name]), rtol=0, atol=tolerance), name
        assert _pixels(a["image"]) == _pixels(b["image"])


def _pixels(image: dict) -> bytes:
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def kinds(source, **settings) -> list[str]:
    """The kinds of defects that loading finds and skips."""
    return [defect.kind for defect in load_detection_data(source, defects="skip", **settings).defects]
