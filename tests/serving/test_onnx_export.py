"""An ONNX file takes every image size and batch, finds what the model finds, carries all it needs, or there is none.

An export takes a minute, so that there is one: of a small detector of the backbone's three levels. The neck's fourth is
exported in test_onnx_operator.py and test_export_torch.py.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.data_sets import write_coco_set
from support.small_detector import save_small_detector
from timm.layers import create_conv2d

from ddetr.main import main
from deformable_detr_refine import DeformableDetrRefineForObjectDetection, load_image
from deformable_detr_refine.inference.comparison import RawDetections, compare_detections
from deformable_detr_refine.inference.detector import DetectionFailure, Detector
from deformable_detr_refine.inference.numpy_processor import NumpyImageProcessor
from deformable_detr_refine.serving.export.proof import ProofError, Samples

EXTRA = "pip install deformable-detr-refine[onnx]"
onnx = pytest.importorskip("onnx", reason=EXTRA)
pytest.importorskip("onnxscript", reason=EXTRA)
pytest.importorskip("onnxruntime", reason=EXTRA)

from deformable_detr_refine.inference.onnx_detector import load_onnx  # noqa: E402
from deformable_detr_refine.serving.export import onnx_export  # noqa: E402
from deformable_detr_refine.serving.export.tracing import trace  # noqa: E402

NAMES = ("can", "carton", "milk bottle")


@pytest.fixture(scope="module")
def saved(module_folder) -> Path:
    size = {"shortest_edge": 96, "longest_edge": 400}
    return save_small_detector(
        module_folder("saved") / "detector", size, NAMES, num_feature_levels=3, mixed_query_selection=True
    )


@pytest.fixture(scope="module")
def detector(saved):
    return DeformableDetrRefineForObjectDetection.from_pretrained(saved).eval()


@pytest.fixture(scope="module")
def photos(samples) -> list[str]:
    return [str(samples / "10.jpg"), str(samples / "BloodImage_00000.jpg")]


@pytest.fixture(scope="module")
def own_data(saved, photos, module_folder) -> Path:
    """A data set whose objects are the best of what the detector finds."""
    pytest.importorskip("datasets", reason="pip install deformable-detr-refine[train]")
    images = []
    for photo, found in zip(photos, Detector(saved, "cpu").detect(photos, threshold=0), strict=True):
        best = [(entry["category_id"], *entry["bbox"]) for entry in found.to_coco(0)[:8]]
        images.append((Path(photo).name, found.image_size[::-1], best))
    folder = write_coco_set(module_folder("data"), {"validation": images}, NAMES, (1, 2, 3))
    for photo in photos:
        (place,) = folder.rglob(Path(photo).name)
        shutil.copy(photo, place)
    return folder


@pytest.fixture(scope="module")
def written(saved, photos, own_data, module_folder):
    """The detector's ONNX file and its proof, as the command prints it."""
    output, printed = module_folder("onnx") / "detector.onnx", io.StringIO()
    words = ["export", "--to", "onnx", str(saved), str(output), "--images", *photos, "--data", str(own_data), "--json"]
    with redirect_stdout(printed):
        assert main(words) == 0
    return output, json.loads(printed.getvalue())


def assert_same_detections(one, other) -> None:
    found = (RawDetections(each.boxes / max(each.image_size), each.scores, each.labels) for each in (one, other))
    difference = compare_detections(*found, 1e-4, 1e-4)
    assert difference["agreeing"] + difference["at_the_cut"] == difference["detections"] == len(one)


@pytest.mark.slow
def test_proof_says_what_was_compared(written):
    output, proof = written
    assert [output] == list(output.parent.iterdir()) and proof["output"] == str(output)
    # Two photos alone and as one padded batch, 60 detections each (20 queries, 3 classes).
    assert len(set(map(tuple, proof["shapes"]))) == len(proof["shapes"]) == 3
    assert proof["detections"] == 240 == proof["agreeing"] + proof["at_the_cut"]
    assert proof["boxes"] <= 1e-4 and proof["scores"] <= 1e-4


