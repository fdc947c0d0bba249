"""What every model card has, whoever writes it: its form, the names of the classes, and what made the model."""

import platform
from collections.abc import Iterable
from importlib.metadata import version

from deformable_detr_refine.messages import plain
from deformable_detr_refine.modeling import DeformableDetrRefineConfig


def card_text(front_matter: str, parts: Iterable[str], sections: Iterable[tuple[str, str | None]]) -> str:
    """The text of README.md.

    Args:
        front_matter: YAML.
        parts: title and paragraphs that stand first.
        sections: title and text of each; one without text is left out.

    Example:
        >>> print(card_text("license: mit", ["# Cans"], [("Use", "Anywhere."), ("Recipe", None)]), end="")
        ---
        license: mit
        ---
        <BLANKLINE>
        # Cans
        <BLANKLINE>
        ## Use
        <BLANKLINE>
        Anywhere.
    """
    told = [part for title, text in sections if text for part in (f"## {title}", text.strip())]
    return f"---\n{front_matter}\n---\n\n" + "\n\n".join([*parts, *told]) + "\n"


def class_names(config: DeformableDetrRefineConfig) -> list[str]:
    """The names of the classes, by label."""
    return [config.id2label[label] for label in range(config.num_labels)]


def label_list(config: DeformableDetrRefineConfig) -> str:
    """The names of the classes, unable to become markup."""
    return ", ".join(f"`{plain(name)}`" for name in class_names(config))


def made_with() -> str:
    """This package, what it stands on, and their versions."""
    packages = ("deformable-detr-refine", "torch", "transformers")
    return ", ".join([*(f"{name} {version(name)}" for name in packages), f"Python {platform.python_version()}"])


__all__ = ["card_text", "class_names", "label_list", "made_with"]
