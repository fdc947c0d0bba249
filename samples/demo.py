"""`make demo`: finds blood cells with the detector that comes with the package, then ports a MMDetection checkpoint.

    python samples/demo.py demo

The detector of blood cells is a trained one (samples/blood-cells), and what it finds is held against the boxes that
people drew. The checkpoint's weights are drawn at random (random_checkpoint.py says how), because MMDetection's trained
one cannot be shipped here: it shows that a full-size checkpoint gives MMDetection's own numbers, value for value.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from random_checkpoint import NAME, TESTS, write_checkpoint
from torchvision.ops import box_iou
from transformers.utils import logging

from ddetr.main import main as ddetr
from deformable_detr_refine import DeformableDetrRefineForObjectDetection

SAMPLES = Path(os.path.relpath(Path(__file__).resolve().parent))
CELLS = sorted((SAMPLES / "images").glob("BloodImage_*.jpg"))
TOLERANCE = 1e-4


def run(folder: Path) -> int:
    """The whole demo, into `folder`; 0 if every check holds."""
    start = time.monotonic()
    step("Blood cells under the microscope, found by the detector that comes with the package")
    say_and_run("detect", *CELLS, "--output", folder / "found", "--draw")
    found, drawn = found_of_drawn(json.loads((folder / "found" / "detections.json").read_text()))
    checks = [check(f"it found {found} of {drawn} cells that people drew in these images", found > 0.7 * drawn)]

    checkpoint, detector = folder / "checkpoint.pth", folder / "detector"
    step("A checkpoint as MMDetection writes it, full size, with weights drawn at random (NOT a trained detector)")
    write_checkpoint(checkpoint)
    print(f"{checkpoint}: {checkpoint.stat().st_size / 1e6:.0f} MB")

    step("Convert it")
    say_and_run("convert", checkpoint, detector, "--force")

    step("Is every value still there?")
    logging.disable_progress_bar()
    model = DeformableDetrRefineForObjectDetection.from_pretrained(detector)
    with tempfile.TemporaryDirectory() as temporary:
        again = Path(temporary, "again.pth")
        say_and_run("convert", "--to", "mmdet", detector, again)
        before, after = (torch.load(path, weights_only=True)["state_dict"] for path in (checkpoint, again))
        model.save_pretrained(Path(temporary, "saved"))
        saved = DeformableDetrRefineForObjectDetection.from_pretrained(Path(temporary, "saved"))
    checks += [
        check("there and back again: the same tensors under the same names, bit for bit", same(before, after)),
        check("saved and loaded again: the same, bit for bit", same(model.state_dict(), saved.state_dict())),
    ]

    step("Are its numbers MMDetection's?")
    print("Two photos as one padded batch; what MMDetection 3.1.0 computed from these weights is in tests/goldens.")
    for what, difference in differences(model).items():
        checks.append(check(f"{what:<32} largest difference {difference:.1e}", difference < TOLERANCE))

    print(f"\n{sum(checks)} of {len(checks)} checks hold, {time.monotonic() - start:.0f} seconds. Look at:")
    found = folder / "found"
    print(f"  {found / 'drawn' / CELLS[-1].name}\n  {found / 'detections.json'}\n  {detector / 'README.md'}")
    return 0 if all(checks) else 1


def found_of_drawn(records: list[dict]) -> tuple[int, int]:
    """How many of the boxes that people drew have a detection of their class that overlaps them by half (IoU)."""
    coco = json.loads((SAMPLES / "annotations" / "blood_cells.json").read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    numbers = {image["file_name"]: image["id"] for image in coco["images"]}
    found = drawn = 0
    for record in records:
        boxes = torch.tensor(record["boxes"]).reshape(-1, 4)
        for item in coco["annotations"]:
            if item["image_id"] == numbers[Path(record["image"]).name]:
                x, y, w, h = item["bbox"]
                same_class = torch.tensor([label == names[item["category_id"]] for label in record["labels"]])
                overlaps = box_iou(torch.tensor([[x, y, x + w, y + h]]).float(), boxes)[0]
                drawn, found = drawn + 1, found + bool((same_class & (overlaps > 0.5)).any())
    return found, drawn


def differences(model: DeformableDetrRefineForObjectDetection) -> dict[str, float]:
    """The largest differences from MMDetection's stored numbers, over both images, 300 queries and 6 decoder layers."""
    sys.path.insert(0, str(TESTS))
    from support.goldens_mmdet import golden_arrays, golden_batch

    expected = golden_arrays(f"{NAME}_detect")
    with torch.inference_mode():
        output = model.eval()(**golden_batch("r50_inputs", 2), output_hidden_states=True)
    # Two proposals of nearly equal score may change places from one build of PyTorch to another.
    order = torch.cdist(torch.from_numpy(expected["init_reference"]), output.initial_reference_points).argmin(-1)
    images = range(len(order))
    ours = {
        "proposals": [output.initial_reference_points[i, order[i]] for i in images],
        "logits of 6 decoder layers": [output.intermediate_logits[:, i, order[i]] for i in images],
        "boxes of 6 decoder layers (0..1)": [output.intermediate_pred_boxes[:, i, order[i]] for i in images],
    }
    theirs = (expected["init_reference"], expected["logits"].swapaxes(0, 1), expected["boxes"].swapaxes(0, 1))
    return {
        what: max(float(np.abs(one.numpy() - other).max()) for one, other in zip(values, reference, strict=True))
        for (what, values), reference in zip(ours.items(), theirs, strict=True)
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def step(text: str) -> None:
    print(f"\n== {text}", flush=True)


def say_and_run(*arguments: object) -> int:
    words = [str(argument) for argument in arguments]
    print(f"$ ddetr {' '.join(words)}", flush=True)
    if status := ddetr(words):
        sys.exit(status)
    return status


def check(text: str, holds: bool) -> bool:
    print(f"{'ok  ' if holds else 'FAIL'} {text}", flush=True)
    return holds


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(run(Path(sys.argv[1])))
