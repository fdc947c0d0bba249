"""The proof: one checkpoint, some images, and the numbers of the code it comes from beside ours."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.inference.comparison import RawDetections
from deformable_detr_refine.inference.load_model import load_model, load_processor
from deformable_detr_refine.messages import counted
from deformable_detr_refine.modeling import load_image
from deformable_detr_refine.modeling.ops import backend_report

from ..code_bases import read_source
from ..convert import convert_checkpoint
from ..download.place import locate
from ..source import Source
from .difference import TOLERANCE, Prediction
from .environment import set_up_mmdet
from .inputs import Inputs, prepare
from .our_predictions import OurModel
from .process import MMDetectionPass, run_mmdet
from .report import OwnResize, Report, RoundTrip, SamePixels
from .stock import compare_stock, load_stock


def verify_checkpoint(
    checkpoint: str | Path,
    images: Sequence[str | Path],
    *,
    config: str | Path | None = None,
    keep: str | Path | None = None,
    round_trip: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Convert a checkpoint, run it here and in the code it comes from, and compare.

    Both run on the CPU in fp32: each image by itself, then, of MMDetection, two, of different sizes where there are
    such, as one padded batch. The real MMDetection 3.1.0 is installed once into a cache folder and runs in a process of
    its own. For a folder of stock transformers the installed transformers runs, of whose decoder the last layer is
    compared; nobody is asked for anything.

    Args:
        checkpoint: a file of MMDetection, or a folder (or its file of weights) of stock transformers; or, to be
            fetched, a name of `ddetr convert --list`, a URL, or OWNER/NAME on the Hub.
        images: image files.
        config: its config file, if the checkpoint does not carry it.
        keep: a folder for the converted model and all that MMDetection wrote; else it is thrown away.
        round_trip: also write the model back in MMDetection's form and let it load that; of its checkpoints only.
        say: told about every step.

    Raises:
        OSError: a file is not there or cannot be fetched, or MMDetection cannot be set up or run.
        CheckpointError: the checkpoint cannot be converted, or not be run by the code it comes from.
        ValueError: there is no image, or one cannot be read.
    """
    paths = [Path(image) for image in images]
    if not paths:
        raise ValueError("verify needs at least one image.")
    # Before the minutes begin: an image that cannot be read is told now.
    pictures = [load_image(path) for path in paths]
    checkpoint = locate(checkpoint).path
    kind, source = read_source(checkpoint, config=None if config is None else Path(config))
    if kind.name in ("original", "detrex"):
        raise CheckpointError(
            f"{checkpoint} is {kind.possessive}, whose code no package index has, so it cannot be run beside; this "
            "package's own tests compare with what that code computed of weights drawn at random."
        )
    if kind.name == "transformers":
        if round_trip:
            raise CheckpointError(f"{checkpoint} is {kind.possessive}, and --round-trip is for MMDetection's: drop it.")
        with _folder(keep) as folder:
            return _verify_stock(checkpoint, source, config, list(zip(paths, pictures, strict=True)), folder, say)
    with _folder(keep) as folder:
        say(f"converting {checkpoint}")
        inputs = prepare(checkpoint, None if config is None else Path(config), folder, say)
        every, batch = list(range(len(paths))), _batch([picture.size for picture in pictures])
        runs = [replace(inputs.run, images=every, batch=batch)]
        if round_trip:
            # One image is enough where the tensors are equal.
            runs.append(replace(inputs.exported_run, images=[0]))
        packages = set_up_mmdet(say)
        say(f"running the real MMDetection on {counted(len(paths), 'image')}")
        passes = run_mmdet(packages, runs, paths, folder)
        say("running this package's model")
        report = Report(str(checkpoint), {"MMDetection": "3.1.0", **_versions()})
        # MMDetection's own default is 100.
        kept = (inputs.run.settings["model"].get("test_cfg") or {}).get("max_per_img", 100)
        model = _load(inputs.model_folder, kept)
        for one in passes[0]:
            report.same_pixels += _same_pixels(model, one, paths)
        for number, picture in enumerate(pictures):
            report.own_resize.append(_own_resize(model, picture, passes[0][number], paths[number].name))
        if round_trip:
            report.round_trip = _compare_round_trip(inputs, *(run[0].predictions[0] for run in passes))
    return report


