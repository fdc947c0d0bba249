"""preprocessor_config.json of a folder of transformers, of all ages, as settings of our image processor."""

import re
from typing import Any

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.messages import printable

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
    if "size" in values:
        settings["size"] = _sides(file)
    if file.any("pad_size") is not None:
        settings["pad_size"] = _two(file.section("pad_size"), "height", "width")
    return settings


def size_rule(version: str | None) -> str:
    """The rule of a release of transformers, the newest one's if it is not known.

    Example:
        >>> size_rule("4.30.2"), size_rule("4.57.1"), size_rule(None)
        ('original', 'transformers', 'transformers')
    """
    numbers = re.match(r"([0-9]{1,4})\.([0-9]{1,4})(?![0-9])", version or "")
    return "original" if numbers and (int(numbers[1]), int(numbers[2])) < _NEW_SIZES else "transformers"


def _sides(file: Section) -> dict[str, int]:
    """`size`, which was the short side alone in 2022, beside `max_size`."""
    size = file.any("size")
    if not isinstance(size, dict):
        size = {"shortest_edge": file.integer("size"), "longest_edge": file.any("max_size", 1333)}
    sides = ("height", "width") if "height" in size else ("shortest_edge", "longest_edge")
    return _two(Section(size, "size", file.where), *sides)


def _two(section: Section, one: str, other: str) -> dict[str, int]:
    sides = {name: section.integer(name) for name in (one, other)}
    if section.values.keys() != sides.keys() or not all(side and side > 0 for side in sides.values()):
        raise CheckpointError(
            f"{section.where}: {section.path.rstrip('.')} is {printable(str(section.values))}, not {one} and {other}."
        )
    return sides


__all__ = ["ALWAYS", "processor_settings", "size_rule"]
