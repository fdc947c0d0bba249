"""Deformable attention in ONNX Runtime, by the package's C library: the operator's numbers, and any input refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.small_detector import SIZE, save_small_detector

from ddetr.main import main
from deformable_detr_refine.inference.comparison import RawDetections, compare_detections
from deformable_detr_refine.inference.detector import Detector
from deformable_detr_refine.modeling import c_library, deformable_attention

onnx = pytest.importorskip("onnx", reason="pip install deformable-detr-refine[onnx]")
onnxruntime = pytest.importorskip("onnxruntime")

from deformable_detr_refine.inference.onnx_detector import load_onnx, operator_library  # noqa: E402
from deformable_detr_refine.serving.export.onnx_export import DOMAIN  # noqa: E402

pytestmark = pytest.mark.skipif(c_library.library()[0] is None, reason="the C library was not built")
SHAPES = [(7, 9), (3, 4)]


def one_node() -> bytes:
    helper, kinds = onnx.helper, onnx.TensorProto
    float_, int_ = kinds.FLOAT, kinds.INT64
    inputs = {
        "value": (float_, "BSHC"),
        "spatial_shapes": (int_, "N"),
        "locations": (float_, "BQHLP2"),
        "weights": (float_, "BQHLP"),
    }
    described = [helper.make_tensor_value_info(name, kind, [None] * len(axes)) for name, (kind, axes) in inputs.items()]
    node = helper.make_node("DeformableAttention", list(inputs), ["output"], domain=DOMAIN)
    output = helper.make_tensor_value_info("output", float_, [None] * 3)
    graph = helper.make_graph([node], "attention", described, [output])
    versions = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=versions, ir_version=10).SerializeToString()


def session_with(library: Path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(one_node(), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module", params=["baseline", "avx2"])
def session(request):
    library = c_library.path_of(operator_library().parent, request.param)
    if not library.exists() or (request.param == "avx2" and library != operator_library()):
        pytest.skip("this processor has no AVX2")
    return session_with(library)


def inputs_of(B, Q, H, C, P, shapes=SHAPES):
    chance = np.random.default_rng(0)
    S, L = sum(h * w for h, w in shapes), len(shapes)
    return {
        "value": chance.normal(size=(B, S, H, C)).astype(np.float32),
        "spatial_shapes": np.array(shapes, dtype=np.int64).ravel(),
        "locations": chance.uniform(-0.2, 1.2, (B, Q, H, L, P, 2)).astype(np.float32),
        "weights": chance.random((B, Q, H, L, P), dtype=np.float32),
    }


@pytest.mark.parametrize(
    "sizes",
    [(2, 11, 4, 32, 4), (1, 3, 1, 5, 1), (3, 400, 8, 32, 4), (1, 1, 2, 8, 2), (0, 3, 2, 8, 2), (2, 0, 2, 8, 2)],
)
def test_the_node_computes_what_the_operator_computes(session, sizes):
    inputs = inputs_of(*sizes)
    (output,) = session.run(None, inputs)
    value, locations, weights = (torch.from_numpy(inputs[name]) for name in ("value", "locations", "weights"))
    expected = deformable_attention(value, SHAPES, locations, weights)
    assert output.shape == tuple(expected.shape)
    assert np.abs(output - expected.numpy()).max(initial=0) < 1e-5


def test_no_points_give_zeros(session):
    inputs = inputs_of(2, 5, 2, 8, 0)
    assert not session.run(None, inputs)[0].any()


def test_a_location_that_is_not_finite_is_seen(session):
    inputs = inputs_of(1, 3, 1, 8, 1)
    inputs["locations"][0, 1] = np.nan
    output = session.run(None, inputs)[0]
    assert np.isnan(output[0, 1]).all() and np.isfinite(output[0, [0, 2]]).all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"spatial_shapes": [8, 9, 3, 4]}, "do not add up"),
        ({"spatial_shapes": [-7, -9, 3, 4]}, "negative"),
        # 2**64 + 75 tokens.
        (
            {
                "spatial_shapes": [2**27, 2**27] * 1024 + [7, 9, 3, 4],
                "locations": (1, 3, 2, 1026, 1, 2),
                "weights": (1, 3, 2, 1026, 1),
            },
            "do not add up",
        ),
        ({"spatial_shapes": [2**62, 4, 3, 4]}, "too long"),
        ({"spatial_shapes": [7, 9, 3]}, "do not fit"),
        ({"weights": (1, 3, 2, 2, 5)}, "attention_weights do not fit"),
        ({"locations": (2, 3, 2, 2, 4, 2)}, "do not fit value"),
        ({"locations": (1, 3, 2, 2, 4, 3)}, "do not fit value"),
        ({"locations": (1, 3, 2, 2, 5000, 2), "weights": (1, 3, 2, 2, 5000)}, "too many points"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(session, change, told):
    inputs = inputs_of(1, 3, 2, 8, 4)
    for name, value in change.items():
        shapes = name == "spatial_shapes"
        inputs[name] = np.array(value, np.int64) if shapes else np.zeros(value, np.float32)
    with pytest.raises(Exception, match=told):
        session.run(None, inputs)


@pytest.mark.slow
def test_a_detector_with_the_node_is_the_detector(tmp_path, samples):
    """The command itself, with its proof; then the file with the library beside it, as other programs load it."""
    folder = save_small_detector(tmp_path / "model", SIZE, ["a", "b"], encoder_layers=1, decoder_layers=1)
    photos = [str(samples / "10.jpg"), str(samples / "BloodImage_00000.jpg")]
    words = ["export", "--to", "onnx", str(folder), str(tmp_path / "a.onnx"), "--custom-op", "--images", *photos]
    assert main(words) == 0
    graph = onnx.load(tmp_path / "a.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("DeformableAttention") == 2 and "GridSample" not in kinds
    for one, other in zip(
        Detector(folder, "cpu").detect(photos), Detector(tmp_path / "a.onnx").detect(photos), strict=True
    ):
        found = (RawDetections(each.boxes / max(each.image_size), each.scores, each.labels) for each in (one, other))
        difference = compare_detections(*found, 1e-4, 1e-4)
        assert difference["agreeing"] + difference["at_the_cut"] == len(one) > 0
    (library,) = [path for path in tmp_path.iterdir() if path.suffix == operator_library().suffix]
    options = onnxruntime.SessionOptions()
    with pytest.raises(Exception, match="DeformableAttention"):
        onnxruntime.InferenceSession(tmp_path / "a.onnx", options, providers=["CPUExecutionProvider"])
    options.register_custom_ops_library(str(library))
    assert onnxruntime.InferenceSession(tmp_path / "a.onnx", options, providers=["CPUExecutionProvider"]).get_inputs()


def test_a_library_beside_a_file_is_never_loaded(tmp_path, monkeypatch):
    """Else a folder from a stranger would run a program of theirs."""
    (tmp_path / "a.onnx").write_bytes(one_node())
    suffix = operator_library().suffix
    for name in (f"a{suffix}", operator_library().name):
        (tmp_path / name).write_bytes(b"a stranger's")
    with pytest.raises(ValueError, match="does not say which classes"):
        load_onnx(tmp_path / "a.onnx")
    reason = (None, "it was not built")
    monkeypatch.setattr("deformable_detr_refine.inference.onnx_detector.library", lambda: reason)
    with pytest.raises(ValueError, match="cannot load"):
        load_onnx(tmp_path / "a.onnx")


def test_custom_op_is_of_onnx_alone(tmp_path, capsys):
    assert main(["export", "--to", "torch", "m", str(tmp_path / "a.pt2"), "--custom-op"]) == 2
    assert "--custom-op is for --to onnx" in capsys.readouterr().err
