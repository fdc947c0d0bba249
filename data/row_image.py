"""The image of a row of a detection data set."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from deformable_detr_refine.modeling import load_image


def row_image(row: Mapping[str, Any]) -> Image.Image:
    """The image of a row, upright and RGB.

    Raises:
        OSError, ValueError: it cannot be read, or its size is not the row's; the message names the file.

    Example:
        >>> row_image({"image": Image.new("L", (64, 32)), "file_name": "a.png", "width": 64, "height": 32}).size
        (64, 32)
    """
    source = row["image"]
    if isinstance(source, Mapping):
        source = source["bytes"] or source["path"]
    try:
        image = load_image(source)
    except (OSError, ValueError, TypeError) as error:
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"{row['file_name']}: {error}") from error
    except MemoryError as error:
        raise OSError(f"{row['file_name']}: There is not enough memory to read the image.") from error
    if image.size != (row["width"], row["height"]):
        raise ValueError(
            f"{row['file_name']} is {image.width}x{image.height} pixels, but the data set says "
            f"{row['width']}x{row['height']}, so its boxes may be those of another image."
        )
    return image
