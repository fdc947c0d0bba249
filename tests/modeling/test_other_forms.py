"""What other code bases have and MMDetection's form of the model has not: settings whose defaults are MMDetection's."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from support.small_detector import small_config
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter
from transformers.image_transforms import get_size_with_aspect_ratio

from deformable_detr_refine import (
    DeformableDetrRefineConfig,
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
)
from deformable_detr_refine.inference.exported import processor_settings_of
from deformable_detr_refine.inference.numpy_processor import NumpyImageProcessor
from deformable_detr_refine.modeling.backbone import Backbone
from deformable_detr_refine.modeling.size_rules import SIZE_RULES

OTHER = {"neck_bias": True, "dilation": True, "inverse_sigmoid_eps": 1e-3, "backbone_frozen_stages": 4}


def test_a_config_without_the_settings_is_mmdetections():
    values = DeformableDetrRefineConfig().to_dict()
    for name in OTHER:
        del values[name]
    config = DeformableDetrRefineConfig.from_dict(values)
    assert (config.neck_bias, config.dilation, config.inverse_sigmoid_eps) == (False, False, 1e-5)
    assert not any(name.endswith("conv.bias") for name in built(small_config()).state_dict())


def test_the_settings_go_through_a_folder(tmp_path):
    model = built(small_config(**OTHER)).eval()
    for level in model.model.neck.levels:
        torch.nn.init.normal_(level.conv.bias)
    model.save_pretrained(tmp_path)
    again = DeformableDetrRefineForObjectDetection.from_pretrained(tmp_path)
    assert {name: getattr(again.config, name) for name in OTHER} == OTHER
    pixels = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(again(pixels).logits, model(pixels).logits)
    assert not any(parameter.requires_grad for parameter in again.model.backbone.parameters())


def test_eps_holds_boxes_off_the_edge():
    model = built(small_config(two_stage=False, inverse_sigmoid_eps=0.1)).eval()
    for head in model.model.decoder.box_heads:
        torch.nn.init.zeros_(head[-1].bias)  # no step: a layer's box is the logit of the one before
    torch.nn.init.constant_(model.model.reference_points.bias, -20.0)
    with torch.no_grad():
        points = model(torch.rand(1, 3, 64, 96)).pred_boxes[..., :2]
    torch.testing.assert_close(points, torch.full_like(points, 0.1 / 1.1), atol=0.1, rtol=0)
    assert points.min() > 0.05


def test_dilated_network_is_torchvisions():
    theirs = resnet50(replace_stride_with_dilation=[False, False, True]).eval()
    ours = Backbone("resnet50", frozen_stages=1, dilation=True).eval()
    ours.body.load_state_dict({name: v for name, v in theirs.state_dict().items() if not name.startswith("fc.")})
    pixels = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        (expected,) = IntermediateLayerGetter(theirs, {"layer4": "0"})(pixels).values()
        found = ours(pixels)
    assert [tuple(level.shape[-2:]) for level in found] == [(8, 12), (4, 6), (4, 6)]
    torch.testing.assert_close(found[-1], expected, atol=1e-5 * expected.max().item(), rtol=1e-5)


@pytest.mark.parametrize(("frozen", "trained"), [(-1, {1, 2, 3, 4}), (1, {2, 3, 4}), (2, {3, 4}), (3, {4}), (4, set())])
def test_frozen_stages_are_counted_before_dilation(frozen, trained):
    body = Backbone("test_resnet", frozen, dilation=True).body
    found = {stage for stage in (1, 2, 3, 4) if any(p.requires_grad for p in body[f"layer{stage}"].parameters())}
    assert found == trained


def test_a_backbone_that_cannot_be_dilated_is_named():
    with pytest.raises(
        ValueError,
        match=r"backbone='swin_tiny_patch4_window7_224' has (no form with a dilated|feature levels of stride)",
    ):
        Backbone("swin_tiny_patch4_window7_224", 1, dilation=True)


def test_eps_must_be_one():
    with pytest.raises(StrictDataclassError, match="inverse_sigmoid_eps=0"):
        DeformableDetrRefineConfig(inverse_sigmoid_eps=0.0)


SHAPES = [(h, w) for h in range(31, 1500, 97) for w in range(29, 1500, 83)]


def test_size_rule_of_transformers_is_the_installed_ones():
    for height, width in SHAPES:
        expected = get_size_with_aspect_ratio((height, width), 800, 1333)
        assert SIZE_RULES["transformers"](height, width, 800, 1333) == expected


def test_size_rules_differ_by_rounding_only():
    for shape in SHAPES:
        short, long = sorted(shape)
        scale = min(800 / short, 1333 / long)
        for rule in SIZE_RULES.values():
            sides = sorted(rule(*shape, 800, 1333))
            assert abs(sides[0] - scale * short) <= 0.5
            # The authors' long side follows from the rounded short one.
            assert abs(sides[1] - scale * long) <= 1 + 0.5 * long / short
    assert all(rule(800, 1000, 800, 1333) == (800, 1000) for rule in SIZE_RULES.values())


def test_settings_of_the_processor_go_through_a_folder(tmp_path):
    settings = {"size_rule": "original", "antialias": True, "top_k": 300, "clip_boxes": False}
    DeformableDetrRefineImageProcessor(**settings).save_pretrained(tmp_path)
    again = DeformableDetrRefineImageProcessor.from_pretrained(tmp_path)
    in_onnx = NumpyImageProcessor.of(processor_settings_of({"image_processor": json.dumps(again.to_dict())}))
    assert all({name: getattr(processor, name) for name in settings} == settings for processor in (again, in_onnx))
    assert again.resized_shape(480, 640) == (800, 1066)
    file = tmp_path / "preprocessor_config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in values.items() if key not in settings}))
    older = DeformableDetrRefineImageProcessor.from_pretrained(tmp_path)
    assert (older.size_rule, older.antialias, older.top_k, older.clip_boxes) == ("mmdet", False, 100, True)


def test_size_rule_of_one_call_wins():
    processor = DeformableDetrRefineImageProcessor()
    photo = Image.new("RGB", (640, 480))
    assert processor(photo, size_rule="original", return_tensors="pt").pixel_values.shape[-2:] == (800, 1066)
    assert processor(photo, return_tensors="pt").pixel_values.shape[-2:] == (800, 1067)


@pytest.mark.parametrize("settings", [{"size_rule": "pil"}, {"top_k": 0}, {"top_k": "many"}, {"top_k": True}])
def test_settings_that_cannot_be_are_refused(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name}="):
        DeformableDetrRefineImageProcessor(**settings)


def test_top_k_and_clipping_are_the_processors():
    outputs = type(
        "Outputs", (), {"logits": torch.zeros(1, 4, 3), "pred_boxes": torch.tensor([[[0.1] * 2 + [0.4] * 2] * 4])}
    )
    processor = DeformableDetrRefineImageProcessor(top_k=7, clip_boxes=False)
    (found,) = processor.post_process_object_detection(outputs, 0.0, [(100, 100)])
    assert len(found["scores"]) == 7 and found["boxes"].min() == pytest.approx(-10, abs=1e-4)
    (found,) = processor.post_process_object_detection(outputs, 0.0, [(100, 100)], top_k=2)
    assert len(found["scores"]) == 2


def built(config):
    torch.manual_seed(0)
    return DeformableDetrRefineForObjectDetection(config)
