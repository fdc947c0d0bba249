"""What a config says about the model, in MMDetection 3.x's form and in 2.x's."""

import pytest
from support.golden_weights import GOLDENS

from deformable_detr_refine import DeformableDetrRefineConfig, DeformableDetrRefineImageProcessor
from deformable_detr_refine.conversion import CheckpointError
from deformable_detr_refine.conversion.mmdet_config.facts import describe_config
from deformable_detr_refine.conversion.mmdet_config.text import read_config_file, read_config_text
from deformable_detr_refine.conversion.mmdet_config.writer import mmdet_config_text
from deformable_detr_refine.conversion.proof.job import detector_settings

TEXT_2X = """
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
classes = ('cat', 'dog')
model = dict(
    type='DeformableDETR',
    backbone=dict(type='ResNet', depth=50, num_stages=4, out_indices=(1, 2, 3), frozen_stages=1, style='pytorch'),
    neck=dict(type='ChannelMapper', in_channels=[512, 1024, 2048], kernel_size=1, out_channels=256, act_cfg=None,
              norm_cfg=dict(type='GN', num_groups=32), num_outs=4),
    bbox_head=dict(
        type='DeformableDETRHead', num_query=200, num_classes=2, in_channels=2048, with_box_refine=True,
        as_two_stage=True,
        transformer=dict(
            type='DeformableDetrTransformer',
            encoder=dict(num_layers=5, transformerlayers=dict(
                attn_cfgs=dict(type='MultiScaleDeformableAttention', embed_dims=256), feedforward_channels=512,
                ffn_dropout=0.1, operation_order=('self_attn', 'norm', 'ffn', 'norm'))),
            decoder=dict(num_layers=4, transformerlayers=dict(
                attn_cfgs=[dict(type='MultiheadAttention', embed_dims=256, num_heads=8, dropout=0.1),
                           dict(type='MultiScaleDeformableAttention', embed_dims=256, num_points=2)],
                feedforward_channels=1024, ffn_dropout=0.1,
                operation_order=('self_attn', 'norm', 'cross_attn', 'norm', 'ffn', 'norm')))),
        positional_encoding=dict(type='SinePositionalEncoding', num_feats=128, normalize=True, offset=-0.5),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=3.0),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0), loss_iou=dict(type='GIoULoss', loss_weight=2.0)),
    train_cfg=dict(assigner=dict(cls_cost=dict(type='FocalLossCost', weight=4.0),
                                 reg_cost=dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                                 iou_cost=dict(type='IoUCost', iou_mode='giou', weight=2.0))))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(1000, 600), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True), dict(type='Normalize', **img_norm_cfg),
        dict(type='Pad', size_divisor=32)])]
data = dict(test=dict(pipeline=test_pipeline, classes=classes))
"""


def describe(text):
    return describe_config(read_config_text(text, "the text"), "the text")


@pytest.mark.parametrize("variant", ["plain", "refine", "refine_twostage"])
@pytest.mark.parametrize("size", ["tiny", "r50"])
def test_golden_configs(size, variant):
    path = GOLDENS / f"{size}_{variant}_config.py"
    facts = describe_config(read_config_file(path), str(path))
    labels = facts.fields.pop("num_labels")
    assert DeformableDetrRefineConfig(**facts.fields).variant == variant
    assert (labels, facts.fields["num_queries"]) == ((5, 30) if size == "tiny" else (80, 300))
    assert (
        DeformableDetrRefineImageProcessor(**facts.processor).to_dict()
        == DeformableDetrRefineImageProcessor().to_dict()
    )
    assert facts.notes == [] and facts.version == "3.x"


def test_config_of_2x():
    facts = describe(TEXT_2X)
    expected = {
        "two_stage": True,
        "with_box_refine": True,
        "num_queries": 200,
        "num_feature_levels": 4,
        "num_labels": 2,
        "backbone": "resnet50",
        "backbone_frozen_stages": 1,
        "d_model": 256,
        "encoder_layers": 5,
        "encoder_ffn_dim": 512,
        "decoder_layers": 4,
        "decoder_attention_heads": 8,
        "decoder_n_points": 2,
        "class_loss_coefficient": 3.0,
        "class_cost": 4.0,
        "dropout": 0.1,
    }
    assert {name: facts.fields.get(name) for name in expected} == expected
    assert facts.processor["size"] == {"shortest_edge": 600, "longest_edge": 1000}
    assert facts.processor["image_mean"] == [0.485, 0.456, 0.406]
    assert facts.class_names == ["cat", "dog"] and facts.version == "2.x"
    assert any("multiples of 32" in note for note in facts.notes)


def test_two_stage_of_2x_has_a_number_of_its_own():
    text = TEXT_2X.replace("type='DeformableDetrTransformer'", "two_stage_num_proposals=120")
    assert describe(text).fields["num_queries"] == 120
    assert describe(text.replace("as_two_stage=True", "as_two_stage=False")).fields["num_queries"] == 200


