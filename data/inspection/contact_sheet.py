"""A few images of a data set with their boxes, side by side."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deformable_detr_refine.inference.drawing import draw_boxes
from deformable_detr_refine.modeling.image_io import load_image

from ..detection_data import DetectionData

COLUMNS = 3
TILE = 480  # pixels, the longer side of a drawn image
MARGIN = 12
CAPTION = 30
LEAST_WIDTH = 360  # of a column, for the caption
LETTERS = 1.7  # times those of a single picture: a page shows the sheet at half its size
BACKGROUND, INK = (255, 255, 255), (40, 40, 40)


def contact_sheet(data: DetectionData, count: int = 12) -> Image.Image:
    """Draws images with their boxes and class names, as many of each split, spread evenly over it.

    Args:
        data: whose images are read here; those that cannot be are left out.
        count: how many images, at most.
    """
    tiles = [tile for split, index in _chosen(data, count) if (tile := _tile(data, split, index)) is not None]
    rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    heights = [max(picture.height for picture, _ in row) + CAPTION + MARGIN for row in rows]
    tile = max([LEAST_WIDTH, *(picture.width for picture, _ in tiles)])
    width = min(COLUMNS, max(len(tiles), 1)) * (tile + MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, sum(heights) + MARGIN), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, (picture, caption) in enumerate(row):
            left = MARGIN + column * (tile + MARGIN)
            draw.text((left, top), caption, fill=INK, font=font)
            sheet.paste(picture, (left, top + CAPTION))
        top += height
    return sheet


def _chosen(data: DetectionData, count: int) -> list[tuple[str, int]]:
    chosen, left = [], count
    for number, (split, dataset) in enumerate(data.splits.items()):
        share = min(left // (len(data.splits) - number), len(dataset))
        chosen += [(split, int(index)) for index in np.linspace(0, len(dataset) - 1, share).round()]
        left -= share
    return chosen


def _tile(data: DetectionData, split: str, index: int) -> tuple[Image.Image, str] | None:
    row = data.splits[split][index]
    try:
        image = load_image(row["image"]["path"] if row["image"]["bytes"] is None else row["image"]["bytes"])
    except (OSError, ValueError):
        return None
    scale = TILE / max(image.size)
    small = image.resize([max(round(side * scale), 1) for side in image.size], Image.Resampling.LANCZOS)
    # Boxes count pixels of the image as stated, so a wrong statement is to be seen here.
    boxes = np.array(row["objects"]["bbox"], np.float64).reshape(-1, 4) * scale
    boxes[:, 2:] += boxes[:, :2]
    labels = row["objects"]["category"]
    areas = row["objects"]["area"]
    picture = draw_boxes(
        small, boxes, labels, [data.label_map.names[label] for label in labels], areas, letters=LETTERS
    )
    name = row["file_name"].rsplit("/", 1)[-1]
    return picture, f"{split}: {name if len(name) <= 24 else '...' + name[-21:]}"


__all__ = ["contact_sheet"]
