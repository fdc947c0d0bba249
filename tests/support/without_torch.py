"""A Python in which only what an exported detector needs can be imported, and a file to run there."""

import json
import os
from pathlib import Path

import numpy as np

# What the package requires beside numpy, Pillow, tqdm and PyYAML, and ONNX's own package.
ABSENT = (
    *("torch", "torchvision", "transformers", "timm", "scipy", "huggingface_hub", "safetensors"),
    *("onnx", "onnxscript", "pandas", "datasets"),
)


def environment_without_torch(folder: Path) -> dict[str, str]:
    """The variables of this process, by which a Python that is started takes these packages for not installed.

    Args:
        folder: a new one, for the file that sees to it.
    """
    folder.mkdir()
    lines = ("import sys", f"sys.modules.update(dict.fromkeys({ABSENT!r}))")
    (folder / "sitecustomize.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def save_exported_means(file: Path) -> Path:
    """Writes, in a detector's place, two queries of three classes whose scores are the means of the prepared pixels."""
    import onnx

    helper, kinds = onnx.helper, onnx.TensorProto
    constants = {
        "axes": np.array([2, 3]),
        "shape": np.array([0, 1, 3]),
        "boxes": np.array([[[0.5, 0.4, 0.3, 0.2]]], np.float32),
    }
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values", "axes"], ["means"], keepdims=0),
        helper.make_node("Reshape", ["means", "shape"], ["once"]),
        helper.make_node("Concat", ["once", "once"], ["logits"], axis=1),
        helper.make_node("Concat", ["boxes", "boxes"], ["pred_boxes"], axis=1),
    ]
    inputs = [
        helper.make_tensor_value_info("pixel_values", kinds.FLOAT, ["batch", 3, "height", "width"]),
        helper.make_tensor_value_info("pixel_mask", kinds.INT64, ["batch", "height", "width"]),
    ]
    outputs = [helper.make_tensor_value_info(name, kinds.FLOAT, None) for name in ("logits", "pred_boxes")]
    initial = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "means", inputs, outputs, initial)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    names = json.dumps({"0": "red", "1": "green", "2": "blue"})
    settings = json.dumps({"size": {"shortest_edge": 200, "longest_edge": 333}})
    words = {"format": "deformable-detr-refine 1", "id2label": names, "image_processor": settings, "config": "{}"}
    helper.set_model_props(model, words)
    onnx.save(model, file)
    return file
