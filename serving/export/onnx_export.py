"""A detector as one ONNX file that takes every image size and batch, and has proved itself before it appears.

The sampling of deformable attention is written as GridSample, level by level. ONNX Runtime (1.32, one thread) took the
same time for it, 0.54 s for an encoder layer of 22,223 tokens, as for a Gather of 2x2 patches with a MatMul, and needs
a third of the memory.
"""

import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch.export import ExportedProgram

from deformable_detr_refine.files import check_new_file, new_path
from deformable_detr_refine.inference.exported import INPUTS, OUTPUTS
from deformable_detr_refine.inference.onnx_detector import OPERATOR, load_onnx, operator_library
from deformable_detr_refine.modeling import DeformableDetrRefineForObjectDetection, use_backend

from .proof import Proof, Samples
from .tracing import prepared, trace

if TYPE_CHECKING:
    import onnx

# The first with GridSample's present form; ONNX Runtime knows it since 1.17.
OPSET = 20
NEEDED = ("onnx", "onnxscript", "onnxruntime")
DOMAIN = "deformable_detr_refine"
_AXES = ("batch", "height", "width")


def export_onnx(
    model: str | Path, output: str | Path, samples: Samples, force: bool = False, custom_operator: bool = False
) -> Proof:
    """Writes a model folder as ONNX, runs the file in ONNX Runtime beside PyTorch, and keeps it if both agree.

    Inputs are `pixel_values` (B, 3, height, width) float32 and `pixel_mask` (B, height, width) int64, outputs `logits`
    (B, Q, K) and `pred_boxes` (B, Q, 4), cxcywh normalised by the image itself. Class names, the image processor's
    settings, versions and the digest of the weights stand in the file's metadata.

    Args:
        model: a model folder, or OWNER/NAME on the Hub.
        output: the file to write.
        samples: what to prove it on.
        force: replace `output`.
        custom_operator: deformable attention is one node, computed by the package's C library, which is written beside
            as OUTPUT with this system's suffix of libraries: a program without this package gives it to
            `SessionOptions.register_custom_ops_library`. This package takes its own.

    Raises:
        OSError: the model is not there.
        ProofError: the file does not compute what the model does; nothing is written.
        ValueError: a package is not installed, `output` is taken, or the model cannot be loaded.
    """
    check_onnx()
    output = Path(output)
    if output.suffix != ".onnx":
        raise ValueError(f"{output} does not end in .onnx, by which `ddetr detect` and `ddetr serve` know the form.")
    check_new_file(output, force)
    operator = operator_library() if custom_operator else None
    if operator is not None:
        check_new_file(output.with_suffix(operator.suffix), force)
    detector, network, known = prepared(model, samples)
    with new_path(output) as new:
        write_onnx(detector, known, new, custom_operator)
        proof = samples.prove(network, load_onnx(new))
    if operator is not None:
        with new_path(output.with_suffix(operator.suffix)) as new:
            shutil.copyfile(operator, new)
    return proof


def check_onnx() -> None:
    """Says what an export as ONNX needs and is not here.

    Raises:
        ValueError: something is not.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ValueError(f'ONNX needs {", ".join(missing)}: pip install "deformable-detr-refine[onnx]".')


def write_onnx(
    detector: DeformableDetrRefineForObjectDetection, known: dict[str, str], output: Path, custom_operator: bool
) -> None:
    """Writes a detector in float32 as ONNX, with the facts about it, unproved."""
    with use_backend(None if custom_operator else "reference"):
        program = trace(detector)
    graph = onnx_graph(program)
    for key, text in {**known, "opset": str(OPSET)}.items():
        graph.metadata_props.add(key=key, value=text)
    output.write_bytes(graph.SerializeToString())


def onnx_graph(program: ExportedProgram) -> "onnx.ModelProto":
    """A traced detector as an ONNX model that the checker accepts; the package's operator is a node of its domain."""
    import onnx
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            custom_translation_table={torch.ops.deformable_detr_refine.deformable_attention.default: _attention()},
            verbose=False,
        )
    assert exported is not None, "with dynamo it is a program"
    model = exported.model_proto
    _name_axes(model)
    _forget_origins(model)
    onnx.checker.check_model(model)
    return model


def _attention() -> Any:
    """The node that modeling/onnx_operator.c computes."""
    import onnx
    import onnxscript
    from onnxscript import values

    form = onnx.defs.OpSchema.FormalParameter
    schema = onnx.defs.OpSchema(
        OPERATOR,
        DOMAIN,
        1,
        inputs=[
            form("value", "tensor(float)"),
            form("spatial_shapes", "tensor(int64)"),
            form("sampling_locations", "tensor(float)"),
            form("attention_weights", "tensor(float)"),
        ],
        outputs=[form("output", "tensor(float)")],
    )
    node = values.Op(values.Opset(DOMAIN, 1), schema.name, schema)

    def deformable_attention(
        value: onnxscript.FLOAT,
        spatial_shapes: onnxscript.INT64,
        locations: onnxscript.FLOAT,
        weights: onnxscript.FLOAT,
    ) -> onnxscript.FLOAT:
        return cast("onnxscript.FLOAT", node(value, spatial_shapes, locations, weights))

    return deformable_attention


def _name_axes(model: "onnx.ModelProto") -> None:
    """Calls the free axes batch, height and width in place of the tracer's s52, s100, s4."""
    named = {}
    for value in model.graph.input:
        # Strict: an axis that was fixed after all is an error.
        named |= dict(zip((axis.dim_param for axis in _axes(value) if axis.dim_param), _AXES, strict=True))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dimension in _axes(value):
            if dimension.dim_param in named:
                dimension.dim_param = named[dimension.dim_param]


def _forget_origins(model: "onnx.ModelProto") -> None:
    """Takes out the tracer's notes, a tenth of a small file: lines of Python with the folders of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def _axes(value: Any) -> Any:
    return value.type.tensor_type.shape.dim


__all__ = ["OPSET", "check_onnx", "export_onnx", "onnx_graph", "write_onnx"]
