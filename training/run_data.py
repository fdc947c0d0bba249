"""The images that a run trains and evaluates on: read, split, and checked before its first step."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

from accelerate.utils import gather_object
from transformers import TrainingArguments

from deformable_detr_refine.data.defects import (
    DataError,
    Defect,
    box_form_notes,
    command_line_words,
    count_defects,
    first_of,
    refuse_losses,
)
from deformable_detr_refine.data.detection_data import DetectionData, split_every
from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.data.inspection.damaged_images import damaged_images
from deformable_detr_refine.messages import counted, printable

from .arguments import DataArguments

# Smaller images are left out of training, as in MMDetection (filter_cfg min_size).
LEAST_IMAGE_SIDE = 32
TOO_THIN = "too thin"


@dataclass(frozen=True)
class RunData:
    """Rows to train on, and rows to evaluate on (None when there are none), both in the canonical form.

    Args:
        data: the data set, whose label map counts for both.
        validation_source: where the validation rows come from.
    """

    data: DetectionData
    train: Any
    validation: Any
    validation_source: str


def read_run_data(args: DataArguments, say: Callable[[str], None]) -> RunData:
    """Reads annotations, and makes the splits.

    Args:
        args: the run's settings.
        say: is told what is left out.

    Raises:
        FileNotFoundError, ValueError: there is no such data set or split, or its defects would lose something.
    """
    if not args.data:
        raise ValueError("There is no data set to train on: give --data FOLDER (or `data:` in the settings file).")
    with command_line_words():
        data = _loaded(args.data, args, say)
        other = _loaded(args.validation_data, args, say, data) if args.validation_data else None
    rows, source = data[args.train_split], data.source
    if other is not None:
        # A set of its own has often one split only, whatever it is called.
        only = next(iter(other.splits)) if len(other.splits) == 1 else args.validation_split
        validation, source = other[only], other.source
    elif args.split_every:
        split = split_every(rows, args.split_every)
        rows, validation = split["train"], split["validation"]
    else:
        # Only the default's name may be missing: the data then has no validation split.
        is_default = args.validation_split == DataArguments.validation_split
        validation = data.splits.get(args.validation_split) if is_default else data[args.validation_split]
    if validation is not None and (shared := len(_image_paths(rows) & _image_paths(validation))):
        say(f"Warning: {counted(shared, 'image')} to train on will be evaluated on too, where the AP means little.")
    sides = zip(rows["width"], rows["height"], strict=True)
    kept = [index for index, sides in enumerate(sides) if min(sides) >= LEAST_IMAGE_SIDE]
    if len(kept) < len(rows):
        say(f"{len(rows) - len(kept)} images with a side below {LEAST_IMAGE_SIDE} pixels are left out of training.")
        rows = rows.select(kept)
    if not len(rows):
        raise DataError(f"{data.source}: {args.train_split} has no image to train on.")
    _check_objects(rows, data.source, args.train_split)
    return RunData(data, rows, validation, source)


def usable_images(
    run_data: RunData, processor: Any, args: DataArguments, training: TrainingArguments, say: Callable[[str], None]
) -> RunData:
    """The same without images that could not be used; all processes come here, each decodes its share.

    Args:
        run_data: what was read.
        processor: the image processor, which refuses images that are too thin.
        args: `check_images` says whether images are decoded, `defects` whether a damaged one is an error.
        training: names this process among all.
        say: is told what is left out, and how long it took.

    Raises:
        DataError: images are damaged, and `defects` is "error".
    """
    start, defects, kept, checked = time.monotonic(), [], {}, 0
    for name, rows, source in (
        ("train", run_data.train, run_data.data.source),
        ("validation", run_data.validation, run_data.validation_source),
    ):
        if rows is None:
            continue
        bad = _too_thin(rows, processor)
        if args.check_images:
            mine = range(training.process_index, len(rows), training.world_size)
            damaged = damaged_images(rows, mine, name, source, progress=training.process_index == 0)
            bad |= dict(gather_object(list(damaged.items())))
            checked += len(rows)
        defects += [bad[index] for index in sorted(bad)]
        kept[name] = rows.select([index for index in range(len(rows)) if index not in bad]) if bad else rows
    if checked:
        say(f"Images: {checked} decoded in {time.monotonic() - start:.1f} s, {len(defects)} cannot be used.")
    if args.defects == "error":
        with command_line_words():
            refuse_losses(defects, run_data.data.source)
    if defects:
        say(f"Left out: {_listed(defects)}")
    for name, rows in kept.items():
        if not len(rows):
            raise DataError(f"{run_data.data.source}: no image of {name} can be used; the first: {defects[0]}.")
    _check_objects(kept["train"], run_data.data.source, "train")
    return replace(run_data, **kept)


def _image_paths(rows: Any) -> set[str]:
    """Where the images lie that are files of their own."""
    images = rows.select_columns("image").with_format("arrow")
    batches = (batch.column("image").combine_chunks() for batch in images.iter(1000))
    pairs = ((batch.field("path"), batch.field("bytes").is_null()) for batch in batches)
    return {path for paths, own in pairs for path in paths.filter(own).to_pylist() if path}


def _check_objects(rows: Any, source: str, split: str) -> None:
    """Refuses rows without any object to learn from."""
    crowds = 0
    for batch in rows.select_columns("objects").iter(100):
        for objects in batch["objects"]:
            if not all(objects["iscrowd"]):
                return
            crowds += len(objects["iscrowd"])
    what = f"only crowds ({crowds}), which are not trained on" if crowds else "no box"
    raise DataError(f"{source}: {split} holds {what}: there is nothing to learn in {counted(len(rows), 'image')}.")


def _loaded(
    source: str, args: DataArguments, say: Callable[[str], None], training: DetectionData | None = None
) -> DetectionData:
    label_map = training.label_map if training else None
    # It refuses another word itself.
    data = load_detection_data(source, label_map=label_map, defects=cast("Any", args.defects))
    for text in box_form_notes(data.defects):
        say(f"{text}.")
    if data.defects and args.defects == "skip":
        counts = ", ".join(f"{kind} {count}" for kind, count in count_defects(data.defects).items())
        say(f"Left out or clipped{' of the validation data' if training else ''}: {counts}.")
    return data


def _too_thin(rows: Any, processor: Any) -> dict[int, Defect]:
    """Images of which the processor would leave a side of 0."""
    thin, sizes = {}, list(zip(rows["height"], rows["width"], strict=True))
    refused = {}
    for size in set(sizes):
        try:
            processor.resized_shape(*size)
        except ValueError as error:
            refused[size] = str(error).rstrip(".")
    if refused:
        for index, (size, name) in enumerate(zip(sizes, rows["file_name"], strict=True)):
            if size in refused:
                thin[index] = Defect(TOO_THIN, printable(name), printable(name), refused[size], loses="image")
    return thin


def _listed(defects: Iterable[Defect]) -> str:
    defects = list(defects)
    counts = ", ".join(f"{kind} {count}" for kind, count in count_defects(defects).items())
    return counts + first_of(defects)
