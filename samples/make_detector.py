"""Writes samples/blood-cells, the detector that comes with the package, from the folder of its training run.

    python samples/make_detector.py runs/bccd samples/blood-cells

Weights are stored as fp16 and computed with in fp32; the settings are copied, the curve of the training and pictures
of sample images drawn, at the threshold that the run found. README.md, the card, is written by hand.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

from ddetr.main import main as ddetr
from deformable_detr_refine import DeformableDetrRefineForObjectDetection
from deformable_detr_refine.files import new_path

SAMPLES = Path(__file__).resolve().parent / "images"
# Where a user has what the run was given.
PLACES = {"data": "datasets/bccd", "backbone_weights": "pretrained", "output_dir": "runs/bccd"}
PICTURES = ("BloodImage_00000.jpg", "BloodImage_00053.jpg", "BloodImage_00222.jpg")


def make(run: Path, folder: Path) -> None:
    model = DeformableDetrRefineForObjectDetection.from_pretrained(run, dtype=torch.float32)
    folder.mkdir(parents=True, exist_ok=True)
    # No custom code: where this detector is, the package is too.
    for name in ("config.json", "preprocessor_config.json"):
        config = json.loads((run / name).read_text())
        config.pop("auto_map", None)
        (folder / name).write_text(json.dumps(config, indent=2) + "\n")
    with new_path(folder / "model.safetensors") as new:
        save_file({name: _half(tensor) for name, tensor in model.state_dict().items()}, new, {"format": "pt"})
    settings = yaml.safe_load((run / "settings.yaml").read_text()) | PLACES
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    with new_path(folder / "curve.svg") as new:
        curve(history, new)
    with tempfile.TemporaryDirectory() as found:
        ddetr(["detect", str(folder), *(str(SAMPLES / name) for name in PICTURES), "--output", found, "--draw"])
        shutil.copytree(Path(found) / "drawn", folder / "drawn", dirs_exist_ok=True)


def _half(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    if not half.isfinite().all():
        raise ValueError("A weight is too large for fp16.")
    return half.contiguous()


def curve(history: list[dict], file: Path) -> None:
    """Validation AP and AP50, and the training loss, over the epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    quality, loss = figure.subplots(1, 2)
    evaluations = [line for line in history if "eval_AP" in line]
    for name in ("AP", "AP50"):
        quality.plot(
            [line["epoch"] for line in evaluations], [line[f"eval_{name}"] for line in evaluations], label=name
        )
    steps = [line for line in history if "loss" in line]
    loss.plot([line["epoch"] for line in steps], [line["loss"] for line in steps], color="grey")
    quality.set(xlabel="epoch", title="validation", ylim=(0, 1))
    loss.set(xlabel="epoch", title="training loss", yscale="log")
    quality.legend()
    for axes in (quality, loss):
        axes.grid(alpha=0.3)
    figure.savefig(file, format="svg", facecolor="white")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    make(Path(sys.argv[1]), Path(sys.argv[2]))
