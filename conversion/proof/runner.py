"""What the real MMDetection computes, written to files. Runs as a script in a process of its own, never imported.

    PYTHONPATH=FOLDER_OF_MMDETECTION python runner.py JOB

JOB is a text file holding one Python literal: {"images": [PATH], "runs": [{"model": DICT, "test_pipeline": [DICT],
"checkpoint": PATH, "groups": {NAME: [INDEX]}, "output": PATH}]}. The images of a group go through in one padded batch.
Each run writes an .npz with arrays for every group, `GROUP:NAME`:

- `pixels` (B, 3, height, width) float32: what enters the detector; `bytesN` (h, w, 3): the resized image, uint8, its
  channels in the order in which they enter the detector;
- `references` (B, Q, 2 or 4), `logits` (layers, B, Q, K), `boxes` (layers, B, Q, 4): cxcywh normalised by the image;
- `scoresN`, `labelsN`, `bboxesN` (.., 4): final detections, xyxy in pixels of the original image, whose (height,
  width) is `sizeN`.
"""

import ast
import sys
import types
import warnings
from pathlib import Path


class CompiledOperators(types.ModuleType):
    """Stands in for `mmcv._ext`. mmcv asks at import whether every operator is there; none is called on the CPU:
    MultiScaleDeformableAttention takes mmcv's own PyTorch path."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise NotImplementedError(f"mmcv's compiled operator {name} is not there")

        return missing


def main(job_file: str) -> None:
    # The script's own folder comes first on the path, and its file names could hide others'.
    sys.path[:] = [entry for entry in sys.path if Path(entry).absolute() != Path(__file__).absolute().parent]
    sys.modules["mmcv._ext"] = CompiledOperators("mmcv._ext")
    # Told by today's torch and Python about code of 2023, which nobody here can change.
    warnings.simplefilter("ignore")
    # A job holds a config's values, tuples among them, which mmcv tells from lists; JSON would not keep them apart.
    job = ast.literal_eval(Path(job_file).read_text(encoding="utf-8"))

    import torch
    from mmdet.utils import register_all_modules  # pyright: ignore[reportMissingImports] (in a folder of its own)

    register_all_modules(init_default_scope=True)
    # As MMDetection's test loop; inference_mode would take another of PyTorch's attention paths.
    with torch.no_grad():
        for run in job["runs"]:
            _run(run, job["images"])


def _run(run: dict, images: list[str]) -> None:
    import numpy as np
    from mmdet.registry import MODELS  # pyright: ignore[reportMissingImports]
    from mmengine.config import ConfigDict  # pyright: ignore[reportMissingImports]
    from mmengine.dataset import Compose  # pyright: ignore[reportMissingImports]
    from mmengine.runner import load_checkpoint  # pyright: ignore[reportMissingImports]

    # Not mmdet.apis.init_detector: it asks pkgutil for mmcv._ext's loader (gone in Python 3.14), and takes a checkpoint
    # with missing or unexpected keys.
    detector = MODELS.build(ConfigDict(run["model"])).eval()
    load_checkpoint(detector, run["checkpoint"], map_location="cpu", strict=True)
    pipeline = Compose([ConfigDict(step) for step in run["test_pipeline"]])

    arrays = {}
    for group, members in run["groups"].items():
        if members:
            items = [pipeline({"img_path": images[number], "img_id": number}) for number in members]
            for name, value in _forward(detector, items).items():
                arrays[f"{group}:{name}"] = value
    with open(run["output"], "wb") as stream:
        np.savez(stream, **arrays)


def _forward(detector, items: list[dict]) -> dict:
    """One pass through MMDetection's own `test_step`; hooks keep what goes by."""
    seen = {}
    hooks = [
        detector.data_preprocessor.register_forward_hook(lambda _, given, out: seen.update(pixels=out["inputs"])),
        detector.bbox_head.register_forward_hook(lambda _, given, out: seen.update(given=given, out=out)),
    ]
    try:
        results = detector.test_step(
            {"inputs": [item["inputs"] for item in items], "data_samples": [item["data_samples"] for item in items]}
        )
    finally:
        for hook in hooks:
            hook.remove()
    _, references = seen["given"]
    logits, boxes = seen["out"]
    arrays = {"pixels": seen["pixels"], "references": references[0], "logits": logits, "boxes": boxes}
    for number, (item, result) in enumerate(zip(items, results)):  # noqa: B905 (mmdet's own lists, of equal length)
        image = item["inputs"].permute(1, 2, 0)
        arrays[f"bytes{number}"] = image.flip(-1) if detector.data_preprocessor._channel_conversion else image
        for name in ("scores", "labels", "bboxes"):
            arrays[f"{name}{number}"] = result.pred_instances[name]
    return {name: value.cpu().numpy() for name, value in arrays.items()} | {
        f"size{number}": result.ori_shape for number, result in enumerate(results)
    }


if __name__ == "__main__":
    main(sys.argv[1])
