"""What an MMDetection config says about images and classes: size, normalisation, names."""

from collections.abc import Iterator
from typing import Any

from ..section import Section


def processor_fields(root: Section, preprocessor: Section, notes: list[str]) -> dict[str, Any]:
    """Fields of DeformableDetrRefineImageProcessor: from the test pipeline's `Resize` and the data preprocessor.

    Args:
        root: the whole config.
        preprocessor: `model.data_preprocessor`.
        notes: gets a sentence on what is done otherwise here.
    """
    result: dict[str, Any] = {}
    mean, std = preprocessor.numbers("mean", 3), preprocessor.numbers("std", 3)
    if mean and std:
        preprocessor.must_be("bgr_to_rgb", (True,), False)
        # MMDetection normalises 0..255, the image processor 0..1. Rounding undoes the division's last digit.
        result["image_mean"] = [round(value / 255, 12) for value in mean]
        result["image_std"] = [round(value / 255, 12) for value in std]
    if (divisor := preprocessor.integer("pad_size_divisor")) not in (None, 0, 1):
        notes.append(
            f"The config pads images to multiples of {divisor}; this package pads to the batch's largest image."
        )
    steps = _steps(_test_pipeline(root))
    resize = next((step for step in steps if step.kind("?") in ("Resize", "FixScaleResize")), None)
    if resize is not None and (scale := resize.numbers("scale", 2)):
        if resize.switch("keep_ratio") is False:
            result["size"] = {"height": int(scale[1]), "width": int(scale[0])}
        else:
            result["size"] = {"shortest_edge": int(min(scale)), "longest_edge": int(max(scale))}
    return result


def _test_pipeline(root: Section) -> Any:
    written = root.value_at("test_dataloader", "dataset", "pipeline")
    return written if isinstance(written, (list, tuple)) else root.value_at("test_pipeline")


def _steps(pipeline: Any) -> Iterator[Section]:
    for step in pipeline if isinstance(pipeline, (list, tuple)) else []:
        if isinstance(step, dict):
            yield Section(step, "test_pipeline", "the config")


def class_names(root: Section) -> list[str] | None:
    """The names of the data set that the config trains or tests on."""
    places = [("test_dataloader", "dataset", "metainfo"), ("train_dataloader", "dataset", "metainfo"), ("metainfo",)]
    places += [("data", "test"), ("data", "train"), ()]
    for place in places:
        for key in ("classes", "CLASSES", "class_names"):
            names = root.value_at(*place, key)
            if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
                return list(names)
    return None


__all__ = ["class_names", "processor_fields"]
