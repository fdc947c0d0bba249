"""A detector as a program of torch.export, which loads without the model's Python code and takes every image size."""

from pathlib import Path
from types import SimpleNamespace

import torch

from deformable_detr_refine.files import check_new_file, new_path
from deformable_detr_refine.inference.exported import FORMAT, INPUTS, names_of, processor_settings_of, threshold_of
from deformable_detr_refine.inference.network import Network
from deformable_detr_refine.messages import near
from deformable_detr_refine.modeling import DeformableDetrRefineImageProcessor

from .proof import Proof, Samples
from .tracing import prepared, trace

SUFFIX = ".pt2"


def export_torch(model: str | Path, output: str | Path, samples: Samples, force: bool = False) -> Proof:
    """Writes a model folder as a .pt2 file, runs the file beside the model, and keeps it if both agree.

    The program holds the package's operator as one node, so that it is as fast as the model: import
    `deformable_detr_refine` before `torch.export.load(output).module()(pixel_values, pixel_mask)`, which gives logits
    (B, Q, K) and boxes (B, Q, 4), cxcywh normalised by the image itself. What ONNX's metadata has is in `extra_files`.
    Height and width are 65 and more: torch.export takes levels of one cell for something else.

    Args and errors: as of `export_onnx`.
    """
    output = Path(output)
    if output.suffix != SUFFIX:
        raise ValueError(f"{output} does not end in {SUFFIX}, the suffix of exported programs.")
    check_new_file(output, force)
    detector, network, known = prepared(model, samples)
    program = trace(detector)
    with new_path(output) as new:
        with new.open("wb") as file:
            torch.export.save(program, file, extra_files=known)
        proof = samples.prove(network, load_torch(new))
    return proof


def load_torch(path: str | Path) -> Network:
    """Opens the file; class names and the image processor come out of it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of the form that `export_torch` writes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}{near(path)}")
    known: dict[str, str] = dict.fromkeys(("format", "id2label", "image_processor"), "")
    with path.open("rb") as file:
        program = torch.export.load(file, extra_files=known)
    if known["format"] != FORMAT:
        raise ValueError(f"{path} is not of the form {FORMAT}: write it with `ddetr export --to torch`.")
    module = program.module()

    @torch.inference_mode()
    def forward(inputs: dict[str, torch.Tensor]) -> SimpleNamespace:
        try:
            logits, boxes = module(*(inputs[name] for name in INPUTS))
        except RuntimeError as error:  # of its guards, which are pages long
            height, width = inputs["pixel_values"].shape[-2:]
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"The program refuses an image that is {width}x{height} after resizing ({reason})."
            ) from error
        return SimpleNamespace(logits=logits, pred_boxes=boxes)

    processor = DeformableDetrRefineImageProcessor(**processor_settings_of(known))
    return Network(forward, processor, names_of(known), threshold_of(known))


__all__ = ["export_torch", "load_torch"]
