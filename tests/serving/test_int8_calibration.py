"""How ranges for int8 are found on images, and which loss of AP is refused, on a detector that takes milliseconds."""

from statistics import mean

import pytest
import torch
from PIL import Image
from support.small_detector import save_small_detector

from deformable_detr_refine.inference.load_detector import load_detector
from deformable_detr_refine.modeling.int8_layers import Quantization, why_not_int8
from deformable_detr_refine.modeling.int8_model import _in_units
from deformable_detr_refine.serving.export import int8_export
from deformable_detr_refine.serving.export.int8_export import export_int8, quantized
from deformable_detr_refine.serving.export.proof import ProofError

pytestmark = pytest.mark.skipif(bool(why_not_int8()), reason=str(why_not_int8()))
IMAGES = [Image.new("RGB", (48, 36), colour) for colour in ("black", "orange")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_small_detector(tmp_path_factory.mktemp("small"))


def test_a_range_is_the_mean_of_the_images(folder):
    detector, processor = load_detector(str(folder), "cpu")
    int8, _ = quantized(detector, processor, IMAGES)
    fc1, fc2 = (int8.model.get_submodule(f"encoder.layers.0.ffn.fc{number}") for number in (1, 2))
    assert torch.equal(fc1.get_buffer("output"), fc2.get_buffer("input"))
    seen = []
    place = detector.model.get_submodule("encoder.layers.0.ffn.fc2")
    place.register_forward_pre_hook(lambda _, inputs: seen.append([part.item() for part in inputs[0].aminmax()]))
    with torch.inference_mode():
        for image in IMAGES:
            detector(**processor(images=[image], return_tensors="pt"))
    low, high = (mean(numbers) for numbers in zip(*seen, strict=True))
    assert seen[0][1] != pytest.approx(seen[1][1], rel=0.01)
    torch.testing.assert_close(
        fc2.get_buffer("input"), torch.tensor(Quantization.of_range(low, high)), rtol=1e-4, atol=0
    )


def test_what_is_pooled_is_read_as_it_was_written():
    network = _in_units(
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.MaxPool2d(2, 2), torch.nn.Conv2d(4, 4, 1))
    )
    x = torch.randn(1, 3, 9, 9)
    processor = lambda images, return_tensors: {"input": images[0]}  # noqa: E731
    layers = {name: network.get_submodule(name) for name in "02"}
    assert network.get_submodule("0").hands_on_uint8
    ranges = int8_export._observed(network, processor, [x], layers, lambda count: None)
    assert ranges["2"]["input"] == ranges["0"]["output"]


@pytest.mark.parametrize(
    ("before", "after", "error", "told"),
    [
        (0.5, 0.49, ProofError, "loses more than 0.5 points of AP: AP 0.4900, the model's 0.5000"),
        (0.5, 0.496, None, ""),
        (0.5, 0.6, None, ""),
        (-1.0, -1.0, ValueError, "There is no object in 3 images to judge int8 by"),
    ],
)
@pytest.mark.parametrize("accept_loss", [False, True])
def test_what_is_written(folder, tmp_path, monkeypatch, before, after, error, told, accept_loss):
    monkeypatch.setattr(int8_export, "average_precisions", lambda *args: [before, after])
    given = folder, tmp_path / "out", lambda names: IMAGES, lambda names: [{}, {}, {}]
    if error and not (error is ProofError and accept_loss):
        with pytest.raises(error, match=told):
            export_int8(*given, accept_loss=accept_loss)
        assert not list(tmp_path.iterdir())
    else:
        export_int8(*given, accept_loss=accept_loss)
        assert load_detector(str(tmp_path / "out"))[0].config.int8


def test_without_images_it_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="There is no image to calibrate int8 on"):
        export_int8(folder, tmp_path / "out", lambda names: [], lambda names: [{}])
    assert not list(tmp_path.iterdir())
