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
# # How good is it?
#
# COCO's metrics, precision over recall, confusion, kinds of errors; and two ways to run one detector compared: float32
# with bfloat16, the operator in C with its specification in plain PyTorch.
#
# ```sh
# pip install ".[notebooks]"  # in the checkout
# ```
#
# The detector is the one that comes with the package; it finds blood cells. The data is three images of its validation
# set, with 48 boxes that people drew: **enough to show each step, too few to judge a detector.** Its card has the
# figures over all 87 images (AP 0.607). In the samples many red cells have no box, so that finding them counts as an
# error.

# %%
MODEL = "../samples/blood-cells"
DATA = "../samples/annotations/blood_cells.json"

# %% [markdown]
# ## On the command line
#
# One command for figures, curves and pictures. (The three images have no split of their own, so theirs is `train`.)

# %%
from ddetr.main import main as ddetr

assert ddetr(["evaluate", MODEL, DATA, "--split", "train", "--output", "output/evaluated"]) == 0

# %% [markdown]
# `report.html` is a page of its own to look at or to send to others; `metrics.json` also has Azure ML's metrics.
#
# ## Step by step
#
# `predict` runs the detector over the rows of a data set, in batches of one shape, so that nothing is padded. What it
# gives holds detections and truth of an image, and no pixels; all that follows is computed from these.

# %%
from deformable_detr_refine.data import LabelMap, load_detection_data
from deformable_detr_refine.evaluation.predict import predict
from deformable_detr_refine.inference.load_detector import load_detector

model, processor = load_detector(MODEL, "cpu")
names = LabelMap.from_config(model.config).names
# The model's own order of classes, whatever order the file has them in.
rows = load_detection_data(DATA, label_map=LabelMap.from_config(model.config))["train"]
images = list(predict(model, processor, rows))
for image in images:
    print(image.file_name, image.boxes.shape, "boxes found,", image.true_boxes.shape, "true ones")

# %% [markdown]
# COCO's twelve figures, by pycocotools:

# %%
from deformable_detr_refine.evaluation.metrics.coco import coco_metrics

metrics = coco_metrics(images, names)
{name: round(value, 3) for name, value in metrics.items() if name != "per_class"}

# %% [markdown]
# ## Precision and recall
#
# AP is the area under the curve of precision over recall, and COCO's is the mean over ten overlaps (IoU 0.50 to 0.95).
# The curve of each class at IoU 0.5, and F1 over the score threshold, from which the threshold for use is taken:

# %%
import matplotlib.pyplot as plt
import numpy as np

from deformable_detr_refine.evaluation.metrics.curves import (
    RECALLS,
    THRESHOLDS,
    best_threshold,
    f1_curve,
    precision_curve,
)
from deformable_detr_refine.evaluation.metrics.matching import match

matches = match(images)  # which detection found which object, at IoU 0.5, by COCO's rules
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for label, name in enumerate(names):
    mine = matches.labels == label
    objects = int((matches.true_labels == label).sum())
    correct = matches.truths[0][mine] >= 0
    left.plot(RECALLS, precision_curve(correct, objects), label=f"{name}, {objects} objects")
    right.plot(THRESHOLDS, f1_curve(matches.scores[mine], correct, objects), label=name)
left.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.03))
right.set(xlabel="score threshold", ylabel="F1", xlim=(0, 1), ylim=(0, 1.03))
for axes in (left, right):
    axes.grid(alpha=0.3)
    axes.legend()
plt.show()

best = best_threshold(matches.scores, matches.truths[0] >= 0, len(matches.true_labels))
print(
    f"over all classes, F1 is best at a threshold of {best.threshold}: "
    f"{best.f1:.2f} (precision {best.precision:.2f}, recall {best.recall:.2f})"
)

# %% [markdown]
# ## What is taken for what?
#
# At that threshold. The last column counts objects that were missed, the last row boxes where nothing is (or where the
# truth has no box).

# %%
from deformable_detr_refine.evaluation.metrics.confusion import confusion_matrix