@contextmanager
def _folder(keep: str | Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="ddetr-verify-") as folder:
            yield Path(folder)
        return
    folder = Path(keep)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def _verify_stock(
    checkpoint: str | Path,
    source: Source,
    config: str | Path | None,
    images: Sequence[tuple[Path, Any]],
    folder: Path,
    say: Callable[[str], None],
) -> Report:
    say(f"converting {checkpoint}")
    convert_checkpoint(checkpoint, folder / "model", "transformers", config=config, force=True)
    model, theirs = _load(folder / "model"), load_stock(source)
    say(f"running transformers {version('transformers')} and this package on {counted(len(images), 'image')}")
    report = Report(str(checkpoint), _versions())
    report.same_pixels = [compare_stock(model, theirs, picture, path.name) for path, picture in images]
    return report


def _load(model_folder: Path, detections: int | None = None) -> OurModel:
    model, processor = load_model(model_folder, dtype=torch.float32), load_processor(model_folder)
    return OurModel(model.eval(), processor, processor.top_k if detections is None else detections)


def _batch(sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Numbers of the two images for the padded batch: the first, and the first of another size if there is one.

    Two show what padding does; MMDetection's attention takes about 2 GB for each image of 800x1333.
    """
    others = sorted(range(1, len(sizes)), key=lambda number: sizes[number] == sizes[0])
    return [0, others[0]] if others else []


def _same_pixels(model: OurModel, theirs: MMDetectionPass, paths: Sequence[Path]) -> Iterator[SamePixels]:
    """Rows of one pass: our model on MMDetection's own pixel tensor."""
    pixels = torch.from_numpy(theirs.pixels)
    prepared, mask = model.prepare(theirs.resized)
    if prepared.shape != pixels.shape:
        raise ValueError(
            f"MMDetection pads {paths[theirs.images[0]].name} to {tuple(pixels.shape)} and this package to "
            f"{tuple(prepared.shape)}: the config asks for padding that the image processor does not do."
        )
    in_batch = f" (in a batch of {len(theirs.images)})" if len(theirs.images) > 1 else ""
    ours = model.predict(pixels, mask, [prediction.image_size for prediction in theirs.predictions])
    for index, (mine, their) in enumerate(zip(ours, theirs.predictions, strict=True)):
        off = float((prepared[index] - pixels[index]).abs().max())
        yield model.compared(paths[theirs.images[index]].name + in_batch, pixels, mask, index, off, mine, their)


def _own_resize(model: OurModel, picture: Any, theirs: MMDetectionPass, name: str) -> OwnResize:
    """One image from its file on."""
    resized, their_resized = model.resize(picture), theirs.resized[0]
    levels = mean = None
    if resized.shape == their_resized.shape:
        difference = np.abs(resized.astype(np.int16) - their_resized.astype(np.int16))
        levels, mean = int(difference.max()), float(difference.mean())
    pixels, mask = model.prepare([resized])
    detections = model.predict(pixels, mask, [(picture.height, picture.width)])[0].found
    return OwnResize(
        image=name,
        shape=resized.shape[:2],
        their_shape=their_resized.shape[:2],
        grey_levels=levels,
        mean_grey_levels=mean,
        alike=_alike(detections, theirs.predictions[0].found),
        detections=len(theirs.predictions[0].found.scores),
    )


def _alike(ours: RawDetections, theirs: RawDetections) -> int:
    overlap = box_iou(torch.from_numpy(theirs.boxes), torch.from_numpy(ours.boxes)).numpy()
    close = np.abs(theirs.scores[:, None] - ours.scores[None]) <= 0.05
    same = theirs.labels[:, None] == ours.labels[None]
    return int(((overlap > 0.9) & close & same).any(1).sum())


def _compare_round_trip(inputs: Inputs, first: Prediction, second: Prediction) -> RoundTrip:
    weights, exported = inputs.weights, inputs.exported
    return RoundTrip(
        equal=sum(name in exported and torch.equal(tensor, exported[name]) for name, tensor in weights.items()),
        tensors=len(weights.keys() | exported.keys()),
        logits=float(np.abs(first.logits - second.logits).max()),
        boxes=float(np.abs(first.boxes - second.boxes).max()),
        tolerance=TOLERANCE,
    )


def _versions() -> dict[str, str]:
    return {
        "deformable-detr-refine": version("deformable-detr-refine"),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "attention by": next((str(entry["backend"]) for entry in backend_report("cpu") if entry["chosen"]), "none"),
    }


__all__ = ["verify_checkpoint"]