@pytest.mark.slow
def test_it_keeps_the_average_precision(written):
    _, proof = written
    assert proof["ap_images"] == 2
    assert proof["model_ap"] > 0.5 and abs(proof["model_ap"] - proof["exported_ap"]) <= 1e-3


@pytest.mark.slow
def test_file_says_what_it_takes(written, detector):
    model = onnx.load(written[0])
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", onnx_export.OPSET)]
    inputs, outputs = (
        {
            value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in values
        }
        for values in (model.graph.input, model.graph.output)
    )
    assert inputs == {"pixel_values": ["batch", 3, "height", "width"], "pixel_mask": ["batch", "height", "width"]}
    assert outputs == {"logits": ["batch", 20, 3], "pred_boxes": ["batch", 20, 4]}
    known = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(known["id2label"])["2"] == detector.config.id2label[2] == "milk bottle"
    assert json.loads(known["config"])["model_type"] == "deformable_detr_refine"
    assert len(known["weights_sha256"]) == 64 and known["opset"] == str(onnx_export.OPSET)
    assert set(json.loads(known["versions"])) == {"deformable-detr-refine", "torch", "transformers"}


@pytest.mark.slow
def test_alone_it_finds_what_the_model_finds(written, saved, samples, tmp_path):
    alone = shutil.copy(written[0], tmp_path / "elsewhere.onnx")
    images = [load_image(samples / name) for name in ("11.jpg", "BloodImage_00053.jpg")]
    # The third is one cell high on two levels.
    images += [
        images[0].resize((600, 24)),
        images[0].resize((400, 90)),
        images[1].rotate(90, expand=True),
        images[0].resize((97, 131)),
    ]
    model, exported = Detector(saved, "cpu", batch_size=2), Detector(alone, threads=1, batch_size=2)
    assert exported.network.processor == NumpyImageProcessor.of(
        json.loads(json.dumps(model.network.processor.to_dict()))
    )
    for one, other in zip(model.detect(images), exported.detect(images), strict=True):
        assert one.id2label == other.id2label
        assert_same_detections(one, other)


class PaddedAsTensorFlow(torch.nn.Module):
    """In a detector's place, what its backbone may begin with (timm's tf_...): sizes decide how much is padded."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = [create_conv2d(3, 3, kernel, stride=2, padding="same") for kernel in (3, 3, 5, 3, 5)]
        self.convolutions = torch.nn.Sequential(*convolutions)
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def forward(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor) -> SimpleNamespace:
        features = self.convolutions(pixel_values).flatten(2)
        return SimpleNamespace(logits=features, pred_boxes=features * pixel_mask.float().mean())


@pytest.mark.slow
def test_padding_as_tensorflow_pads_is_that_of_every_size():
    import onnxruntime

    torch.manual_seed(0)
    model = PaddedAsTensorFlow().eval()
    program = trace(model)
    session = onnxruntime.InferenceSession(onnx_export.onnx_graph(program).SerializeToString())
    for height, width in ((96, 160), (97, 161), (127, 65), (200, 333)):
        pixels, mask = torch.randn(2, 3, height, width), torch.ones(2, height, width, dtype=torch.int64)
        with torch.no_grad():
            expected, traced = model(pixels, mask).logits, program.module()(pixels, mask)[0]
        ours = session.run(["logits"], {"pixel_values": pixels.numpy(), "pixel_mask": mask.numpy()})[0]
        torch.testing.assert_close(traced, expected)
        torch.testing.assert_close(torch.from_numpy(ours), expected, rtol=0, atol=1e-5)


class OfOneKind(torch.nn.Module):
    """In a detector's place, one that goes with one height only, or asks what is in the mask."""

    def __init__(self, asks: bool) -> None:
        super().__init__()
        self.asks, self.dtype, self.device = asks, torch.float32, torch.device("cpu")

    def forward(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor) -> SimpleNamespace:
        height = 608 if not self.asks or pixel_mask.sum() > 0 else 1
        return SimpleNamespace(logits=pixel_values * torch.ones(height, 1), pred_boxes=pixel_values)


