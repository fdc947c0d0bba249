"""Names of the classes: COCO's 80, its 91 ids, and a file of the user's."""

import json
from pathlib import Path
from typing import Any

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.messages import near

# fmt: off
COCO_NAMES: tuple[str, ...] = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on
# Ids up to 90 that COCO never gave an object; 0 is no id at all.
_UNUSED = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_IDS = tuple(number for number in range(91) if number not in _UNUSED)
# A head of 91 has an output for each id.
COCO_91_NAMES = tuple(
    f"unused_{number}" if number in _UNUSED else COCO_NAMES[COCO_IDS.index(number)] for number in range(91)
)


def read_label_file(path: str | Path) -> list[str]:
    """Class names, one a line or a JSON list, in the order of the model's classes.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is not a list of names.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of class names {path}{near(path)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not a text file of class names: {error}.") from error
    if not text.lstrip().startswith("["):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a JSON list of class names: {error}.") from error
    if not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path} is a JSON list of something other than names.")
    return names


def names_in(entry: Any) -> list[str] | None:
    """The class names of a `dataset_meta` or `meta`, however they are spelt."""
    for key in ("CLASSES", "classes"):
        names = entry.get(key) if isinstance(entry, dict) else None
        names = [names] if isinstance(names, str) else names
        if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
            return list(names)
    return None


def choose_names(count: int, candidates: list[tuple[list[str] | None, str]], where: str) -> tuple[list[str], str]:
    """The names of `count` classes and where they come from: the first candidate there is, else COCO, else numbers.

    Raises:
        CheckpointError: the first candidate that is there has another number of names, or one name twice.
    """
    for names, origin in candidates:
        if names is None:
            continue
        if len(names) != count:
            raise CheckpointError(
                f"{where}: {origin} names {len(names)} classes, but the weights have {count}; give --classes FILE."
            )
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise CheckpointError(
                f"{where}: {origin} names {twice[0]!r} twice; give --classes FILE with distinct names."
            )
        return list(names), origin
    if count == len(COCO_NAMES):
        return list(COCO_NAMES), "COCO's 80 names (the checkpoint has none)"
    return [f"LABEL_{index}" for index in range(count)], "numbered (the checkpoint has no names; --classes gives them)"


__all__ = ["COCO_91_NAMES", "COCO_IDS", "COCO_NAMES", "choose_names", "names_in", "read_label_file"]
