"""What the args in a checkpoint of the authors' main.py say about the model, in the fields of our configuration."""

from typing import Any

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.modeling import DeformableDetrRefineConfig

from ..facts import ConfigFacts
from ..resnets import RESNETS, resnet_of
from ..section import Section

# their arg, our field; the same in both directions
_SWITCHES = {"two_stage": "two_stage", "with_box_refine": "with_box_refine", "dilation": "dilation"}
_NUMBERS = {
    "num_feature_levels": "num_feature_levels",
    "enc_layers": "encoder_layers",
    "dec_layers": "decoder_layers",
    "hidden_dim": "d_model",
    "num_queries": "num_queries",
    "enc_n_points": "encoder_n_points",
    "dec_n_points": "decoder_n_points",
}
# one arg for two fields, which therefore must be equal to be written
_SHARED = {
    "dim_feedforward": ("encoder_ffn_dim", "decoder_ffn_dim"),
    "nheads": ("encoder_attention_heads", "decoder_attention_heads"),
}
_DROPOUTS = ("dropout", "attention_dropout", "activation_dropout")
_WEIGHTS = {
    "set_cost_class": "class_cost",
    "set_cost_bbox": "bbox_cost",
    "set_cost_giou": "giou_cost",
    "cls_loss_coef": "class_loss_coefficient",
    "bbox_loss_coef": "bbox_loss_coefficient",
    "giou_loss_coef": "giou_loss_coefficient",
    "focal_alpha": "focal_alpha",
}
# What main.py takes for an option that is not given.
_DEFAULTS = {
    "backbone": "resnet50",
    "num_feature_levels": 4,
    "enc_layers": 6,
    "dec_layers": 6,
    "hidden_dim": 256,
    "dim_feedforward": 1024,
    "nheads": 8,
    "num_queries": 300,
    "enc_n_points": 4,
    "dec_n_points": 4,
}


def describe_args(args: dict[str, Any], where: str, speaker: str) -> ConfigFacts:
    """Read the args of a run, as plain values.

    Args:
        args: name -> value; whatever is not asked for may be anything.
        where: what to call the file in messages; `speaker`: what to call the args.

    Raises:
        CheckpointError: they ask for a part that this package computes differently, or hold another kind of value.
    """
    section = Section(args, "args", where)
    section.must_be("position_embedding", ("sine", "v2"), "sine")
    section.must_be("masks", (False,), False)
    section.must_be("backbone", (None, *RESNETS), None)
    said: dict[str, Any] = {"backbone": section.any("backbone")}
    said |= {ours: section.switch(theirs) for theirs, ours in _SWITCHES.items()}
    said |= {ours: section.integer(theirs) for theirs, ours in _NUMBERS.items()}
    said |= {ours: section.integer(theirs) for theirs, fields in _SHARED.items() for ours in fields}
    said |= dict.fromkeys(_DROPOUTS, section.number("dropout"))
    said |= {ours: section.number(theirs) for theirs, ours in _WEIGHTS.items()}
    if (rate := section.number("lr_backbone")) is not None:
        # A rate of 0 freezes all of it, and any other trains it from its second stage on.
        said["backbone_frozen_stages"] = 1 if rate > 0 else 4
    notes = []
    if section.switch("aux_loss") is False:
        notes.append("Trained with the last decoder layer's losses only (--no_aux_loss); here all layers have them.")
    fields = {name: value for name, value in said.items() if value is not None}
    return ConfigFacts(fields=fields, notes=notes, raw=args, speaker=speaker)


def args_of(config: DeformableDetrRefineConfig) -> dict[str, Any]:
    """The args with which the authors' main.py builds a model of this configuration.

    Raises:
        CheckpointError: none do.
    """
    backbone = resnet_of(config.backbone, "the authors' code")
    if config.inverse_sigmoid_eps != 1e-5:
        raise CheckpointError(
            f"A model with inverse_sigmoid_eps={config.inverse_sigmoid_eps} has no counterpart in the authors' code, "
            "whose eps is 1e-05."
        )
    if config.num_feature_levels == 2:
        raise CheckpointError(
            "A model with 2 feature levels has no counterpart in the authors' code: it has 1, 3 or more."
        )
    if config.two_stage and config.d_model != 256:
        raise CheckpointError(f"The authors' two-stage model has a width of 256; this one has {config.d_model}.")
    args: dict[str, Any] = {"backbone": backbone, "position_embedding": "sine", "masks": False}
    args |= {theirs: getattr(config, ours) for theirs, ours in (_SWITCHES | _NUMBERS | _WEIGHTS).items()}
    for theirs, (one, other) in _SHARED.items():
        if getattr(config, one) != getattr(config, other):
            raise CheckpointError(
                f"A model with {one}={getattr(config, one)} and {other}={getattr(config, other)} has no counterpart in "
                f"the authors' code, which has one {theirs}."
            )
        args[theirs] = getattr(config, one)
    args |= {"dropout": config.dropout, "aux_loss": True, "frozen_weights": None}
    args["lr_backbone"] = 0.0 if config.backbone_frozen_stages >= 4 else 2e-5
    return args


def flags_of(args: dict[str, Any]) -> str:
    """The options of main.py that a model needs beside its defaults."""
    flags = [f"--{name}" for name in _SWITCHES if args[name]]
    return " ".join(flags + [f"--{name} {args[name]}" for name, value in _DEFAULTS.items() if args[name] != value])


__all__ = ["args_of", "describe_args", "flags_of"]