@pytest.mark.parametrize(("asks", "reason"), [(False, r"Constraints violated \(.*\)"), (True, "Could not guard on .*")])
def test_a_model_that_cannot_be_traced_is_one_sentence(asks, reason):
    with pytest.raises(
        ValueError, match=f"^The model cannot be traced for images and batches of every size: {reason}\\.$"
    ):
        trace(OfOneKind(asks).eval())


@pytest.mark.slow
def test_padding_is_masked(written, detector):
    pixels, mask = torch.randn(3, 3, 120, 150), torch.ones(3, 120, 150, dtype=torch.int64)
    mask[1, 70:], mask[2, :, 41:] = 0, 0
    pixels = pixels * mask.unsqueeze(1)
    with torch.no_grad():
        expected = detector(pixels, mask)
    outputs = load_onnx(written[0]).forward({"pixel_values": pixels, "pixel_mask": mask})
    # By box, since the first stage ranks equals as it likes.
    for ours, theirs in zip(torch.from_numpy(outputs.pred_boxes), expected.pred_boxes, strict=True):
        assert torch.cdist(ours, theirs, p=torch.inf).amin(1).max() < 1e-4


@pytest.mark.slow
def test_its_threads_sleep_after_a_run(written):
    mask = torch.ones(1, 192, 256, dtype=torch.int64)
    network = load_onnx(written[0], threads=2)
    network.forward({"pixel_values": torch.rand(1, 3, 192, 256), "pixel_mask": mask})
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.01


@pytest.mark.slow
def test_detect_and_main_take_the_file(written, samples, tmp_path, capsys):
    assert (
        main(["detect", str(written[0]), str(samples / "12.jpg"), "--output", str(tmp_path), "--threshold", "0"]) == 0
    )
    (record,) = json.loads((tmp_path / "detections.json").read_text())
    assert len(record["boxes"]) == 60


@pytest.mark.slow
def test_an_image_that_is_too_small_fails_alone(written, samples, saved):
    exported = Detector(written[0])
    exported.network.processor.size = {"shortest_edge": 12, "longest_edge": 20}  # fewer tokens than queries
    (found,) = exported.detect([samples / "10.jpg"])
    assert isinstance(found, DetectionFailure) and "after resizing" in found.error


