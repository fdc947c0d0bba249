"""Data sets of forms that are not read: named as what they are, with what to export instead."""

import json
import re
from pathlib import Path

from deformable_detr_refine.messages import printable
from deformable_detr_refine.modeling.image_io import as_text

from .image_files import files_in
from .yolo_lines import looks_like_labels

_HEAD = 2**16
_MOST_FILES = 200
# What a file's name ends in, what its beginning holds (all of it), and what it is then.
_FORMS: tuple[tuple[str, tuple[bytes, ...], str], ...] = (
    (
        ".xml",
        (rb"<annotations[\s>]",),
        "CVAT's own XML: export the task as COCO 1.0, Pascal VOC 1.1 or Ultralytics YOLO Detection 1.0",
    ),
    (".xml", (rb"<annotation[\s>]",), "one file of Pascal VOC: give its folder"),
    (
        ".json",
        (rb"^\s*\{\s*\"categories\"", rb"Label Studio"),
        "Label Studio's list of classes beside its YOLO export: write a data.yaml with `train: images` and the `names` "
        "of classes.txt, or export as COCO",
    ),
    (
        ".json",
        (rb"^\s*\[", rb"\"(from_name|original_width|rectanglelabels)\""),
        "Label Studio's own JSON: export the project as COCO, or as Pascal VOC XML",
    ),
    (
        ".json",
        (rb"^\s*\[", rb"\"image_id\"", rb"\"score\""),
        "a list of detections in COCO's form, which names no image and no class: give the annotations",
    ),
    (".json", (rb"^\s*\[", rb"\"coordinates\""), "CreateML's JSON: export as COCO JSON, or as Pascal VOC"),
    (
        ".json",
        (rb"\"shapes\"", rb"\"imagePath\""),
        "LabelMe's JSON: convert the folder with LabelMe's own labelme2coco.py or labelme2voc.py",
    ),
    (
        ".json",
        (rb"\"_via_|\"shape_attributes\"",),
        "VGG Image Annotator's JSON: export the annotations in COCO's format",
    ),
    (
        ".data",
        (rb"(?m)^\s*train\s*=", rb"(?m)^\s*names\s*="),
        "darknet's list: write a data.yaml beside it with `train: train.txt` and the `names` of its .names file; the "
        "labels stay as they are",
    ),
    (
        ".csv",
        (),
        "a table in CSV, which has no one form for boxes: write COCO JSON, or metadata.jsonl beside the images",
    ),
    (".tfrecord", (), "a TFRecord: export as COCO JSON, or as Pascal VOC"),
    (".record", (), "a TFRecord: export as COCO JSON, or as Pascal VOC"),
)
_NO_YAML = "YOLO's labels without their data.yaml: write one with `train:` (the folder of images) and `names:`"


def foreign_form(source: Path) -> str | None:
    """A sentence that says what a file or a folder holds, where that is a form that is known but not read.

    Also of a JSON file given by name that is none.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.json").write_text('{"version": "5.4", "shapes": [], "imagePath": "a.jpg"}')
        ...     foreign_form(Path(folder)).removeprefix(folder)
        "/a.json is LabelMe's JSON: convert the folder with LabelMe's own labelme2coco.py or labelme2voc.py."
    """
    if source.is_file():
        files = [source]
    else:
        files = [file for pattern in ("*", "*/*", "*/*/*") for file in files_in(source, pattern)[:_MOST_FILES]]
    for file in files:
        if what := _form_of(file):
            return f"{as_text(str(file))} is {what}."
    if source.suffix.lower() == ".json" and source.is_file() and source.stat().st_size <= _HEAD:
        try:
            json.loads(source.read_bytes())
        except (ValueError, RecursionError) as error:
            return f"{as_text(str(source))} is no valid JSON: {printable(str(error))}."
    labels = [
        file for file in files if file.suffix.lower() == ".txt" and file.stat().st_size and looks_like_labels(file)
    ]
    return f"{as_text(str(labels[0].parent))} holds {_NO_YAML}." if labels else None


def _form_of(file: Path) -> str | None:
    likely = [form for form in _FORMS if file.suffix.lower() == form[0]]
    if not likely:
        return None
    with file.open("rb") as opened:
        head = opened.read(_HEAD).removeprefix(b"\xef\xbb\xbf")
    return next((what for _, needed, what in likely if all(re.search(each, head) for each in needed)), None)


__all__ = ["foreign_form"]
