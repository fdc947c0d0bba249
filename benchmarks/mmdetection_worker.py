"""MMDetection's detector, doing what its standard input says. A script in a process of its own, never imported.

    PYTHONPATH=FOLDER_OF_MMDETECTION python mmdetection_worker.py JOB

JOB is a text file holding one Python literal: {"runner": PATH of conversion/proof/runner.py, "model": DICT,
"checkpoint": PATH, "threads": N}. It writes one line when it is ready and one when each command is done: `take FILE`,
`inference`, `training`, `memory` (its answer: GB) or `scores` (its answer: the 100 best).
"""

# pyright: reportMissingImports=false
# (mmdet and mmengine stand in the environment of their own in which this script runs)
import ast
import runpy
import sys
import warnings
from pathlib import Path

from timing import resident


class Detector:
    def __init__(self, job: dict) -> None:
        import torch
        from mmdet.registry import MODELS
        from mmdet.utils import register_all_modules
        from mmengine.config import ConfigDict
        from mmengine.runner import load_checkpoint

        torch.set_num_threads(job["threads"])
        register_all_modules(init_default_scope=True)
        self.model = MODELS.build(ConfigDict(job["model"]))
        load_checkpoint(self.model, job["checkpoint"], map_location="cpu", strict=True)
        self.pixels = self.samples = None

    def take(self, file: str) -> None:
        import torch
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData

        batch = torch.load(file)
        self.pixels, self.samples = batch["pixel_values"], []
        height, width = shape = tuple(self.pixels.shape[-2:])
        for label in batch["labels"]:
            centre, size = label["boxes"].split(2, dim=-1)
            boxes = torch.cat((centre - size / 2, centre + size / 2), -1) * torch.tensor([width, height] * 2)
            meta = {"img_shape": shape, "ori_shape": shape, "batch_input_shape": shape, "scale_factor": (1.0, 1.0)}
            truth = InstanceData(bboxes=boxes, labels=label["class_labels"])
            self.samples.append(DetDataSample(metainfo=meta, gt_instances=truth))

    def inference(self):
        """Logits and boxes of all decoder layers, under no_grad as in MMDetection's own test loop."""
        import torch

        self.model.eval()
        with torch.no_grad():
            return self.model(self.pixels, self.samples, mode="tensor")

    def training(self) -> None:
        self.model.train()
        self.model.zero_grad()
        loss, _ = self.model.parse_losses(self.model(self.pixels, self.samples, mode="loss"))
        loss.backward()

    def memory(self) -> float:
        before = resident("VmRSS")
        self.training()
        return (resident("VmHWM") - before) / 2**20

    def scores(self) -> str:
        logits, _ = self.inference()
        best = logits[-1, 0].sigmoid().flatten().topk(100).values
        return " ".join(map(repr, best.tolist()))


def main(job_file: str) -> None:
    # The script's own folder comes first on the path, and its file names could hide others'.
    sys.path[:] = [entry for entry in sys.path if Path(entry).absolute() != Path(__file__).absolute().parent]
    answers, sys.stdout = sys.stdout, sys.stderr  # MMDetection prints
    job = ast.literal_eval(Path(job_file).read_text(encoding="utf-8"))
    sys.modules["mmcv._ext"] = runpy.run_path(job["runner"])["CompiledOperators"]("mmcv._ext")
    # Told by today's torch and Python about code of 2023, which nobody here can change.
    warnings.simplefilter("ignore")

    detector = Detector(job)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        command, *arguments = line.strip().split(" ", 1)
        result = getattr(detector, command)(*arguments)
        print(result if command in ("memory", "scores") else "done", file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
