"""Properties of the model that hold whatever its weights are."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from support.goldens_mmdet import NO_DROPOUT, VARIANTS, golden_config
from support.small_detector import small_detector

from deformable_detr_refine import (
    DeformableDetrRefineConfig,
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineModel,
)
from deformable_detr_refine.modeling.configuration_deformable_detr_refine import (
    DeformableDetrRefineConfig as ConfigFromModule,
)


def build(variant="refine_twostage", **overrides):
    torch.manual_seed(0)
    return DeformableDetrRefineForObjectDetection(golden_config("tiny", variant, **{**NO_DROPOUT, **overrides}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_batch_of_equal_shapes_is_one_by_one(variant, pixels):
    model = build(variant).eval()
    with torch.no_grad():
        together = model(pixels)
        alone = [model(image[None]) for image in pixels]
    torch.testing.assert_close(together.logits, torch.cat([output.logits for output in alone]), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        together.pred_boxes, torch.cat([output.pred_boxes for output in alone]), rtol=0, atol=1e-5
    )


def test_mask_of_ones_is_no_mask(detector, pixels):
    with torch.no_grad():
        masked = detector(pixels, torch.ones(pixels.shape[0], *pixels.shape[2:]))
        bare = detector(pixels)
    torch.testing.assert_close(masked.logits, bare.logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(masked.pred_boxes, bare.pred_boxes, rtol=0, atol=1e-6)


def test_sizes_in_the_labels_stand_in_for_the_mask(pixels, targets):
    model, sizes = build().eval(), torch.tensor([[128, 160], [96, 160], [128, 64], [64, 80]])
    mask, padded = torch.zeros(4, 128, 160, dtype=torch.int64), torch.zeros_like(pixels)
    for index, (height, width) in enumerate(sizes):
        mask[index, :height, :width] = 1
        padded[index, :, :height, :width] = pixels[index, :, :height, :width]
    labels = [{**target, "size": size} for target, size in zip(targets, sizes, strict=True)]
    with torch.no_grad():
        expected, from_labels = model(padded, mask, labels=targets), model(padded, labels=labels)
        whole = model(padded, labels=targets)
    assert torch.equal(from_labels.logits, expected.logits) and from_labels.loss == expected.loss != whole.loss


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_not_asked_for_is_not_kept(variant, pixels):
    model = build(variant).eval()
    with torch.no_grad():
        plain = model(pixels[:1])
        full = model(pixels[:1], output_hidden_states=True, output_attentions=True, output_proposals=True)
    assert set(plain) == {"logits", "pred_boxes"}
    B, Q, K, L, S = 1, 30, 5, 2, 16 * 20 + 8 * 10 + 4 * 5 + 2 * 3
    shapes = {
        "logits": (B, Q, K),
        "pred_boxes": (B, Q, 4),
        "intermediate_logits": (L, B, Q, K),
        "intermediate_pred_boxes": (L, B, Q, 4),
        "initial_reference_points": (B, Q, 4 if variant == "refine_twostage" else 2),
        "encoder_last_hidden_state": (B, S, 256),
    }
    if variant == "refine_twostage":
        shapes |= {"encoder_logits": (B, S, K), "encoder_pred_boxes": (B, S, 4)}
    assert {name: tuple(value.shape) for name, value in full.items() if torch.is_tensor(value)} == shapes
    per_layer = {
        "encoder_hidden_states": (L + 1, (B, S, 256)),
        "decoder_hidden_states": (L + 1, (B, Q, 256)),
        "encoder_sampling_locations": (L, (B, S, 8, 4, 4, 2)),
        "encoder_attentions": (L, (B, S, 8, 4, 4)),
        "decoder_sampling_locations": (L, (B, Q, 8, 4, 4, 2)),
        "cross_attentions": (L, (B, Q, 8, 4, 4)),
        "decoder_attentions": (L, (B, 8, Q, Q)),
    }
    assert {name: (len(full[name]), tuple(full[name][0].shape)) for name in per_layer} == per_layer
    torch.testing.assert_close(full.logits, plain.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(full.intermediate_pred_boxes[-1], plain.pred_boxes, rtol=0, atol=1e-5)
    assert torch.equal(full.encoder_hidden_states[-1], full.encoder_last_hidden_state)
    everything_else = set(full) - {"logits", "pred_boxes"}
    assert everything_else <= set(DeformableDetrRefineConfig.keys_to_ignore_at_inference)


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_reaches_every_trained_parameter(variant, pixels, targets):
    model = build(variant).train()
    model(pixels, labels=targets).loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


@pytest.mark.parametrize(
    ("backbone", "frozen", "trained"),
    [
        ("resnet18", ("conv1", "bn1", "layer1"), ("layer2", "layer3", "layer4")),
        ("tf_efficientnet_lite0", ("conv_stem", "bn1", "blocks.0", "blocks.1"), ("blocks.2", "blocks.6")),
    ],
)
def test_stem_and_first_stage_and_batch_norm_are_frozen(backbone, frozen, trained, pixels):
    model = build(backbone=backbone).train()
    body = model.model.backbone.body
    for name, parameter in body.named_parameters():
        if name.startswith(tuple(f"{stage}." for stage in frozen)):
            assert not parameter.requires_grad, name
    assert all(any(p.requires_grad for n, p in body.named_parameters() if n.startswith(stage)) for stage in trained)
    norms = [module for module in body.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms and not any(module.training or module.weight.requires_grad for module in norms)
    before = copy.deepcopy(body.state_dict())
    model(pixels)
    assert all(torch.equal(before[name], value) for name, value in body.state_dict().items())
    assert model.eval()(pixels).logits.isfinite().all()


def test_frozen_stages_can_be_chosen():
    everything = build(backbone_frozen_stages=-1).model.backbone.body
    assert everything.conv1.weight.requires_grad and not everything.bn1.weight.requires_grad
    stem = build(backbone_frozen_stages=0).model.backbone.body
    assert not stem.conv1.weight.requires_grad and stem.layer1[0].conv1.weight.requires_grad
    nothing = build(backbone_frozen_stages=4).model.backbone.body
    assert not any(p.requires_grad for p in nothing.parameters())


def test_backbone_can_be_frozen_and_trained_again(pixels, targets):
    model = build(backbone="resnet18").train()
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    model.freeze_backbone()
    model.train()(pixels, labels=targets).loss.backward()
    assert not any(p.requires_grad for p in model.model.backbone.parameters())
    assert all(p.grad is not None for p in model.model.neck.parameters())
    model.model.unfreeze_backbone()
    assert [name for name, p in model.named_parameters() if p.requires_grad] == trained


@pytest.mark.parametrize(
    "overrides",
    [
        {"d_model": 128, "encoder_attention_heads": 4, "decoder_attention_heads": 8},
        {"embed_dims": 64, "num_feature_levels": 3},
        {"num_feature_levels": 5, "num_queries": 7},
        {"num_feature_levels": 1, "encoder_n_points": 2, "decoder_n_points": 3, "num_queries": 12},
        {"num_labels": 1},
        {"backbone": "convnext_atto"},
    ],
    ids=str,
)
def test_other_sizes_of_the_family_train(overrides, pixels, targets):
    model = build(**overrides).train()
    labels = [{**target, "class_labels": target["class_labels"] % model.config.num_labels} for target in targets]
    output = model(pixels, labels=labels)
    output.loss.backward()
    assert output.loss.isfinite() and output.pred_boxes.shape == (4, model.config.num_queries, 4)


def test_gradient_checkpointing_changes_nothing(pixels, targets):
    model = build().train()
    plain = gradients(model, pixels, targets)
    model.gradient_checkpointing_enable()
    checkpointed = gradients(model, pixels, targets)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


def test_gradient_checkpointing_draws_the_same_dropout(pixels, targets):
    model = build(dropout=0.2, activation_dropout=0.1, attention_dropout=0.1).train()
    plain = gradients(model, pixels, targets)
    model.gradient_checkpointing_enable()
    checkpointed = gradients(model, pixels, targets)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


def gradients(model, pixels, targets):
    torch.manual_seed(7)
    model.zero_grad()
    model(pixels, labels=targets).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("variant", ["refine"])
def test_autocast_keeps_coordinates_in_fp32(variant, pixels, targets):
    # Not two-stage: with random weights rounding changes which proposals are best.
    model = build(variant).eval()
    with torch.no_grad():
        exact = model(pixels)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(pixels)
    assert rounded.pred_boxes.dtype == torch.float32
    torch.testing.assert_close(rounded.pred_boxes, exact.pred_boxes, rtol=0, atol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.train()(pixels, labels=targets).loss
    assert loss.dtype == torch.float32 and loss.isfinite()
    loss.backward()


def test_whole_model_in_bf16(pixels):
    output = build().bfloat16().eval()(pixels.bfloat16())
    assert output.logits.dtype == torch.bfloat16 and output.pred_boxes.dtype == torch.float32


def test_attention_implementations_agree(pixels):
    model = build().eval()
    with torch.no_grad():
        assert model.config._attn_implementation == "sdpa"
        sdpa, with_weights = model(pixels).logits, model(pixels, output_attentions=True)
        model.set_attn_implementation("eager")
        eager = model(pixels)
    torch.testing.assert_close(sdpa, eager.logits, rtol=0, atol=1e-5)
    assert torch.equal(with_weights.logits, eager.logits) and eager.decoder_attentions is None


def test_one_graph_holds_the_whole_forward(pixels):
    """Without a mask: below."""
    detector, mask = small_detector(), torch.ones(4, 128, 160, dtype=torch.int64)
    mask[1, 100:] = 0
    compiled = torch.compile(detector, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(pixels, mask).logits, detector(pixels, mask).logits, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_inductor_compiles_the_whole_forward(pixels):
    detector = small_detector()
    compiled = torch.compile(detector, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(pixels).logits, detector(pixels).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", [DeformableDetrRefineModel, DeformableDetrRefineForObjectDetection])
def test_what_the_call_leaves_open_the_config_decides(kind, pixels):
    torch.manual_seed(0)
    settings = {"output_hidden_states": True, "output_attentions": True, "attn_implementation": "eager"}
    model = kind(golden_config(**NO_DROPOUT, **settings)).eval()
    with torch.no_grad():
        full = model(pixels[:1])
        few = model(pixels[:1], output_hidden_states=False, output_attentions=False)
        model.config.return_dict = False
        as_tuple, as_output = model(pixels[:1]), model(pixels[:1], return_dict=True)
    names = {"encoder_hidden_states", "decoder_hidden_states", "encoder_last_hidden_state"}
    names |= {"encoder_attentions", "decoder_attentions", "cross_attentions"}
    names |= {"encoder_sampling_locations", "decoder_sampling_locations"}
    assert names <= set(full) and not names & set(few)
    assert type(as_tuple) is tuple and len(as_tuple) == len(as_output) == len(full)
    assert torch.equal(as_tuple[0], as_output.to_tuple()[0])


def test_hidden_states_and_attentions_keep_their_gradients(pixels):
    model = build(output_hidden_states=True, output_attentions=True, attn_implementation="eager").eval()
    output = model(pixels[:1])
    names = "encoder_hidden_states", "decoder_hidden_states", "encoder_attentions", "decoder_attentions"
    kept = [output[name][0] for name in (*names, "cross_attentions", "encoder_sampling_locations")]
    for tensor in kept:
        tensor.retain_grad()
    output.logits.sum().backward()
    assert all(tensor.grad is not None for tensor in kept)


def test_bare_model_gives_every_layer(pixels):
    torch.manual_seed(0)
    output = DeformableDetrRefineModel(golden_config(**NO_DROPOUT)).eval()(pixels)
    assert output.intermediate_hidden_states.shape == (2, 4, 30, 256)
    assert torch.equal(output.intermediate_hidden_states[-1], output.last_hidden_state)


def test_config_says_what_cannot_be_built():
    for kwargs, message in [
        ({"with_box_refine": False}, "two_stage=True needs with_box_refine=True"),
        ({"two_stage": False, "mixed_query_selection": True}, "mixed_query_selection=True needs two_stage=True"),
        ({"d_model": 100}, "not divisible"),
        ({"d_model": 288, "decoder_attention_heads": 7}, "decoder_attention_heads=7"),
        ({"focal_prior": 1.0}, "focal_prior"),
        ({"num_queries": 0}, "num_queries=0"),
        ({"encoder_n_points": 0}, "encoder_n_points=0"),
        ({"dropout": 3.0}, "dropout=3"),
        ({"backbone_frozen_stages": -5}, "backbone_frozen_stages=-5"),
    ]:
        with pytest.raises(StrictDataclassError, match=message):
            DeformableDetrRefineConfig(**kwargs)
    assert ConfigFromModule is DeformableDetrRefineConfig


def test_backbone_errors_name_the_backbone():
    with pytest.raises(ValueError, match="backbone='resnet18x' is not a model that timm"):
        build(backbone="resnet18x")
    with pytest.raises(ValueError, match=r"vit_tiny_patch16_224.* needs \[8, 16, 32\]"):
        build(backbone="vit_tiny_patch16_224")


def test_too_few_tokens_for_the_queries(pixels):
    model = build(num_queries=900).eval()
    with pytest.raises(ValueError, match="fewer than num_queries=900"):
        model(pixels)
