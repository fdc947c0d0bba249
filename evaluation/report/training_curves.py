"""Training curves from the log of transformers' Trainer."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .plots import Line, Style, line_plot

# Heading, axis, which keys of the log. Of the loss terms those of the last layer and the encoder are shown; the other
# layers' (d0.loss_cls ...) run alike.
_PLOTS = (
    ("AP while training", "AP", r"eval_AP(50|75)?"),
    ("Loss", "loss", r"(eval_)?loss"),
    ("Loss terms", "loss term", r"(enc_)?loss_\w+"),
    ("Learning rate", "learning rate", r"learning_rate\w*"),
)


def training_plots(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, list[tuple[str, Style]]]]:
    """Plots of what was logged, over epochs, or over steps if no epoch was logged.

    Args:
        history: `trainer.state.log_history`; entries and values that are no finite numbers are passed over.

    Returns:
        For each plot its heading, its `<svg>` and its legend.
    """
    clock = "epoch" if any(_is_number(entry.get("epoch")) for entry in history) else "step"
    entries = [entry for entry in history if _is_number(entry.get(clock))]
    plots = []
    for heading, axis, pattern in _PLOTS:
        keys = dict.fromkeys(key for entry in entries for key in entry if re.fullmatch(pattern, str(key)))
        lines = []
        for key in keys:
            points: dict[float, float] = {}
            for entry in entries:
                if _is_number(entry.get(key)):
                    # The first: at its end the Trainer evaluates the best weights again, as of the last epoch.
                    points.setdefault(entry[clock], entry[key])
            if points:
                mark = next(iter(points.items())) if len(points) == 1 else None  # one point makes no line
                lines.append(Line(str(key), list(points), list(points.values()), Style.number(len(lines)), mark))
        if lines:
            svg = line_plot(lines, clock, axis, f"{heading} over {clock}s", unit_y=axis == "AP")
            plots.append((heading, svg, [(line.key, line.style) for line in lines]))
    return plots


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


__all__ = ["training_plots"]
