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
# # From MMDetection, and back
#
# A checkpoint of MMDetection's Deformable DETR becomes a folder that `from_pretrained` loads. MMDetection need not be
# installed, and nothing in the file is executed: a `.pth` file is a pickle, which can run anything when it is loaded;
# this package opens it as data.
#
# ```sh
# pip install .  # in the checkout
# ```
#
# ## The three published checkpoints
#
# | MMDetection's config | its file ends in | box AP, as published | needs |
# |---|---|---|---|
# | `deformable-detr_r50_16xb2-50e_coco` | `_20221029_210934-6bc7d21b.pth` | 44.3 | nothing |
# | `deformable-detr-refine_r50_16xb2-50e_coco` | `_20221022_225303-844e0f93.pth` | 46.2 | nothing |
# | `deformable-detr-refine-twostage_r50_16xb2-50e_coco` | `_20221021_184714-acc8a5ff.pth` | 47.0 | nothing |
#
# The links stand in MMDetection's
# [configs/deformable_detr](https://github.com/open-mmlab/mmdetection/tree/main/configs/deformable_detr). Published
# files carry their config. A *bare state dict* does not: give it `--config FILE.py` (with its `_base_` files beside
# it) and, for classes that are not COCO's, `--classes names.txt`. For `refine` against plain there is no other way to
# tell, since the tensors of both have the same names; `--box-refine` or `--no-box-refine` tells too. Files of
# MMDetection 2.x, of training runs (with optimiser, log and averaged weights), and the MLflow folder of Azure's
# catalogue are taken as they are.
#
# The published files were not at hand when this was written. What is converted below and in the tests has their
# layout, names and shapes.
#
# ## A checkpoint to try with
#
# This writes a file of the same kind: full size (R-50,
# two stages, 80 classes), MMDetection's names, shapes and config text, **weights drawn at random**. What it detects
# means nothing; what it computes can be compared with MMDetection digit by digit.

# %%
import sys
from pathlib import Path

sys.path.insert(0, "../samples")
from random_checkpoint import write_checkpoint

CHECKPOINT = Path("output/checkpoint.pth")
write_checkpoint(CHECKPOINT)
print(f"{CHECKPOINT}: {CHECKPOINT.stat().st_size / 1e6:.0f} MB")

# %% [markdown]
# ## Convert it
#
# Besides the files below, the folder holds the model's own code: it also loads where only transformers is installed,
# with `trust_remote_code=True`. (`--force` replaces what an earlier run of this notebook wrote.)

# %%
from ddetr.main import main as ddetr

assert ddetr(["convert", str(CHECKPOINT), "output/converted", "--force"]) == 0
sorted(file.name for file in Path("output/converted").iterdir() if file.suffix != ".py")

# %% [markdown]
# The same in Python is `convert_mmdet_checkpoint`, which returns what was read from where:

# %%
from deformable_detr_refine.conversion import convert_mmdet_checkpoint

report = convert_mmdet_checkpoint(CHECKPOINT, "output/converted", force=True).to_dict()
{key: value for key, value in report.items() if key in ("variant", "version", "labels_from", "config_from", "assumed")}

# %% [markdown]
# The folder loads as any model of transformers does:

# %%
from transformers import AutoModelForObjectDetection

import deformable_detr_refine  # registers the model with transformers' Auto classes

model = AutoModelForObjectDetection.from_pretrained("output/converted").eval()
parameters = sum(parameter.numel() for parameter in model.parameters())
print(f"{model.config.variant}, {parameters:,} parameters, {model.config.num_labels} classes")
[model.config.id2label[label] for label in range(5)]

# %% [markdown]
# ## Are its numbers MMDetection's?
#
# MMDetection 3.1.0 computed proposals, logits and boxes of every decoder layer from these very weights, for two small
# photos in one padded batch; the numbers are stored in `tests/goldens`. The same batch here:

# %%
import numpy as np
import torch

sys.path.insert(0, "../tests")
from support.goldens_mmdet import golden_arrays, golden_batch

theirs = golden_arrays("r50_refine_twostage_detect")
batch = golden_batch("r50_inputs", 2)
with torch.inference_mode():
    ours = model(**batch, output_hidden_states=True)
print("two photos, padded to", tuple(batch["pixel_values"].shape))

