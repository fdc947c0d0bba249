"""Run the real MMDetection in a process of its own and read what it wrote."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deformable_detr_refine.inference.comparison import RawDetections

from .difference import Prediction

_RUNNER = Path(__file__).with_name("runner.py")
_LAST_LINES = 15


@dataclass(frozen=True)
class MMDetectionRun:
    """What MMDetection is to load and to look at.

    Attributes:
        settings: from `job.detector_settings`.
        checkpoint: a file that it may unpickle.
        images: numbers of the images that it sees one by one.
        batch: numbers of those that it sees once more, as one padded batch.
    """

    settings: dict[str, Any]
    checkpoint: Path
    images: Sequence[int] = ()
    batch: Sequence[int] = ()


@dataclass(frozen=True)
class MMDetectionPass:
    """One forward pass of MMDetection.

    Attributes:
        images: numbers of the images in it.
        pixels: (B, 3, height, width) float32, what entered its detector.
        resized: per image (h, w, 3) uint8 RGB, what its resizing gave.
        predictions: per image.
    """

    images: list[int]
    pixels: np.ndarray
    resized: list[np.ndarray]
    predictions: list[Prediction]


def run_mmdet(
    packages: Path, runs: Sequence[MMDetectionRun], images: Sequence[Path], folder: Path
) -> list[list[MMDetectionPass]]:
    """Carries out all runs in one process.

    Args:
        packages: what `set_up_mmdet` returned.
        runs: checkpoints.
        images: files.
        folder: where the job, the log and the arrays are written.

    Returns:
        Per run its passes: one per image, then the batch if there is one.

    Raises:
        ChildProcessError: MMDetection failed; with the last lines of its output, all of which is in FOLDER/mmdet.log.
    """
    outputs = [folder / f"mmdet{number}.npz" for number in range(len(runs))]
    job = {
        "images": [str(Path(image).absolute()) for image in images],
        "runs": [
            {
                **run.settings,
                "groups": {**{f"one{number}": [number] for number in run.images}, "batch": list(run.batch)},
                "checkpoint": str(run.checkpoint.absolute()),
                "output": str(output.absolute()),
            }
            for run, output in zip(runs, outputs, strict=True)
        ],
    }
    job_file = folder / "mmdet.job"
    job_file.write_text(repr(job), encoding="utf-8")
    python_path = os.pathsep.join(filter(None, (str(packages), os.environ.get("PYTHONPATH"))))
    # matplotlib, which mmdet imports, writes into the user's configuration otherwise.
    environment = {**os.environ, "PYTHONPATH": python_path, "MPLCONFIGDIR": str(folder / "matplotlib")}
    log = folder / "mmdet.log"
    with log.open("wb") as stream:
        command = [sys.executable, str(_RUNNER), str(job_file)]
        status = subprocess.run(command, env=environment, stdout=stream, stderr=subprocess.STDOUT).returncode
    if status:
        raise ChildProcessError(
            f"The real MMDetection stopped with status {status} (`ddetr verify --keep DIR` keeps all of its output). "
            f"The end of it: {_end(log)}"
        )
    return [_read(output, request["groups"]) for output, request in zip(outputs, job["runs"], strict=True)]


def _end(log: Path) -> str:
    """The last lines in one: the log's folder may be gone before anybody can look."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [" ".join(line.split()) for line in lines if line.strip()]
    return " | ".join(lines[-_LAST_LINES:]) or "no message"


def _read(file: Path, groups: dict[str, list[int]]) -> list[MMDetectionPass]:
    passes = []
    with np.load(file) as arrays:
        for group, members in groups.items():
            own = {name.partition(":")[2]: arrays[name] for name in arrays if name.startswith(f"{group}:")}
            if members:
                passes.append(_pass(own, members))
    return passes


def _pass(arrays: dict[str, np.ndarray], images: list[int]) -> MMDetectionPass:
    predictions = [
        Prediction(
            references=arrays["references"][n],
            logits=arrays["logits"][:, n],
            boxes=arrays["boxes"][:, n],
            found=RawDetections(arrays[f"bboxes{n}"], arrays[f"scores{n}"], arrays[f"labels{n}"]),
            image_size=tuple(arrays[f"size{n}"].tolist()),
        )
        for n in range(len(images))
    ]
    return MMDetectionPass(images, arrays["pixels"], [arrays[f"bytes{n}"] for n in range(len(images))], predictions)


__all__ = ["MMDetectionPass", "MMDetectionRun", "run_mmdet"]