matrix = confusion_matrix(matches, names, best.threshold)
figure, axes = plt.subplots(figsize=(4.6, 3.8), layout="constrained")
axes.imshow(matrix, cmap="Blues")
axes.set_xticks(range(len(matrix)), [*names, "missed"])
axes.set_yticks(range(len(matrix)), [*names, "nothing there"])
axes.set(xlabel="found", ylabel="true")
for (row, column), count in np.ndenumerate(matrix):
    axes.text(column, row, count, ha="center", va="center", color="white" if count > matrix.max() / 2 else "black")
plt.show()

# %% [markdown]
# ## Which errors cost most?
#
# Each kind, how often it occurs above the threshold, and how much AP50 would rise without it. AP counts boxes of every
# score: an object that is missed only above the threshold costs nothing there.

# %%
from deformable_detr_refine.evaluation.metrics.error_kinds import error_kinds

for kind, error in error_kinds(matches, names, best.threshold).items():
    print(f"{kind:16}{error.count:4}  costs {error.cost:.3f}")

# %% [markdown]
# ## Two detectors beside each other: float32 and bfloat16
#
# bfloat16 halves the memory, and on CPUs and GPUs that compute in it the time. What does it cost? The same images, each
# with both. (For two models of yours, load the other one in the place of `half`.)

# %%
import torch

half, _ = load_detector(MODEL, "cpu")
runs = {"float32": images, "bfloat16": list(predict(half.to(torch.bfloat16), processor, rows))}


def compare(runs: dict) -> None:
    """Prints AP of each run, and how far its detections are from those of the first."""
    first, *_ = runs.values()
    print(f"{'':16}{'AP':>8}{'AP50':>8}{'AP75':>8}   best 10 boxes of each image: largest difference of")
    for title, found in runs.items():
        result = coco_metrics(found, names)
        scores, pixels = 0.0, 0.0
        for one, other in zip(first, found, strict=True):
            assert one.image_id == other.image_id
            scores = max(scores, np.abs(one.scores[:10] - other.scores[:10]).max())
            # Boxes of nearly equal score may change places: each with the nearest one.
            apart = np.abs(one.boxes[:10, None] - other.boxes[None]).max(-1).min(1)
            pixels = max(pixels, apart.max())
        figures = "".join(f"{result[name]:8.3f}" for name in ("AP", "AP50", "AP75"))
        print(f"{title:16}{figures}   score {scores:.4f}, corner {pixels:.3f} pixels")


compare(runs)

# %% [markdown]
# Three images cannot tell a difference of a point of AP from none: over all 87 the card has 0.607 in float32 and 0.608
# in bfloat16.
#
# ## The operator in C and its specification
#
# Deformable attention has several backends (`ddetr doctor` lists them). `reference` is the one that the others are held
# to: a few lines of plain PyTorch, slow. Both in float32:

# %%
from deformable_detr_refine import use_backend

with use_backend("reference"):
    reference = list(predict(model, processor, rows))
compare({"as it comes": images, "reference": reference})

# %% [markdown]
# ## As a metric of `evaluate`
#
# Hugging Face's `evaluate` gives the same figures, without a network:

# %%
import evaluate

from deformable_detr_refine.evaluation import metric_path

metric = evaluate.load(metric_path())
for image in images:
    metric.add(
        prediction={"boxes": image.boxes, "scores": image.scores, "labels": image.labels},
        reference={"boxes": image.true_boxes, "labels": image.true_labels, "area": image.true_area},
    )
found = metric.compute(names=names)
assert abs(found["AP"] - metrics["AP"]) < 1e-9
print(f"AP {found['AP']:.3f}, AP50 {found['AP50']:.3f}")

# %% [markdown]
# ## Where to go from here
#
# - why was it found, or not: [look_inside.ipynb](look_inside.ipynb)
# - a detector of your own: [finetune_fridge_objects.ipynb](finetune_fridge_objects.ipynb)
# - how fast it is on your machine: `ddetr benchmark`
