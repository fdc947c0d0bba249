"""Which images training could not use, found before its first step: unreadable ones, and ones of another size."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from ..defects import Defect
from .image_checks import decoded_images

if TYPE_CHECKING:
    import datasets


def damaged_images(
    rows: "datasets.Dataset", indices: Iterable[int], split: str, source: str, progress: bool = False
) -> dict[int, Defect]:
    """Decodes images in threads; those that cannot be read, or are of another size than their row says, are told.

    An image of another size loses: its boxes may be those of another image, so it is never trained on.

    Args:
        rows: a split in the canonical form.
        indices: which rows; a process of several takes its share, `range(rank, len(rows), ranks)`.
        split: its name.
        source: where the data set is.
        progress: show a bar on a terminal.

    Returns:
        Row -> what is wrong with its image.
    """
    indices = list(indices)
    decoded = decoded_images([(split, rows, index) for index in indices], source, progress)
    return {
        index: replace(image.defect, loses="image")
        for index, image in zip(indices, decoded, strict=True)
        if image.defect is not None
    }


__all__ = ["damaged_images"]
