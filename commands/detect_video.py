"""`ddetr detect` of a video: a line for each frame, and the frames drawn."""

import argparse
import json
import math
import sys
import time
from collections import Counter
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .detect import OWN, found_fields
from .output import results_folder


def run_video(args: argparse.Namespace, model: str, source: str, tiling: Any) -> int:
    """Detects in one video; what breaks off is told and gives what could be read.

    Args:
        args: of `ddetr detect`.
        model: what to detect with.
        source: a file, a camera's number or an address.
        tiling: a `Tiling`, or None.
    """
    from deformable_detr_refine.inference.detector import Detector
    from deformable_detr_refine.inference.video import Video, VideoWriter

    every, start = args.every or 1, args.start or 0.0
    if args.end is not None and args.end <= start:
        raise ValueError(f"The end, {args.end:g} s, is not after the start, {start:g} s.")
    with Video(source) as video:
        if tiling is not None:
            tiling.check([video.size])
        detector = Detector(model, args.device, batch_size=args.batch_size, tiling=tiling, revision=args.revision)
        threshold = detector.network.threshold if args.threshold is None else args.threshold
        boxes: Counter[str] = Counter()
        frames, first, size, began = 0, 0.0, (0, 0), time.monotonic()
        with (
            results_folder(args.output, OWN) as folder,
            tqdm(total=_expected(video, every, start, args.end), unit="frame", disable=None) as progress,
            (folder / "detections.jsonl").open("w", encoding="utf-8") as lines,
            VideoWriter(folder / "drawn.mp4", video.rate / every) if args.draw else nullcontext() as writer,
        ):
            found_in = detector.video(
                video, threshold, args.top_k, every=every, start=start, end=args.end, track=args.track
            )
            try:
                with closing(found_in):  # and so the thread that reads, before the video is closed
                    for frame, found in found_in:
                        first = first if frames else frame.seconds
                        lines.write(_line(frame, found) + "\n")
                        if writer is not None:
                            writer.write(found.draw(frame.image), frame.seconds - first)
                        frames, size = frames + 1, frame.image.size
                        boxes.update(found.names)
                        progress.update()
            except KeyboardInterrupt:
                if not video.is_live:  # which has no other end
                    raise
            if not frames:
                raise ValueError(video.problem or f"{video.name} has no frame from {start:g} s on.")
        taken = time.monotonic() - began
    if args.json:
        sys.stdout.write((args.output / "detections.jsonl").read_text(encoding="utf-8"))
    else:
        print(_summary(video, size, frames, boxes, threshold, taken))
        drawn = f", {args.output / 'drawn.mp4'}" if args.draw else ""
        print(f"Written: {args.output / 'detections.jsonl'}{drawn}")
        if args.draw and video.has_sound:
            print("The drawn video is without the sound.")
        if model is not args.words[0]:
            print(f"Found by the package's own detector, {Path(model).name}, which knows nothing else.")
    if video.problem:
        print(f"ddetr detect: {video.problem}", file=sys.stderr)
    return 1 if video.problem else 0


def _line(frame: Any, found: Any) -> str:
    from deformable_detr_refine.modeling.image_io import as_text

    record = {"frame": frame.number, "seconds": frame.seconds, **found_fields(found)}
    if found.ids is not None:
        record["ids"] = found.ids.tolist()
    return as_text(json.dumps(record, ensure_ascii=False))


def _expected(video: Any, every: int, start: float, end: float | None) -> int | None:
    """About how many frames will be looked at, if that can be known."""
    if video.is_live or not video.count:
        return None
    last = video.count if end is None else min(video.count, math.ceil(end * video.rate))
    return max(math.ceil((last - start * video.rate) / every), 1)


def _summary(
    video: Any, size: tuple[int, int], frames: int, boxes: Counter[str], threshold: float, seconds: float
) -> str:
    from deformable_detr_refine.messages import counted, printable

    head = f"{printable(video.name)}: {size[0]}x{size[1]}, {video.rate:.4g} frames/s"
    by_class = ", ".join(f"{count:,} {printable(name)}" for name, count in boxes.most_common(6))
    return (
        f"{head}\n{counted(frames, 'frame')} looked at, {frames / seconds:.3g} a second; "
        f"{counted(boxes.total(), 'box', 'boxes')} above {threshold:g}: "
        f"{by_class or 'a lower --threshold shows weaker ones'}"
    )