FORKED = """
import os, sys
from deformable_detr_refine.inference.detector import Detector
detector = Detector(sys.argv[1], threads=2)  # ONNX Runtime has started its threads
if child := os.fork():
    os.waitpid(child, 0)
print(len(detector.detect([sys.argv[2]])[0]), flush=True)
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_server_may_fork_after_loading(written, samples):
    """Its worker would wait for ever for threads that stayed behind."""
    words = [sys.executable, "-c", FORKED, written[0], samples / "10.jpg"]
    assert subprocess.check_output(words, text=True, timeout=120).split() == ["60", "60"]


@pytest.fixture
def without_tracing(written, monkeypatch):
    """Exporting gives the graph that is there already, changed as a test says."""

    def change(edit) -> None:
        graph = onnx.load(written[0])
        del graph.metadata_props[:]
        edit(graph)
        monkeypatch.setattr(onnx_export, "trace", lambda detector: None)
        monkeypatch.setattr(onnx_export, "onnx_graph", lambda program: graph)

    return change


@pytest.mark.slow
def test_a_file_that_computes_otherwise_is_not_written(saved, photos, tmp_path, without_tracing):
    def one_bias(graph):
        (bias,) = [value for value in graph.graph.initializer if value.name.endswith("class_heads.1.bias")]
        numbers = onnx.numpy_helper.to_array(bias) + np.array([0, 0, 0.5], dtype=np.float32)
        bias.CopyFrom(onnx.numpy_helper.from_array(numbers, bias.name))

    without_tracing(one_bias)
    with pytest.raises(ProofError, match="does not compute what the model does"):
        onnx_export.export_onnx(saved, tmp_path / "new" / "detector.onnx", Samples(photos))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_invalid_file_is_not_written(saved, photos, tmp_path, without_tracing):
    without_tracing(lambda graph: graph.graph.node[5].ClearField("input"))
    old = tmp_path / "detector.onnx"
    old.write_bytes(b"the old one")
    with pytest.raises(ValueError, match="ONNX Runtime cannot load"):
        onnx_export.export_onnx(saved, old, Samples(photos), force=True)
    assert old.read_bytes() == b"the old one" and list(tmp_path.iterdir()) == [old]


def test_another_average_precision_is_refused(saved, photos, own_data):
    from deformable_detr_refine.serving.export.proof_data import data_rows

    network = Detector(saved, "cpu").network
    # Of other shapes than those of the data.
    proof_images = [load_image(photos[0]).resize(size) for size in ((300, 300), (500, 300))]
    shapes = {network.processor.resized_shape(image.height, image.width) for image in map(load_image, photos)}

    def worse_on_the_data(inputs):
        outputs = network.forward(inputs)
        if tuple(inputs["pixel_values"].shape[-2:]) in shapes:
            outputs.pred_boxes = outputs.pred_boxes * torch.tensor([1, 1, 0.9, 0.9])
        return outputs

    test = Samples(proof_images, lambda names: data_rows(names, str(own_data), "validation", 50))
    test.check(network)
    same = test.prove(network, network)
    assert same.model_ap == same.exported_ap > 0.5 and same.ap_images == 2
    with pytest.raises(ProofError, match=r"AP differs by more than 0\.1 points"):
        test.prove(network, network._replace(forward=worse_on_the_data))


def test_the_samples_of_a_models_classes_are_found(samples):
    pytest.importorskip("datasets", reason="pip install deformable-detr-refine[train]")
    from deformable_detr_refine.serving.export.proof_data import matching_samples

    rows = matching_samples(["WBC", "RBC", "Platelets"], samples.parent / "annotations")
    assert rows is not None and len(rows) == 3
    assert matching_samples(NAMES[:2], samples.parent / "annotations") is None


def test_what_cannot_be_is_said_before_the_work(saved, photos, tmp_path, capsys):
    there = tmp_path / "there.onnx"
    there.touch()

    def error_of(*words: str) -> str:
        assert main(["export", "--to", "onnx", *words]) == 2
        return capsys.readouterr().err

    assert "does not end in .onnx" in error_of(str(saved), str(tmp_path / "model.bin"), "--images", *photos)
    assert "replace it with --force" in error_of(str(saved), str(there), "--images", *photos)
    assert "give images of two shapes" in error_of(str(saved), str(tmp_path / "a.onnx"), "--images", photos[0])
    assert "no model folder" in error_of(str(tmp_path / "none"), str(tmp_path / "a.onnx"), "--images", *photos)
    assert list(tmp_path.iterdir()) == [there] and not there.read_bytes()


def test_foreign_files_are_told_apart(tmp_path):
    garbage, foreign = tmp_path / "garbage.onnx", tmp_path / "foreign.onnx"
    garbage.write_bytes(b"no model")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "other", [value], [value])
    graph.output[0].name = "y"
    onnx.save(onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)]), foreign)
    with pytest.raises(ValueError, match=r"ONNX Runtime cannot load .*garbage"):
        Detector(garbage)
    with pytest.raises(ValueError, match="write it with `ddetr export`"):
        Detector(foreign)
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.onnx"):
        Detector(tmp_path / "none.onnx")


@pytest.mark.slow
def test_operator_and_weights_need_not_be_here(written, saved):
    """Every node is of ONNX's own domain, nothing lies outside the file, and no folder of this machine is named."""
    model = onnx.load(written[0], load_external_data=False)
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    assert "GridSample" in {node.op_type for node in model.graph.node}
    assert all(not value.external_data for value in model.graph.initializer)
    content = written[0].read_bytes()
    assert str(saved.parent).encode() not in content and b"modeling_deformable_detr_refine.py" not in content