def test_a_written_config_says_what_the_model_is():
    config = DeformableDetrRefineConfig(
        backbone="resnet101", num_feature_levels=5, num_queries=77, decoder_n_points=3, encoder_attention_heads=4,
        num_labels=2, dropout=0.2, attention_dropout=0.2, activation_dropout=0.2, class_cost=3, giou_cost=1.5,
    )  # fmt: skip
    processor = DeformableDetrRefineImageProcessor(
        size={"shortest_edge": 480, "longest_edge": 640}, image_mean=[0.5] * 3
    )
    facts = describe(mmdet_config_text(config, processor, ["cat", "d'og"]))
    assert facts.fields.pop("num_labels") == 2 and facts.class_names == ["cat", "d'og"] and facts.notes == []
    again = DeformableDetrRefineConfig(**facts.fields, num_labels=2)
    assert again.to_dict() == config.to_dict()
    assert DeformableDetrRefineImageProcessor(**facts.processor).to_dict() == processor.to_dict()


def test_what_mmdetection_cannot_build_is_not_written():
    processor = DeformableDetrRefineImageProcessor()
    with pytest.raises(CheckpointError, match="tf_efficientnet_lite0"):
        mmdet_config_text(DeformableDetrRefineConfig(backbone="tf_efficientnet_lite0"), processor, ["a"])
    with pytest.raises(CheckpointError, match="width of 256"):
        mmdet_config_text(DeformableDetrRefineConfig(d_model=128), processor, ["a"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("type='DeformableDETR',", "type='DINO',", "describes DINO"),
        ("type='ResNet'", "type='SwinTransformer'", r"backbone\.type is 'SwinTransformer'"),
        ("style='pytorch'", "style='caffe'", r"model\.backbone\.style is 'caffe'"),
        ("out_indices=(1, 2, 3)", "out_indices=(0, 1, 2)", "out_indices"),
        ("act_cfg=None", "act_cfg=dict(type='ReLU')", r"neck\.act_cfg"),
        ("num_groups=32", "num_groups=16", "num_groups is 16"),
        ("normalize=True", "normalize=False", "normalize"),
        ("offset=-0.5", "offset=0.0", "offset"),
        ("use_sigmoid=True", "use_sigmoid=False", "use_sigmoid"),
        ("to_rgb=True", "to_rgb=False", "bgr_to_rgb"),
        ("num_heads=8", "num_heads=4", "4 heads in its self-attention and 8"),
        ("('self_attn', 'norm', 'ffn', 'norm')", "('norm', 'self_attn', 'norm', 'ffn')", "operation_order"),
        ("num_query=200", "num_query=compute()", r"model\.bbox_head\.num_query \(line 10\) is not a literal"),
        ("num_query=200", "num_query='many'", "not a whole number"),
        ("with_box_refine=True", "with_box_refine=1", "not True or False"),
        ("model = dict(", "other = dict(", "no `model` section"),
    ],
)
def test_what_this_package_computes_otherwise_is_refused(old, new, message):
    assert old in TEXT_2X
    with pytest.raises(CheckpointError, match=message):
        describe(TEXT_2X.replace(old, new))


def test_what_nobody_needs_may_be_unknown():
    text = (
        TEXT_2X
        + "\nwork_dir = f'x/{1}'\nlog = print('x')\ntest_dataloader = make()\nmodel['train_cfg']['hook'] = object()\n"
    )
    assert describe(text).fields == describe(TEXT_2X).fields


def test_training_differences_are_noted():
    notes = describe(
        TEXT_2X.replace("type='GIoULoss'", "type='CIoULoss'").replace("ffn_dropout=0.1", "ffn_dropout=0.0")
    ).notes
    assert any("CIoULoss" in note for note in notes) and any("dropout" in note for note in notes)


def test_the_last_part_of_a_type_is_its_name():
    """MMEngine's pure Python style, dumped: every type is the path of its class."""
    paths = {
        "type='DeformableDETR'": "type='mmdet.models.detectors.deformable_detr.DeformableDETR'",
        "type='ResNet'": "type='mmdet.models.backbones.resnet.ResNet'",
        "type='ChannelMapper'": "type='mmdet.models.necks.channel_mapper.ChannelMapper'",
        "type='GN'": "type='torch.nn.modules.normalization.GroupNorm'",
        "type='BN'": "type='torch.nn.modules.batchnorm.BatchNorm2d'",
        "type='FocalLoss'": "type='mmdet.models.losses.focal_loss.FocalLoss'",
        "type='FocalLossCost'": "type='mmdet.models.task_modules.assigners.match_cost.FocalLossCost'",
        "type='Resize'": "type='mmcv.transforms.processing.Resize'",
    }
    text = (GOLDENS / "tiny_refine_twostage_config.py").read_text()
    dumped = text
    for short, path in paths.items():
        dumped = dumped.replace(short, path)
    assert dumped.count("mmdet.models.") >= 5
    found, expected = describe(dumped), describe(text)
    assert (found.fields, found.processor, found.notes) == (expected.fields, expected.processor, expected.notes)
    with pytest.raises(CheckpointError, match=r"backbone\.type is 'mmdet\.models\.backbones\.swin\.SwinTransformer'"):
        describe(dumped.replace("backbones.resnet.ResNet", "backbones.swin.SwinTransformer"))
    assert detector_settings(read_config_text(dumped, "x"), "x") == detector_settings(read_config_text(text, "x"), "x")
