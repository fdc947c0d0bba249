"""A detector out of an ONNX file that `ddetr export` wrote, in ONNX Runtime: without PyTorch, from pixels to boxes."""

import mmap
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from deformable_detr_refine.messages import near, one_line, printable
from deformable_detr_refine.modeling.c_library import library

from .exported import FORMAT, INPUTS, OUTPUTS, names_of, processor_settings_of, threshold_of
from .network import Network
from .numpy_processor import NumpyImageProcessor

OPERATOR = "DeformableAttention"  # of modeling/onnx_operator.c


def load_onnx(path: str | Path, threads: int | None = None) -> Network:
    """Opens the file; class names and the image processor come out of it.

    It computes on the CPU.

    Args:
        threads: cores for one forward pass; ONNX Runtime's own choice if None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: onnxruntime is not installed, cannot load the file, or another program wrote it.
    """
    sessions, facts = _opened(Path(path), threads)
    try:
        processor = NumpyImageProcessor.of(processor_settings_of(facts))
        return Network(sessions.forward, processor, names_of(facts), threshold_of(facts), "np")
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: what it says of its detector is damaged ({printable(one_line(error), 300)})."
        ) from error


def onnx_facts(path: Path) -> dict[str, str]:
    """What the file says of its detector: class names, the sha256 of its weights and more.

    Raises:
        FileNotFoundError, ValueError: as of `load_onnx`.
    """
    return _opened(path, None)[1]


def _opened(path: Path, threads: int | None) -> tuple["_Sessions", dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}{near(path)}")
    _check_operators(path)
    sessions = _Sessions(path, threads)
    facts = sessions.here().get_modelmeta().custom_metadata_map
    if facts.get("format") != FORMAT:
        raise ValueError(
            f"{path} does not say which classes and image sizes it is for (it is not of the form {FORMAT}): "
            "write it with `ddetr export`."
        )
    return sessions, facts


def _check_operators(path: Path) -> None:
    """Refuse a graph with loops, which could compute for ever: those of `ddetr export` have none.

    Looked for in the file's bytes, since ONNX Runtime does not tell, and the onnx package need not be there.
    """
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            kind = found[1].decode() if (found := _LOOPS.search(content)) else None
    if kind:
        raise ValueError(f"{path} has a loop ({kind}), which `ddetr export` never writes: it is not run.")


# The kind of an operator, a text: its field's number and its length, either of which may be written at greater length.
_LOOPS = re.compile(rb"(?:\x22|\xa2\x80*\x00)(?:[\x04\x0b]|[\x84\x8b]\x80*\x00)(Loop|Scan|SequenceMap)")


class _Sessions:
    """The file's session in this process. A forked process gets its own, as threads do not survive forking.

    The one it inherited stays: closing it would wait for threads that are not there.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        self.path, self.threads = path, threads
        self._of_process: dict[int, Any] = {}

    def here(self) -> Any:
        process = os.getpid()
        if process not in self._of_process:
            self._of_process[process] = _session(self.path, self.threads)
        return self._of_process[process]

    def forward(self, inputs: Mapping[str, Any]) -> SimpleNamespace:
        session = self.here()
        try:
            logits, boxes = session.run(list(OUTPUTS), {name: np.asarray(inputs[name]) for name in INPUTS})
        except Exception as error:  # its exceptions have no common base but this
            height, width = inputs["pixel_values"].shape[-2:]
            reason = printable(one_line(error), 300)
            raise ValueError(
                f"ONNX Runtime refuses an image that is {width}x{height} after resizing ({reason})."
            ) from error
        arrays = all(isinstance(array, np.ndarray) and array.dtype.kind == "f" for array in (logits, boxes))
        images = len(inputs["pixel_values"])
        if not arrays or logits.ndim != 3 or boxes.shape != (images, logits.shape[1], 4) or len(logits) != images:
            raise ValueError(f"{self.path} is not `ddetr export`'s: it gives no scores and boxes of its queries.")
        return SimpleNamespace(logits=logits, pred_boxes=boxes)


def _session(path: Path, threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            f'{path} needs ONNX Runtime: pip install onnxruntime (or "deformable-detr-refine[onnx]").'
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Its threads would wait awake for milliseconds after each run, and take the cores of whatever comes next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    # For files of `--custom-op`. A library that lies beside a file is never taken: it is a program of whoever wrote it.
    missing = ""
    try:
        options.register_custom_ops_library(str(operator_library()))
    except ValueError as error:
        missing = str(error)
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = printable(one_line(error), 300)
        why = missing if missing and OPERATOR in reason else f"{reason} Write it again with `ddetr export --to onnx`."
        raise ValueError(f"ONNX Runtime cannot load {path}: {why}") from error


def operator_library() -> Path:
    """The package's C library, in the build that this processor runs, for `register_custom_ops_library`.

    Raises:
        ValueError: it is not here.
    """
    opened, reason = library()
    if opened is None:
        raise ValueError(f"the operator {OPERATOR} is not here, since {reason}.")
    return Path(opened._name)


__all__ = ["OPERATOR", "load_onnx", "onnx_facts", "operator_library"]
