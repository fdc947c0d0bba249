"""A detector in the forms in which one machine can run it: types of numbers, compiled, ONNX, int8.

What has to be exported for that is written without a proof, for a comparison: `ddetr export` proves what is to be kept.
"""

import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from transformers import BatchFeature

from deformable_detr_refine.evaluation.timing import resident
from deformable_detr_refine.inference.exported import names_of
from deformable_detr_refine.inference.load_detector import load_detector
from deformable_detr_refine.inference.network import Network
from deformable_detr_refine.inference.onnx_detector import OPERATOR, load_onnx, onnx_facts
from deformable_detr_refine.json_file import read_json
from deformable_detr_refine.messages import near
from deformable_detr_refine.modeling import use_backend
from deformable_detr_refine.modeling.int8_layers import why_not_int8

from .int8_export import quantized
from .onnx_export import check_onnx, write_onnx
from .tracing import facts_of, sha256_of_weights

COMPILED = "compiled-"


class Form(NamedTuple):
    """One way to run a detector.

    Attributes:
        name: float32, bfloat16, float16, these after 'compiled-', onnx, onnx-operator or int8.
        model: a model folder, its Hub name, or an .onnx file.
        backend: of the operator, in PyTorch.
    """

    name: str
    model: str
    backend: str | None = None

    @property
    def numbers(self) -> str:
        """The type of numbers that it computes in."""
        return "float32" if self.name.startswith("onnx") else self.name.removeprefix(COMPILED)

    def open(
        self, pixels: torch.Tensor, device: str, threads: int | None, revision: str | None
    ) -> tuple[Network, Callable[[], object]]:
        """The form as a network, and a forward pass over `pixels` (B, 3, height, width), which waits for its end.

        Raises:
            OSError, ValueError: it cannot be loaded.
        """
        if self.name.startswith("onnx"):
            network = load_onnx(self.model, threads)
            mask = torch.ones(len(pixels), *pixels.shape[2:], dtype=torch.int64)
            arrays = {"pixel_values": pixels.numpy(), "pixel_mask": mask.numpy()}
            return network, lambda: network.forward(arrays)
        detector, processor = load_detector(self.model, device, revision)
        if self.name != "int8":
            detector = detector.to(getattr(torch, self.numbers))
        where, inputs = detector.device, BatchFeature({"pixel_values": pixels}).to(detector.device, detector.dtype)
        compiled = self.name.startswith(COMPILED)
        # One graph for images of all shapes, as in docs/guides/speed.md.
        network = Network.of(torch.compile(detector, dynamic=True) if compiled else detector, processor)

        def forward(inputs: Any) -> Any:
            with use_backend(self.backend) if self.backend else nullcontext():
                outputs = network.forward(inputs)
            if where.type != "cpu":
                torch.accelerator.synchronize(where)
            return outputs

        return network._replace(forward=forward), lambda: forward(inputs)


def why_not(name: str, device: torch.device) -> str | None:
    """Why a form cannot be had on a device, or None."""
    if name == "float16" and device.type == "cpu":
        return "float16 is for accelerators"
    if device.type != "cpu" and (name == "int8" or name.startswith("onnx")):
        return "it runs on a CPU only"
    return why_not_int8() if name == "int8" else None


def form_of_export(path: Path) -> str:
    """The form that a file or folder of `ddetr export` has: onnx, onnx-operator or int8.

    Raises:
        FileNotFoundError, ValueError: there is nothing, or nothing of the kind.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no export {path}{near(path)}")
    if path.suffix == ".onnx" and path.is_file():
        return "onnx-operator" if OPERATOR.encode() in path.read_bytes() else "onnx"
    config = path / "config.json"
    if config.is_file() and read_json(config).get("int8"):
        return "int8"
    raise ValueError(f"{path} is neither an .onnx file nor a model folder in int8.")


def check_export(path: Path, model: str, names: Sequence[str]) -> None:
    """Check that an export was made of a model, as far as it tells: by class names and the digest of the weights.

    Raises:
        ValueError: it was not, or it cannot be read.
    """
    if path.is_file():
        facts = onnx_facts(path)
    else:
        facts = read_json(path / "int8.json") if (path / "int8.json").is_file() else {}
        facts["id2label"] = json.dumps(read_json(path / "config.json")["id2label"])
    classes = [name for _, name in sorted(names_of(facts).items())]
    if classes != list(names):
        raise ValueError(f"{path} is not of {model}: it has other classes.")
    known, own = facts.get("weights_sha256"), sha256_of_weights(model)
    if known and own and known != own:
        raise ValueError(f"{path} is not of {model}: it was made of other weights.")


def write_export(
    name: str, model: str, revision: str | None, folder: Path, calibration: Callable[[], Sequence[Image.Image]]
) -> str:
    """Writes a model as onnx, onnx-operator or int8 into a folder.

    Args:
        calibration: gives the images on which int8 is calibrated.

    Returns:
        What was written there.

    Raises:
        OSError, ValueError: it cannot be.
    """
    if name != "int8":
        check_onnx()
    detector, processor = load_detector(model, "cpu", revision)
    detector, output = detector.float(), folder / (name if name == "int8" else f"{name}.onnx")
    if name == "int8":
        int8, _ = quantized(detector, processor, calibration())
        int8.save_pretrained(output)
        processor.save_pretrained(output)
    else:
        write_onnx(detector, facts_of(detector, processor), output, custom_operator=name == "onnx-operator")
    return str(output)


def added_memory(form: Form, shape: Sequence[int], threads: int | None, revision: str | None) -> int:
    """How many kilobytes a process of its own grows by, at most, when it loads the form and makes one pass on the CPU.

    Only on Linux.

    Args:
        shape: (B, 3, height, width) of the pixels.

    Raises:
        BrokenProcessPool: the process was killed, as where memory is short.
    """
    process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    try:
        return process.submit(_growth, form, shape, threads, revision).result()
    finally:
        # Not `with`, which would wait for the child where this process is told to end.
        for child in list(process._processes.values()):
            child.kill()
        process.shutdown(wait=False, cancel_futures=True)


def _growth(form: Form, shape: Sequence[int], threads: int | None, revision: str | None) -> int:
    # What is imported is no part of it.
    import_module("onnxruntime" if form.name.startswith("onnx") else "timm")
    if threads is not None:
        torch.set_num_threads(threads)
    pixels = torch.randn(*shape)
    before = resident("VmRSS")
    _, once = form.open(pixels, "cpu", threads, revision)
    once()
    return resident("VmHWM") - before


__all__ = ["COMPILED", "Form", "added_memory", "check_export", "form_of_export", "why_not", "write_export"]