WORDS = {
    "format": "deformable-detr-refine 1",
    "image_processor": '{"size": {"shortest_edge": 64}}',
    "id2label": '{"0": "a"}',
    "config": "{}",
}
DEEP = "[" * 100_000
# Of each of its words the values that are none.
DAMAGED = {
    "format": ["", "deformable-detr-refine 99"],
    "image_processor": [
        *("", "null", "5", "x", DEEP, "{}", '{"size": 1e9}', '{"size": {"height": 1e9, "width": 1}}'),
        *(
            f'{{"size": {{"shortest_edge": 64}}, {setting}}}'
            for setting in ('"resample": 99', '"pad_size": [1]', '"rescale_factor": [1, 1, 1]')
        ),
    ],
    "id2label": [
        "",
        "null",
        "[]",
        "{}",
        DEEP,
        '{"0": 5}',
        '{"a": "b"}',
        '{"0": "a", "7": "b"}',
        f'{{"1{"0" * 5000}": "a"}}',
    ],
    "config": [
        "",
        "null",
        "[]",
        DEEP,
        '{"score_threshold": "x"}',
        '{"score_threshold": NaN}',
        '{"score_threshold": [1]}',
    ],
}


@pytest.mark.parametrize("key", WORDS)
def test_damaged_words_of_a_file_are_one_sentence(key, tmp_path):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([], "words", [value], [value])
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)])
    file = tmp_path / "words.onnx"

    def load(words):
        onnx.helper.set_model_props(model, words)
        onnx.save(model, file)
        return load_onnx(file)

    assert load(WORDS).id2label == {0: "a"}
    for words in ({k: v for k, v in WORDS.items() if k != key}, *({**WORDS, key: text} for text in DAMAGED[key])):
        told = "does not say which classes" if key == "format" else "what it says of its detector is damaged"
        with pytest.raises(ValueError, match=f"^{file}:? {told}") as caught:
            load(words)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("boxes", ["pixel_values", "pixel_mask"])
def test_outputs_that_are_no_detections_are_one_sentence(boxes, tmp_path, photos):
    helper, kinds = onnx.helper, onnx.TensorProto
    kind_of = {"pixel_values": kinds.FLOAT, "pixel_mask": kinds.INT64}
    source_of = {"logits": "pixel_values", "pred_boxes": boxes}
    inputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in kind_of.items()]
    outputs = [helper.make_tensor_value_info(name, kind_of[source], None) for name, source in source_of.items()]
    nodes = [helper.make_node("Identity", [source], [name]) for name, source in source_of.items()]
    graph = helper.make_graph(nodes, "no detections", inputs, outputs)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    helper.set_model_props(model, WORDS)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    (failure,) = Detector(tmp_path / "a.onnx").detect(photos[:1])
    assert isinstance(failure, DetectionFailure) and "gives no scores and boxes" in failure.error


@pytest.mark.parametrize("kind", ["Loop", "Scan", "SequenceMap"])
def test_a_graph_with_a_loop_is_not_run(kind, tmp_path):
    node = onnx.helper.make_node(kind, [], ["logits"])
    graph = onnx.helper.make_graph([node], "forever", [], [])
    file = tmp_path / "loop.onnx"
    content = onnx.helper.make_model(graph).SerializeToString()
    length = bytes([len(kind)])
    for written in (content, content.replace(b"\x22" + length, b"\x22" + bytes([len(kind) | 0x80]) + b"\x80\x00")):
        assert kind.encode() in written
        file.write_bytes(written)
        with pytest.raises(ValueError, match=rf"has a loop \({kind}\)"):
            load_onnx(file)


def test_a_split_that_is_not_there_is_told_by_its_option(samples):
    from deformable_detr_refine.serving.export.proof_data import data_rows

    with pytest.raises(ValueError, match="it has only train: --split train takes all of it"):
        data_rows((), str(samples.parent / "annotations" / "fridge.json"), "validation", 1)
