"""The real MMDetection 3.1.0 as a detector to be timed: in a process of its own, which computes when it is told to and
is idle otherwise, so that its runs take turns with those of this process."""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from deformable_detr_refine import DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor
from deformable_detr_refine.conversion.mmdet.weights import weights_to_3x
from deformable_detr_refine.conversion.mmdet_config.text import read_config_text
from deformable_detr_refine.conversion.mmdet_config.writer import mmdet_config_text
from deformable_detr_refine.conversion.proof.environment import set_up_mmdet
from deformable_detr_refine.conversion.proof.job import detector_settings

WORKER = Path(__file__).with_name("mmdetection_worker.py")
RUNNER = Path(__file__).parents[1] / "conversion" / "proof" / "runner.py"


class MMDetection:
    """Installs MMDetection once (see `set_up_mmdet`), starts it and gives it a model's weights.

    Raises:
        OSError: it cannot be installed.
        ChildProcessError: its process ended, at the start or later; with the last line of what it wrote.
    """

    def __init__(self, model: DeformableDetrRefineForObjectDetection, folder: Path, threads: int) -> None:
        packages = set_up_mmdet(lambda text: print(text, file=sys.stderr))
        labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
        text = mmdet_config_text(model.config, DeformableDetrRefineImageProcessor(), labels)
        torch.save({"state_dict": weights_to_3x(model.state_dict(), model.config)}, folder / "weights.pth")
        job = {
            "runner": str(RUNNER),
            "model": detector_settings(read_config_text(text, "the model's config"), "the model's config")["model"],
            "checkpoint": str(folder / "weights.pth"),
            "threads": threads,
        }
        (folder / "job").write_text(repr(job), encoding="utf-8")
        self.folder, self.log = folder, folder / "mmdetection.log"
        # matplotlib, which mmdet imports, writes into the user's configuration otherwise.
        environment = {**os.environ, "PYTHONPATH": str(packages), "MPLCONFIGDIR": str(folder / "matplotlib")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(WORKER), str(folder / "job")],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdin and self.process.stdout  # both are pipes
        self.questions, self.answers = self.process.stdin, self.process.stdout
        self._answer()

    def take(self, batch: Mapping[str, object]) -> None:
        """The batch of all that follows."""
        torch.save(batch, self.folder / "batch.pt")
        self._ask(f"take {self.folder / 'batch.pt'}")

    def inference(self) -> None:
        self._ask("inference")

    def training(self) -> None:
        self._ask("training")

    def peak_memory(self) -> float:
        """Peak resident memory of one training step, in GB beyond the model itself; the first thing to ask for."""
        return float(self._ask("memory"))

    def best_scores(self) -> torch.Tensor:
        """The 100 best of the first image, the highest first."""
        return torch.tensor([float(score) for score in self._ask("scores").split()])

    def close(self) -> None:
        """Its input ends, and so does it."""
        self.questions.close()
        self.process.wait()

    def _ask(self, command: str) -> str:
        with suppress(BrokenPipeError):  # it has ended, which the missing answer tells
            print(command, file=self.questions, flush=True)
        return self._answer()

    def _answer(self) -> str:
        line = self.answers.readline()
        if not line:
            status = self.process.wait()
            lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
            raise ChildProcessError(f"its process ended with status {status}: {last}")
        return line.strip()
