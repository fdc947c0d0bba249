"""The images that several processes evaluated, as one process would have them."""

from collections.abc import Iterable

from .evaluated_image import EvaluatedImage


def merge_images(parts: Iterable[Iterable[EvaluatedImage]]) -> list[EvaluatedImage]:
    """Merges the lists of all processes by image id. Samplers fill up the last round with images seen before: the
    first of equal ids is kept.

    Args:
        parts: a list of images for each process, in the order of ranks (`accelerate.utils.gather_object` gives them in
            one list: `[gathered]` does as well).

    Returns:
        Each image once, by rising id.

    Raises:
        ValueError: two different images have one id, which would be lost silently.

    Example:
        >>> image = lambda i: EvaluatedImage(i, f"{i}.jpg", (32, 64), [], [], [], [], [])
        >>> [image.image_id for image in merge_images([[image(3), image(1)], [image(2), image(3)]])]
        [1, 2, 3]
    """
    merged: dict[int, EvaluatedImage] = {}
    for part in parts:
        for image in part:
            kept = merged.setdefault(image.image_id, image)
            if (kept.file_name, kept.size) != (image.file_name, image.size):
                raise ValueError(
                    f"Image id {image.image_id} belongs to {kept.file_name} and to {image.file_name}; ids must differ."
                )
    return [merged[image_id] for image_id in sorted(merged)]


__all__ = ["merge_images"]
