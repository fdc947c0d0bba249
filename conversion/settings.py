"""Which configuration a checkpoint needs: shapes first, then the config, then flags, then the code base's defaults."""

from dataclasses import dataclass, field
from typing import Any

from deformable_detr_refine.errors import CheckpointError

from .code_base import CodeBase
from .facts import ConfigFacts

# A crafted config may ask for any number, and in a two-stage model no shape contradicts it.
_MOST_QUERIES = 100_000
_FLAGS = {"num_queries": "--num-queries", "two_stage": "--two-stage", "with_box_refine": "--box-refine"}
_HEADS = ("encoder_attention_heads", "decoder_attention_heads")


@dataclass
class ModelSettings:
    """
    Attributes:
        fields: arguments of DeformableDetrRefineConfig, without labels; and `num_labels`.
        assumed: sentences on what neither shapes nor text nor a flag told.
    """

    fields: dict[str, Any]
    assumed: list[str] = field(default_factory=list)


def resolve_settings(
    shapes: dict[str, Any],
    text: ConfigFacts | None,
    flags: dict[str, Any],
    unequal_copy: str | None,
    code_base: CodeBase,
    where: str,
) -> ModelSettings:
    """Combine what is known about the model; whatever is said twice must agree.

    Args:
        shapes: from `describe_shapes`, and what names tell.
        text: what the config says, or None without one.
        flags: `num_queries`, `two_stage`, `with_box_refine`, `num_heads`; None where not given.
        unequal_copy: a head parameter that differs from layer 0's, or None when all layers have the same head.
        code_base: says what its defaults are.
        where: the checkpoint, for messages.

    Raises:
        CheckpointError: two sources contradict each other.
    """
    settings = ModelSettings({name: value for name, value in shapes.items() if not name.endswith("_samples")})
    if text is not None:
        for name, value in text.fields.items():
            _agree(settings.fields, name, value, f"{where}: {text.speaker} says", "the weights")
        settings.fields |= text.fields
    for name, flag in _FLAGS.items():
        _agree(
            settings.fields,
            name,
            flags.get(name),
            f"{where}: {_spelt(flag, flags.get(name))} says",
            "the weights or the config",
        )
    for name in _HEADS:
        _agree(settings.fields, name, flags.get("num_heads"), f"{where}: --num-heads says", "the config")
    settings.fields |= {name: flags[name] for name in _FLAGS if flags.get(name) is not None}
    if flags.get("num_heads") is not None:
        settings.fields |= dict.fromkeys(_HEADS, flags["num_heads"])

    _assume(settings, text, code_base)
    settings.fields = code_base.fields | settings.fields
    if settings.fields["num_queries"] > _MOST_QUERIES:
        raise CheckpointError(f"{where} says num_queries={settings.fields['num_queries']:.3g}, which no model has.")
    _decide_refinement(settings, unequal_copy, where)
    for part in ("encoder", "decoder"):
        _points(settings.fields, part, shapes[f"{part}_samples"], where)
    return settings


def _agree(known: dict[str, Any], name: str, value: Any, speaker: str, others: str) -> None:
    if value is not None and name in known and known[name] != value:
        raise CheckpointError(f"{speaker} {name}={value!r}, but {others} {known[name]!r}.")


def _spelt(flag: str, value: Any) -> str:
    """The flag as it was given: --no-two-stage says two_stage=False."""
    return f"--no-{flag.removeprefix('--')}" if value is False else flag


def _assume(settings: ModelSettings, text: ConfigFacts | None, code_base: CodeBase) -> None:
    reason = f"{text.speaker} does not say" if text else "there is no config text and shapes do not tell"
    for name, value in (code_base.defaults | (text.defaults if text else {})).items():
        if name not in settings.fields:
            settings.fields[name] = value
            settings.assumed.append(f"{name}={value}, {code_base.possessive} default ({reason}).")
    if text is None:
        settings.assumed.append(
            f"Image size, mean and standard deviation, dropout and loss weights as in {code_base.possessive} released "
            "configs (there is no config text)."
        )


def _decide_refinement(settings: ModelSettings, unequal_copy: str | None, where: str) -> None:
    fields = settings.fields
    if "with_box_refine" not in fields:
        # Plain lists one head once per layer, so its copies are equal; trained heads of their own never are.
        one_head = unequal_copy is None and not (fields["two_stage"] or fields["decoder_layers"] == 1)
        fields["with_box_refine"] = not one_head
        reason = "all decoder layers have the same head" if one_head else "each decoder layer has a head of its own"
        if unequal_copy is None and not one_head:
            reason = "two-stage models do" if fields["two_stage"] else "with one decoder layer it makes no difference"
        settings.assumed.append(f"with_box_refine={not one_head}: no config text or flag tells, but {reason}.")
    if fields["two_stage"] and not fields["with_box_refine"]:
        raise CheckpointError(f"{where} is two-stage without box refinement, which this package does not have.")
    if not fields["with_box_refine"] and unequal_copy is not None:
        raise CheckpointError(
            f"{where}: {unequal_copy} differs from layer 0's, but a plain model (with_box_refine=False) has one head "
            "for all layers."
        )


def _points(fields: dict[str, Any], part: str, samples: int, where: str) -> None:
    """heads * levels * points is in the shapes; with the heads known, the points follow."""
    heads, levels = fields[f"{part}_attention_heads"], fields["num_feature_levels"]
    name = f"{part}_n_points"
    if heads < 1 or samples % (heads * levels) or fields["d_model"] % heads:
        raise CheckpointError(
            f"{where}: the {part}'s attention has {samples} weights a query and width {fields['d_model']}, which "
            f"{heads} heads and {levels} levels do not divide; give --num-heads or the config (--config)."
        )
    points = samples // (heads * levels)
    _agree(fields, name, points, f"{where}: the weights, with {heads} heads and {levels} levels, say", "the config")
    fields[name] = points


__all__ = ["ModelSettings", "resolve_settings"]
