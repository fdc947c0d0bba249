"""`ddetr detect`: objects in images, as a JSON file, a table and drawn pictures."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .arguments import (
    OWN_THRESHOLD,
    add_batch_size,
    add_device,
    add_json,
    add_revision,
    add_threshold,
    add_tiles,
    add_top_k,
    positive_int,
    seconds,
    tiling_of,
)
from .default_model import model_and_images, spare_torch
from .images import find_images_and_faults, is_video, picture_names
from .output import check_results_folder, results_folder

DESCRIPTION = """\
Finds objects in images. DIR/detections.json lists, in the order of the images:
  {"image", "width", "height", "boxes": [[x0, y0, x1, y1]], "scores", "labels"}
Boxes are corners in pixels of the original image (turned upright by its EXIF orientation), best first; labels are
names. What cannot be read (a file that is not there or no image, a URL, an empty folder) is told and has an entry with
"error"; the others go on, and the exit status is 1. Where none can be read, nothing is written. What else a folder
holds is counted and told. Bytes of file names that are no UTF-8 stand as %E9.

A video (a file, a camera's number, an rtsp address, or an http one that ends as a file of videos) is detected frame by
frame; DIR/detections.jsonl has a line for each:
  {"frame", "seconds", "width", "height", "boxes", "scores", "labels"}, with --track also "ids" (-1: not followed yet)
"frame" counts from 0, "seconds" from the first frame.
"""
EXAMPLES = """\
examples:
  ddetr detect cells.jpg
  ddetr detect detector photo.jpg --output found --draw
  ddetr detect detector photos/ 'more/**/*.png' https://example.org/a.jpg --output found --threshold 0.5
  ddetr detect detector photos/ --output found --json | python -m json.tool
  ddetr detect detector harbour.tif --output found --tile-size 640 --batch-size 4
  ddetr detect detector clip.mp4 --output found --draw --track
"""
TABLE_ROWS = 20
# What it writes, of images or of a video.
OWN = ("detections.json", "drawn/", "detections.jsonl", "drawn.mp4")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        metavar="[MODEL] IMAGE",
        nargs="+",
        help="a model folder (of `ddetr train` or `ddetr convert`), an .onnx file or a Hub name, without which "
        "the package's own detector of blood cells is taken; then files, folders, glob patterns or URLs, or one video",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("found"),
        help="where detections.json goes (default: the folder found, here)",
    )
    add_threshold(parser, f"least score, 0..1 ({OWN_THRESHOLD})")
    add_top_k(parser)
    parser.add_argument(
        "--draw",
        action="store_true",
        help="also write pictures with the boxes, DIR/drawn/NAME.jpg, or a video, DIR/drawn.mp4",
    )
    add_batch_size(parser, 1)
    add_device(parser)
    add_revision(parser)
    add_tiles(parser)
    video = parser.add_argument_group("videos")
    video.add_argument("--every", metavar="N", type=positive_int, help="only every N-th frame")
    video.add_argument("--start", metavar="S", type=seconds, help="seconds to leave out at the beginning")
    video.add_argument("--end", metavar="S", type=seconds, help="seconds after which nothing is looked at")
    video.add_argument("--track", action="store_true", help="give the same object the same number in every frame")
    add_json(parser, "print the content of detections.json instead of a table")


def run(args: argparse.Namespace) -> int:
    source, image_words = model_and_images(args.words)
    spare_torch(source)
    tiling = tiling_of(args)
    if any(map(is_video, image_words)):
        if len(image_words) > 1:
            raise ValueError(
                f"A video is detected by itself: give one video and nothing beside it, not {len(image_words)}."
            )
        check_results_folder(args.output, OWN)
        from .detect_video import run_video

        return run_video(args, source, image_words[0], tiling)
    if only := [f"--{name}" for name in ("every", "start", "end", "track") if getattr(args, name)]:
        raise ValueError(f"{only[0]} is for videos.")
    images, faults, left_out = find_images_and_faults(image_words)
    for text in left_out:
        print(f"ddetr detect: {text}.", file=sys.stderr)
    names = picture_names(images)
    check_results_folder(args.output, OWN)

    from deformable_detr_refine.files import full_disk
    from deformable_detr_refine.inference.detector import DetectionFailure, Detector
    from deformable_detr_refine.modeling.image_io import as_text

    if tiling is not None:
        tiling.check_images(image for index, image in enumerate(images) if index not in faults)
    detector = Detector(source, args.device, batch_size=args.batch_size, tiling=tiling, revision=args.revision)
    threshold = detector.network.threshold if args.threshold is None else args.threshold
    records: list[dict[str, Any]] = [{} for _ in images]
    undrawn, failed = 0, []
    sources = ((i, DetectionFailure(faults[i]) if i in faults else image) for i, image in enumerate(images))
    with results_folder(args.output, OWN) as folder, tqdm(total=len(images), unit="image", disable=None) as progress:
        if args.draw:
            (folder / "drawn").mkdir()
        for index, image, detections in detector.detect_each(sources, threshold, args.top_k):
            name = as_text(images[index])
            if isinstance(detections, DetectionFailure):
                records[index] = _failure(name, detections)
                failed.append(records[index]["error"])
                if len(images) > 1:
                    tqdm.write(f"ddetr detect: {failed[-1]}", file=sys.stderr)
            else:
                records[index] = {"image": name, **found_fields(detections)}
                if args.draw:
                    try:
                        detections.draw(image).save(folder / "drawn" / f"{names[index]}.jpg", quality=92)
                    except (OSError, ValueError) as error:  # the boxes are worth more than their picture
                        if full_disk(error, folder):
                            raise
                        undrawn += 1
                        tqdm.write(f"ddetr detect: the picture of {name} is not written: {error}", file=sys.stderr)
            progress.update()
        if len(failed) == len(images):
            raise ValueError(failed[0] if len(images) == 1 else f"None of {len(images)} images can be used.")
        text = "[\n" + ",\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n]\n"
        (folder / "detections.json").write_text(as_text(text), encoding="utf-8")

    if args.json:
        sys.stdout.write(text)
    else:
        print(_table(records, threshold))
        if source is not args.words[0]:
            print(f"Found by the package's own detector, {Path(source).name}, which knows nothing else.")
        drawn = f", {args.output / 'drawn'}" if args.draw else ""
        print(f"Written: {args.output / 'detections.json'}{drawn}")
    return 1 if undrawn or failed else 0


def _failure(name: str, failure: Any) -> dict[str, Any]:
    """The record of an image without result."""
    text = failure.error if name in failure.error else f"{name}: {failure.error}"
    height, width = failure.image_size or (None, None)
    return {"image": name, "width": width, "height": height, "boxes": [], "scores": [], "labels": [], "error": text}


def found_fields(detections: Any) -> dict[str, Any]:
    """What a record says of an image's or a frame's detections."""
    from deformable_detr_refine.inference.detections import short_floats

    height, width = detections.image_size
    return {
        "width": width,
        "height": height,
        "boxes": short_floats(detections.boxes),
        "scores": short_floats(detections.scores),
        "labels": detections.names,
    }


def _table(records: Sequence[dict[str, Any]], threshold: float) -> str:
    """The first images with what is in them, then how often each class was found."""
    from deformable_detr_refine.messages import counted, printable

    rows = [("image", "size", "boxes", "found")]
    for record in records[:TABLE_ROWS]:
        if "error" in record:
            rows.append((_short(record["image"]), "-", "-", "failed"))
        else:
            counts = Counter(record["labels"])
            by_class = ", ".join(f"{count} {printable(name)}" for name, count in counts.most_common(4))
            more = f", {len(counts) - 4} more classes" if len(counts) > 4 else ""
            size = f"{record['width']}x{record['height']}"
            rows.append((_short(record["image"]), size, str(len(record["labels"])), by_class + more))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]).rstrip() for row in rows
    ]
    if len(records) > TABLE_ROWS:
        lines.append(f"... and {len(records) - TABLE_ROWS} more images")
    boxes = sum(len(record["labels"]) for record in records)
    bad = sum("error" in record for record in records)
    total = f"{counted(len(records), 'image')}, {counted(boxes, 'box', 'boxes')} above {threshold:g}"
    total += f", {bad} failed" if bad else ""
    return "\n".join([*lines, total if boxes else f"{total}: a lower --threshold shows weaker ones"])


def _short(name: str, length: int = 48) -> str:
    from deformable_detr_refine.messages import without_controls

    name = without_controls(name)
    return name if len(name) <= length else "..." + name[-length + 3 :]
