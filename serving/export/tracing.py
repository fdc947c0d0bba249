"""A detector as a program of torch.export, for images and batches of every size, and the facts that go with it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from deformable_detr_refine.files import sha256_of
from deformable_detr_refine.inference.exported import FORMAT
from deformable_detr_refine.inference.load_detector import load_detector
from deformable_detr_refine.inference.load_model import refuse_int8
from deformable_detr_refine.inference.network import Network
from deformable_detr_refine.modeling import DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor
from deformable_detr_refine.modeling.backbone import same_padding

from .proof import Samples

# Any numbers would do that are no 0 or 1 on any level and make more tokens than a detector has queries.
_EXAMPLE = (2, 608, 736)


class LogitsAndBoxes(nn.Module):
    """A detector whose outputs are two tensors."""

    def __init__(self, detector: DeformableDetrRefineForObjectDetection) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, Tensor]:
        """pixel_values (B, 3, height, width), pixel_mask (B, height, width) -> logits (B, Q, K), boxes (B, Q, 4)."""
        outputs = self.detector(pixel_values, pixel_mask)
        return outputs.logits, outputs.pred_boxes


def prepared(
    model: str | Path, samples: Samples
) -> tuple[DeformableDetrRefineForObjectDetection, Network, dict[str, str]]:
    """What every export begins with: the detector in float32 on the CPU, as a network too, and the facts about it.

    Raises:
        OSError, ValueError: the model or a sample cannot be read, or all samples have one shape.
    """
    detector, processor = load_detector(str(model), "cpu")
    refuse_int8(detector.config, model, "ddetr export")
    network = Network.of(detector.float(), processor)
    samples.check(network)
    return detector, network, facts_of(detector, processor, sha256_of_weights(model))


def trace(detector: DeformableDetrRefineForObjectDetection) -> ExportedProgram:
    """The detector's forward pass as a graph in which batch, height and width are variables.

    Args:
        detector: in evaluation mode. With `use_backend("reference")` around this call the graph holds `grid_sample` in
            place of the package's operator.

    Raises:
        ValueError: it cannot be traced, as where something in the model fixes one of the three.
    """
    batch, height, width = _EXAMPLE
    pixel_values = torch.zeros(batch, 3, height, width, dtype=detector.dtype, device=detector.device)
    pixel_mask = torch.ones(batch, height, width, dtype=torch.int64, device=detector.device)
    free = Dim.DYNAMIC
    with torch.no_grad(), _short_expressions(), _one_sentence():
        program = torch.export.export(
            LogitsAndBoxes(detector),
            (pixel_values, pixel_mask),
            dynamic_shapes={"pixel_values": {0: free, 2: free, 3: free}, "pixel_mask": {0: free, 1: free, 2: free}},
        )
    # A file would carry the example's pixels, and lines of Python with the folders of this machine.
    program.example_inputs = None
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


@contextmanager
def _one_sentence() -> Iterator[None]:
    """What the tracer says in pages: all its errors are RuntimeErrors, most of them of classes that are not public."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0].partition(" For more information")[0].rstrip(".! ")
        raise ValueError(f"The model cannot be traced for images and batches of every size: {reason}.") from error


@contextmanager
def _short_expressions() -> Iterator[None]:
    """Within the block, timm's other layers say how much they pad as the backbone's convolutions do."""
    from timm.layers import padding

    own, padding.get_same_padding = padding.get_same_padding, same_padding
    try:
        yield
    finally:
        padding.get_same_padding = own


def facts_of(
    detector: DeformableDetrRefineForObjectDetection, processor: DeformableDetrRefineImageProcessor, weights: str = ""
) -> dict[str, str]:
    """All that is needed to use the program, as texts: class names, the image processor's settings, the config.

    Args:
        weights: sha256 of the file of weights; '' when it is not known.
    """
    config = {key: value for key, value in detector.config.to_dict().items() if key != "_name_or_path"}
    names = {str(label): name for label, name in sorted(detector.config.id2label.items())}
    packages = ("deformable-detr-refine", "torch", "transformers")
    return {
        "format": FORMAT,
        "id2label": json.dumps(names, ensure_ascii=False),
        "image_processor": json.dumps(processor.to_dict(), ensure_ascii=False),
        "config": json.dumps(config, ensure_ascii=False),
        "versions": json.dumps({name: version(name) for name in packages}),
        "weights_sha256": weights,
    }


def sha256_of_weights(model: str | Path) -> str:
    """The digest of model.safetensors; '' where the weights lie elsewhere or in several files."""
    file = Path(model) / "model.safetensors"
    return sha256_of(file) if file.is_file() else ""


__all__ = ["LogitsAndBoxes", "facts_of", "prepared", "sha256_of_weights", "trace"]