# Two proposals of nearly equal score may change places: find MMDetection's order by the boxes.
order = torch.cdist(torch.from_numpy(theirs["init_reference"]), ours.initial_reference_points).argmin(-1)
pick = torch.arange(2)[:, None], order
for what, mine, reference in (
    ("proposals", ours.initial_reference_points[pick], theirs["init_reference"]),
    ("logits of 6 layers", ours.intermediate_logits[:, pick[0], order], theirs["logits"]),
    ("boxes of 6 layers", ours.intermediate_pred_boxes[:, pick[0], order], theirs["boxes"]),
):
    difference = np.abs(mine.numpy() - reference).max()
    assert difference < 1e-4
    print(f"{what:20} {tuple(mine.shape)!s:20} largest difference {difference:.0e}")

# %% [markdown]
# For your own checkpoint there are no stored numbers; this command gets the real MMDetection (about 300 MB, into a
# folder of its own), runs your file in both on the same pixels, and prints the differences:
#
# ```sh
# ddetr verify your.pth --images photo.jpg another.jpg --round-trip
# ```
#
# ## Detect
#
# The weights are random, so there is nothing to see; with a published checkpoint this is the whole way:

# %%
from transformers import pipeline

detect = pipeline("object-detection", model="output/converted")
found = detect("../samples/images/10.jpg", threshold=0.0)
print(len(found), "detections, best score", f"{found[0]['score']:.2f}")

# %% [markdown]
# ## And back again
#
# For those who deploy with MMDetection: the same tensors under MMDetection's names, with a config text, so that
# `init_detector` takes the file.

# %%
assert ddetr(["convert", "--to", "mmdet", "output/converted", "output/again.pth", "--force"]) == 0
before, after = (torch.load(f"output/{name}.pth", weights_only=True) for name in ("checkpoint", "again"))
assert before["state_dict"].keys() == after["state_dict"].keys()
assert all(torch.equal(tensor, after["state_dict"][name]) for name, tensor in before["state_dict"].items())
print(len(after["state_dict"]), "tensors, each the same bit for bit;", "config text:", "cfg" in after["meta"])

# %% [markdown]
# ## The other code bases
#
# Checkpoints of the authors' repository, of transformers' own Deformable DETR and of detrex go the same way; which code
# base wrote a file is found by looking. Here is a small one as the authors' `main.py` saves it (two layers, ResNet-18,
# weights drawn at random), with its `args` as an `argparse.Namespace`, which is opened as data too:

# %%
from support.goldens_other import other_arrays, other_batch
from support.goldens_other import write_checkpoint as write_other

theirs = write_other("original_tiny_refine", Path("output/authors"))
assert ddetr(["convert", str(theirs), "output/from-authors", "--force"]) == 0

# %% [markdown]
# What the authors' code computed of these weights is stored as well, since no package index has that code. The padded
# batch of two photos again:

# %%
small = AutoModelForObjectDetection.from_pretrained("output/from-authors").eval()
stored = other_arrays("original_tiny_refine")
with torch.inference_mode():
    ours = small(**other_batch("tiny"), output_hidden_states=True)
for what, mine, reference in (
    ("logits of 2 layers", ours.intermediate_logits[:, :, stored["queries"]], stored["logits"]),
    ("boxes of 2 layers", ours.intermediate_pred_boxes[:, :, stored["box_queries"]], stored["boxes"]),
):
    difference = np.abs(mine.numpy() - reference).max()
    assert difference < 1e-4
    print(f"{what:20} {tuple(mine.shape)!s:20} largest difference {difference:.0e}")

# %% [markdown]
# And back, or on to another code base: the authors' form gives the same tensors, and stock transformers loads a folder.

# %%
assert ddetr(["convert", "--to", "original", "output/from-authors", "output/authors.pth", "--force"]) == 0
assert ddetr(["convert", "--to", "transformers", "output/from-authors", "output/stock"]) == 0
before, after = (torch.load(path, weights_only=False)["model"] for path in (theirs, "output/authors.pth"))  # our own
assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)

# %% [markdown]
# ## What happens to a file that is not what it says?
#
# A pickle that would run something is refused, and what it would run is named; nothing of it has run:

# %%
from deformable_detr_refine.conversion import CheckpointError


class Attack:
    def __reduce__(self):
        return eval, ("open('output/attacked', 'w')",)


torch.save({"state_dict": {}, "meta": Attack()}, "output/attack.pth")
try:
    convert_mmdet_checkpoint("output/attack.pth", "output/attacked-detector")
except CheckpointError as error:
    print(error)
print("was anything run?", Path("output/attacked").exists())

# %% [markdown]
# ## Next
#
# - fine-tune it on your own classes: `finetune_fridge_objects.ipynb`
# - find objects: `inference.ipynb`
# - read more: the guides 'From MMDetection' and 'From the authors' code and detrex' in `docs/`
