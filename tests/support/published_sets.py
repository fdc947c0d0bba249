"""Archives as the published ones are laid out, made of the sample images."""

import io
import json
import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

SAMPLES = Path(__file__).parents[2] / "samples"


def voc_files(name: str) -> dict[str, str]:
    """Stem -> Pascal VOC text, of the sample images in annotations/NAME.json."""
    coco = json.loads((SAMPLES / "annotations" / f"{name}.json").read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    files = {}
    for image in coco["images"]:
        objects = []
        for item in coco["annotations"]:
            if item["image_id"] == image["id"]:
                x, y, w, h = item["bbox"]
                corners = {"xmin": x, "ymin": y, "xmax": x + w, "ymax": y + h}
                box = "\n".join(f"   <{corner}>{value}</{corner}>" for corner, value in corners.items())
                label = escape(names[item["category_id"]])
                objects.append(f" <object>\n  <name>{label}</name>\n  <bndbox>\n{box}\n  </bndbox>\n </object>\n")
        size = f"<size><width>{image['width']}</width><height>{image['height']}</height><depth>3</depth></size>"
        head = f"<annotation>\n <filename>{image['file_name']}</filename>\n {size}\n"
        files[Path(image["file_name"]).stem] = head + "".join(objects) + "</annotation>\n"
    return files


def zipped(files: dict[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def fridge_files() -> dict[str, bytes | str]:
    """Path -> content, as odFridgeObjects.zip has them, of its 5 images among the samples."""
    files: dict[str, bytes | str] = {}
    for stem, voc in voc_files("fridge").items():
        files[f"odFridgeObjects/annotations/{stem}.xml"] = voc
        files[f"odFridgeObjects/images/{stem}.jpg"] = (SAMPLES / "images" / f"{stem}.jpg").read_bytes()
    return files


def bccd_files() -> dict[str, bytes | str]:
    """Path -> content, as the BCCD repository's archive has them, of its 3 images among the samples."""
    voc = voc_files("blood_cells")
    first, *others = voc
    files: dict[str, bytes | str] = {
        "BCCD_Dataset-master/LICENSE": "MIT License\n",
        "BCCD_Dataset-master/README.md": "# BCCD\n",
        "BCCD_Dataset-master/example.jpg": b"no part of the set",
        "BCCD_Dataset-master/BCCD/ImageSets/Main/train.txt": "".join(f"{stem}\n" for stem in others),
        "BCCD_Dataset-master/BCCD/ImageSets/Main/val.txt": first,
        "BCCD_Dataset-master/BCCD/ImageSets/Main/trainval.txt": "".join(f"{stem}\n" for stem in voc),
    }
    for stem, text in voc.items():
        files[f"BCCD_Dataset-master/BCCD/Annotations/{stem}.xml"] = text
        files[f"BCCD_Dataset-master/BCCD/JPEGImages/{stem}.jpg"] = (SAMPLES / "images" / f"{stem}.jpg").read_bytes()
    return files
