# ---
# jupyter:
#   jupytext:
#     formats: ipynb,.pct.py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What the detector sees
#
# Deformable DETR does not look at a whole image. Every query looks at a handful of points, and the network decides
# where these are and how much each counts. This notebook draws them: where tokens and queries look, layer by layer;
# what the first stage proposes; and how a box is refined until it is a detection.
#
# ```sh
# pip install ".[notebooks]"  # in the checkout
# ```
#
# The detector is the one that comes with the package. It finds blood cells under the microscope, is small (6.5 million
# parameters) and runs on any CPU. Everything here works with any detector of this package: give its folder to
# `load_detector`.

# %%
import json
from pathlib import Path

import numpy as np

from ddetr.default_model import default_model
from deformable_detr_refine.evaluation.inside.attention_plot import plot_query, plot_token
from deformable_detr_refine.evaluation.inside.inside import look_inside
from deformable_detr_refine.evaluation.inside.refinement_plot import plot_proposals, plot_refinement
from deformable_detr_refine.inference.load_detector import load_detector

SAMPLES = "../samples"
NAMES = ("BloodImage_00000", "BloodImage_00053", "BloodImage_00222")

model, processor = load_detector(str(default_model()), "cpu")
model.config.id2label

# %% [markdown]
# `look_inside` runs the detector once and keeps what happens in every layer: samples, weights, proposals and boxes, all
# in pixels of the original image.

# %%
cells = [look_inside(model, processor, [f"{SAMPLES}/images/{name}.jpg"])[0] for name in NAMES]
inside = cells[-1]
print("image:", inside.image.size, "levels of the pyramid (rows, columns):", inside.level_shapes)
print("boxes of every decoder layer:", inside.layer_boxes.shape, "(layers, queries, corners)")

# %% [markdown]
# ## The encoder: tokens look around
#
# The backbone turns the image into a pyramid of four levels. A cell of a level is a *token*. In each encoder layer a
# token looks at 4 points in each of the 4 levels, with each of its 6 heads: 96 samples instead of all 2,298 tokens.
#
# Below, a token of level 1 in the middle of the big white blood cell. From layer to layer its weight gathers on the
# cell.

# %%
plot_token(inside, 250, 130, level=1)

# %% [markdown]
# ## The first stage: every token proposes a box
#
# When the encoder is done, every token is asked: is there an object, and what is its box? The best 100 answers become
# the decoder's queries. Left: these proposals. Right: what is left after the decoder.

# %%
plot_proposals(inside)

# %% [markdown]
# ## The decoder: queries look at their object
#
# A query knows its box, and samples are placed in units of that box: a query of a small cell looks closely, one of a
# large cell takes wide steps. Nobody told the network to look at the rim of a cell; that is where its box is decided.

# %%
best = {inside.label(query): query for query in reversed(inside.best_queries())}
labels = {name: label for label, name in inside.id2label.items()}
plot_query(inside, best[labels["RBC"]])

# %%
plot_query(inside, best[labels["WBC"]])

# %% [markdown]
# Which levels does it use for which kind of cell? Of all detections in the three sample images, the share of the
# decoder's weight that goes to each level, fine to coarse. The finest level counts most, for the smallest cells above
# all:

# %%
shares = {name: [] for name in labels}
for cell in cells:
    for query in cell.best_queries():
        shares[cell.id2label[cell.label(query)]].append(cell.query_samples(query).level_shares().mean(0))
print(f"{'':12}{'detections':>12}" + "".join(f"{f'level {level}':>10}" for level in range(4)))
for name, rows in shares.items():
    print(f"{name:12}{len(rows):>12}" + "".join(f"{share:>10.0%}" for share in np.mean(rows, axis=0)))

# %% [markdown]
# ## How a box is refined
#
# A token starts with a box of its level's size around its cell, its *anchor*. The first stage moves it to the object;
# each decoder layer moves it a little more. Below, of all detections of cells that people boxed (green), the one that
# the decoder improved most.


# %%
def true_boxes(name: str) -> np.ndarray:
    """(N, 4) corners in pixels that people drew in an image."""
    coco = json.loads(Path(f"{SAMPLES}/annotations/blood_cells.json").read_text())
    (number,) = (image["id"] for image in coco["images"] if image["file_name"] == f"{name}.jpg")
    boxes = np.array([item["bbox"] for item in coco["annotations"] if item["image_id"] == number])
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of a box with others (N, 4)."""
    shared = np.clip(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), 0, None).prod(1)
    areas = [(b[..., 2:] - b[..., :2]).prod(-1) for b in (box, others)]
    return shared / (areas[0] + areas[1] - shared)


steps, gained = [], []
for cell, name in zip(cells, NAMES, strict=True):
    truth = true_boxes(name)
    for query in cell.best_queries():
        nearest = overlap(cell.layer_boxes[-1, query], truth)
        if nearest.max() > 0.5:
            goal = truth[nearest.argmax()]
            boxes = [cell.anchor(query), cell.start[query], *cell.layer_boxes[:, query]]
            steps.append([overlap(box, goal[None])[0] for box in boxes])
            gained.append((steps[-1][-1] - steps[-1][1], cell, query, goal))

_, cell, query, goal = max(gained, key=lambda row: row[0])
plot_refinement(cell, query, truth=goal)

# %% [markdown]
# And on average over these detections:

# %%
print(f"{len(steps)} detections of three images; mean overlap (IoU) with the box that a person drew")
for name, value in zip(("anchor", "proposal", "layer 1", "layer 2", "layer 3"), np.mean(steps, axis=0), strict=True):
    print(f"  {name:10}{value:.3f}  {'#' * round(40 * value)}")

# %% [markdown]
# ## From the command line
#
# The same pictures for any image and any detector:
#
# ```sh
# ddetr visualize detector photo.jpg --output inside
# ```

# %%
from ddetr.main import main as ddetr

assert ddetr(["visualize", f"{SAMPLES}/images/BloodImage_00000.jpg", "--output", "output/inside", "--top", "1"]) == 0
