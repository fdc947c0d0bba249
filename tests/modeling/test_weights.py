"""New weights, saving and loading."""

import math

import pytest
import torch
from support.goldens_mmdet import VARIANTS, golden_config

from deformable_detr_refine import DeformableDetrRefineForObjectDetection, DeformableDetrRefineModel
from deformable_detr_refine.modeling.attention import DeformableAttention

PRIOR = -math.log(99)
PARTS = [f"model.{part}" for part in ("backbone", "neck", "level_embed", "encoder", "first_stage", "decoder")]
PARTS.append("class_heads")


def same_tensors(a, b):
    theirs = b.state_dict()
    return a.state_dict().keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_new_weights_are_the_reference_ones(variant):
    model = DeformableDetrRefineForObjectDetection(golden_config("tiny", variant)).requires_grad_(False)
    body = model.model
    for module in model.modules():
        if isinstance(module, DeformableAttention):
            ring = module.sampling_offsets.bias.view(8, 4, 4, 2)
            steps = torch.arange(1.0, 5).expand(8, 4, 4)
            assert torch.allclose(ring.abs().amax(-1), steps)
            assert torch.allclose(ring[0, 0, 0], torch.tensor([1.0, 0.0]))
            assert torch.allclose(ring[1, 0, 1], torch.tensor([2.0, 2.0]))
            assert not module.sampling_offsets.weight.any() and not module.attention_weights.weight.any()
            assert not module.value_proj.bias.any()
            assert module.value_proj.weight.abs().max() == pytest.approx((6 / 512) ** 0.5, rel=1e-2)
    attention = body.decoder.layers[0].self_attn
    assert attention.q_proj.weight.abs().max() == pytest.approx((6 / 1024) ** 0.5, rel=1e-2)
    assert attention.out_proj.weight.abs().max() == pytest.approx((6 / 512) ** 0.5, rel=1e-2)
    assert body.encoder.layers[0].ffn.fc1.weight.abs().max() == pytest.approx((6 / 384) ** 0.5, rel=1e-2)
    assert body.level_embed.std() == pytest.approx(1, abs=0.15)
    for head in model.class_heads:
        assert torch.allclose(head.bias, torch.tensor(PRIOR))
        assert head.weight.abs().max() == pytest.approx(1 / 16, rel=1e-1)
    for index, head in enumerate(body.decoder.box_heads):
        size = 0.0 if variant == "refine_twostage" or index else -2.0
        assert head[-1].bias.tolist() == [0, 0, size, size] and not head[-1].weight.any()
        assert head[0].bias.any()
    if variant == "refine_twostage":
        assert body.first_stage.class_head.foreground.bias.item() == pytest.approx(PRIOR)
        assert not body.first_stage.box_head[-1].bias.any()


@pytest.mark.parametrize("shard_size", ["5GB", "2MB"], ids=["whole", "sharded"])
def test_saving_and_loading_is_identity(shard_size, detector, tmp_path, pixels):
    detector.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) == 1) == (shard_size == "5GB")
    loaded = DeformableDetrRefineForObjectDetection.from_pretrained(tmp_path)
    assert same_tensors(loaded, detector) and loaded.config.to_dict() == {
        **detector.config.to_dict(),
        "_name_or_path": loaded.config._name_or_path,
    }
    assert torch.equal(loaded(pixels).logits, detector(pixels).logits)


def test_loaded_model_is_frozen_where_the_new_one_is(saved, detector):
    loaded = DeformableDetrRefineForObjectDetection.from_pretrained(saved).train()
    trained = [name for name, p in loaded.named_parameters() if p.requires_grad]
    assert trained == [name for name, p in detector.named_parameters() if p.requires_grad]


def test_head_for_other_classes_keeps_what_ranks_and_boxes(saved, detector):
    loaded, info = DeformableDetrRefineForObjectDetection.from_pretrained(
        saved, num_labels=3, ignore_mismatched_sizes=True, output_loading_info=True
    )
    rebuilt = {name for name, *_ in info["mismatched_keys"]}
    stage = "model.first_stage.class_head.other_classes"
    heads = {f"class_heads.{i}.{kind}" for i in range(2) for kind in ("weight", "bias")}
    assert rebuilt == heads | {f"{stage}.weight", f"{stage}.bias"}
    before, after = detector.state_dict(), loaded.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in after if name not in rebuilt)
    for name in rebuilt:
        if name.endswith("bias"):
            assert torch.allclose(after[name], torch.tensor(PRIOR)), name
        else:
            assert 0.5 / 16 < after[name].abs().max() <= 1 / 16, name


def test_bare_model_loads_from_the_detector(saved, detector):
    loaded, info = DeformableDetrRefineModel.from_pretrained(saved, output_loading_info=True)
    assert not any(info.values()) and same_tensors(loaded, detector.model)


@pytest.mark.parametrize(
    "device_map",
    ["auto", "cpu", {**dict.fromkeys(PARTS, "cpu"), "model.backbone": "disk", "model.first_stage": "disk"}],
    ids=["auto", "cpu", "disk"],
)
def test_device_map(device_map, saved, detector, pixels, tmp_path):
    loaded = DeformableDetrRefineForObjectDetection.from_pretrained(
        saved, device_map=device_map, offload_folder=tmp_path
    )
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels).logits, detector(pixels).logits, rtol=0, atol=1e-5)


def test_backbone_weights_from_a_file(tmp_path):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(5)
    donor = timm.create_model("resnet18")
    save_file(donor.state_dict(), tmp_path / "resnet18.safetensors")
    model = DeformableDetrRefineForObjectDetection(golden_config())
    before = model.model.backbone.body.conv1.weight.clone()
    model.load_backbone_weights(tmp_path / "resnet18.safetensors")
    body = model.model.backbone.body
    assert not torch.equal(body.conv1.weight, before)
    assert all(torch.equal(value, donor.state_dict()[name]) for name, value in body.state_dict().items())


def test_backbone_weights_of_another_network_are_refused(tmp_path):
    model = DeformableDetrRefineForObjectDetection(golden_config())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    body = model.model.backbone.body.state_dict()
    body.pop("layer4.1.conv2.weight")
    torch.save(body, tmp_path / "partial.pth")
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"partial.pth does not hold the weights of resnet18: 1 of .* layer4.1.conv2"):
        model.load_backbone_weights(tmp_path / "partial.pth")
    with pytest.raises(ValueError, match=r"other\.pth does not hold the weights of resnet18"):
        model.load_backbone_weights(tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match="no file of backbone weights"):
        model.load_backbone_weights(tmp_path / "absent.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "convnext_atto"])
def test_backbone_weights_of_other_networks_load(backbone, tmp_path):
    import timm

    torch.manual_seed(5)
    donor = timm.create_model(backbone)
    torch.save(donor.state_dict(), tmp_path / "weights.pth")
    model = DeformableDetrRefineForObjectDetection(golden_config(backbone=backbone))
    model.load_backbone_weights(tmp_path / "weights.pth")
    theirs = donor.state_dict()
    for name, tensor in model.model.backbone.body.state_dict().items():
        assert torch.equal(tensor, theirs.get(name, theirs.get(name.replace("_", ".", 1)))), name


def test_config_builds_without_the_network(monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("network used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    DeformableDetrRefineForObjectDetection(golden_config())
