"""A detector in int8 for a CPU: calibrated on images, and kept if it finds on a data set what the detector found."""

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from PIL import Image
from torch.utils.weak import WeakTensorKeyDictionary

from deformable_detr_refine.files import check_new_folder, new_path
from deformable_detr_refine.inference.load_detector import load_detector
from deformable_detr_refine.inference.load_model import refuse_int8
from deformable_detr_refine.inference.network import Network
from deformable_detr_refine.modeling import DeformableDetrRefineForObjectDetection
from deformable_detr_refine.modeling.int8_layers import Int8MaxPool, Quantization, why_not_int8
from deformable_detr_refine.modeling.int8_model import in_units, layers_for_int8

from .proof import ProofError, average_precisions, names_of
from .tracing import sha256_of_weights

# 0.5 points.
AP_TOLERANCE = 5e-3

Ranges = dict[str, dict[str, list[tuple[float, float]]]]


@dataclass(frozen=True)
class Int8Proof:
    """What int8 cost.

    Attributes:
        layers: how many are in int8.
        calibration_images: on how many images their ranges were found.
        model_ap, int8_ap: COCO's AP, 0..1, on `ap_images` images.
    """

    layers: int
    calibration_images: int
    model_ap: float
    int8_ap: float
    ap_images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"AP {self.int8_ap:.4f}, the model's {self.model_ap:.4f}, on {self.ap_images} images; {self.layers} layers "
            f"in int8, calibrated on {self.calibration_images} images"
        )


def export_int8(
    model: str | Path,
    output: str | Path,
    calibration: Callable[[Sequence[str]], Sequence[Image.Image]],
    rows: Callable[[Sequence[str]], Sequence[Any] | None],
    force: bool = False,
    accept_loss: bool = False,
    progress: Callable[[int], Any] = lambda count: None,
) -> Int8Proof:
    """Writes a model folder in int8, and keeps it if its AP is at most 0.5 points below the model's.

    Args:
        model: a model folder, or OWNER/NAME on the Hub.
        output: the folder to write.
        calibration: gives, for the model's class names, images such as the detector will see.
        rows: gives, for the same, the rows of the data set on which AP is compared (`RelabelledData`).
        force: replace `output`.
        accept_loss: keep it however much AP it loses.
        progress: called with the number of images after each.

    Raises:
        OSError: the model or an image cannot be read.
        ProofError: it loses more than that; nothing is written.
        ValueError: int8 does not run here, there is no data set or none of its images has an object, there is no
            image to calibrate on, `output` is taken, or the model cannot be loaded.
    """
    if reason := why_not_int8():
        raise ValueError(f"int8 cannot be proved here: {reason}.")
    output = Path(output)
    check_new_folder(output, force, model)
    detector, processor = load_detector(str(model), "cpu")
    refuse_int8(detector.config, str(model), "ddetr export")
    detector = detector.float()
    network = Network.of(detector, processor)
    data = rows(names_of(network))
    if not data:
        raise ValueError("int8 is proved on a data set: give one with --data.")
    images = calibration(names_of(network))
    int8, layers = quantized(detector, processor, images, progress)
    before, after = average_precisions(data, [network, Network.of(int8, processor)], progress)
    if before < 0:
        raise ValueError(
            f"There is no object in {len(data)} images to judge int8 by: give other --data, or a larger --limit."
        )
    proof = Int8Proof(layers, len(images), before, after, len(data))
    if not (accept_loss or after >= before - AP_TOLERANCE):
        raise ProofError(
            f"The export is refused, it loses more than 0.5 points of AP: {proof}. More images to calibrate on may "
            "help; --accept-loss keeps it as it is."
        )
    with new_path(output) as folder:
        int8.save_pretrained(folder)
        processor.save_pretrained(folder)
        facts = proof.to_dict() | {"weights_sha256": sha256_of_weights(model)}
        (folder / "int8.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        # transformers writes the weights readable by their owner only.
        (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)
    return proof


def quantized(
    detector: DeformableDetrRefineForObjectDetection,
    processor: Any,
    images: Sequence[Image.Image],
    progress: Callable[[int], Any] = lambda count: None,
) -> tuple[DeformableDetrRefineForObjectDetection, int]:
    """A copy of a float32 detector in int8, calibrated on images, and how many of its layers are.

    A range goes from the mean of the images' smallest numbers to that of their largest.

    Raises:
        ValueError: there is no image.
    """
    if not images:
        raise ValueError(
            "There is no image to calibrate int8 on: give --images, or --data with images in its split train."
        )
    copied = deepcopy(detector).eval()
    in_units(copied.model)
    layers = list(layers_for_int8(copied.model))
    ranges = _observed(copied, processor, images, {name: layer for name, layer, _ in layers}, progress)
    for name, layer, empty in layers:
        found = ranges[name]
        if name.endswith(".fc1"):  # it was seen before its ReLU
            found["output"] = ranges[name.removesuffix("1") + "2"]["input"]
        empty.fill(
            layer.weight,
            layer.bias,
            **{kind: _typical(found[kind]) for kind in found if getattr(empty, kind) is not None},
        )
        copied.model.set_submodule(name, empty)
    copied.config.int8 = True
    return copied.eval(), len(layers)


def _observed(
    detector: torch.nn.Module,
    processor: Any,
    images: Sequence[Any],
    layers: dict[str, torch.nn.Module],
    progress: Callable[[int], Any],
) -> Ranges:
    """The smallest and the largest number of each image in what goes into each layer and what comes out.

    What a pool gives counts as what it took, as whose uint8 it is handed on.
    """
    taken = WeakTensorKeyDictionary()
    ranges: Ranges = {name: {"input": [], "other": [], "output": []} for name in layers}

    def note(found: dict[str, list[tuple[float, float]]], _: Any, inputs: tuple, output: torch.Tensor) -> None:
        for kind, tensor in (*zip(("input", "other"), inputs, strict=False), ("output", output)):
            before = taken.get(tensor)
            low, high = (tensor if before is None else before).aminmax()
            found[kind].append((low.item(), high.item()))

    def remember(_: Any, inputs: tuple, output: torch.Tensor) -> None:
        taken[output] = taken.get(inputs[0], inputs[0])

    hooks = [layer.register_forward_hook(partial(note, ranges[name])) for name, layer in layers.items()]
    hooks += [pool.register_forward_hook(remember) for pool in detector.modules() if isinstance(pool, Int8MaxPool)]
    try:
        for image in images:
            with torch.inference_mode():
                detector(**processor(images=[image], return_tensors="pt"))
            progress(1)
    finally:
        for hook in hooks:
            hook.remove()
    return ranges


def _typical(ranges: Sequence[tuple[float, float]]) -> Quantization:
    return Quantization.of_range(mean(low for low, _ in ranges), mean(high for _, high in ranges))


__all__ = ["AP_TOLERANCE", "Int8Proof", "export_int8", "quantized"]
