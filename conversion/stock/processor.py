"""preprocessor_config.json of a folder of transformers, of all ages, as settings of our image processor."""

import re
from typing import Any

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.messages import described, printable
from deformable_detr_refine.modeling.size_rules import checked_size

from ..section import Section

# What stock does in every release, and ours by default does not.
ALWAYS = {"antialias": True, "clip_boxes": False}
_SWITCHES = ("do_resize", "do_rescale", "do_normalize", "do_pad")
_RESAMPLE = (0, 2, 3)  # nearest, bilinear, bicubic
# Its long side follows from the unrounded short one since then.
_NEW_SIZES = (4, 42)


def processor_settings(values: dict[str, Any], version: str | None, where: str) -> dict[str, Any]:
    """Fields of DeformableDetrRefineImageProcessor.

    Args:
        values: the file's content; empty where there is none.
        version: of transformers, as config.json says.
        where: what to call the file in messages.

    Raises:
        CheckpointError: it asks for something else than this package's image processor can do.
    """
    file = Section(values, "", where)
    settings: dict[str, Any] = ALWAYS | {"size_rule": size_rule(version)}
    settings |= {name: value for name in _SWITCHES if (value := file.switch(name)) is not None}
    settings |= {name: value for name in ("image_mean", "image_std") if (value := file.numbers(name, 3)) is not None}
    if (factor := file.number("rescale_factor")) is not None:
        settings["rescale_factor"] = factor
    if (resample := file.integer("resample")) is not None:
        file.must_be("resample", _RESAMPLE, 2)
        settings["resample"] = resample
    size, pad_size = file.any("size"), file.any("pad_size")
    if isinstance(size, int):  # the short side alone, in 2022
        size = {"shortest_edge": size, "longest_edge": file.any("max_size", 1333)}
    if size is not None:
        settings["size"] = _sides(size, "size", where)
    if pad_size is not None:
        settings["pad_size"] = _sides(pad_size, "pad_size", where)
        if settings["pad_size"].keys() != {"height", "width"}:
            raise CheckpointError(f"{where}: pad_size is {described(pad_size)}, not height and width.")
    return settings


def foreign_kind(values: dict[str, Any]) -> str | None:
    """The class of an image processor that is not of the DETR family, else None."""
    kind = values.get("image_processor_type", values.get("feature_extractor_type"))
    return printable(kind) if isinstance(kind, str) and "Detr" not in kind else None


def size_rule(version: str | None) -> str:
    """The rule of a release of transformers, the newest one's if it is not known.

    Example:
        >>> size_rule("4.30.2"), size_rule("4.57.1"), size_rule(None)
        ('original', 'transformers', 'transformers')
    """
    numbers = re.match(r"([0-9]{1,4})\.([0-9]{1,4})(?![0-9])", version or "")
    return "original" if numbers and (int(numbers[1]), int(numbers[2])) < _NEW_SIZES else "transformers"


def _sides(value: Any, key: str, where: str) -> dict[str, int]:
    try:
        return dict(checked_size({name: side for name, side in value.items() if side is not None}))
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where}: {key} is {described(value)}, not shortest_edge and longest_edge (or one of them), max_height "
            "and max_width, or height and width, as whole numbers of at least 1."
        ) from error


__all__ = ["ALWAYS", "foreign_kind", "processor_settings", "size_rule"]
