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
# # Fine-tune on your own classes
#
# From boxes that people drew to a detector that finds them: look at the data, train, look at what it finds, load it
# again. The photos are of Fridge Objects, the sample of Azure's model catalogue: groceries in four classes.
#
# ```sh
# pip install ".[notebooks]"  # in the checkout
# ```
#
# ## The data
#
# It is wanted in the form that most data sets of the Hub have: a column with the image, and `objects` with `bbox`
# (x, y, width, height in pixels) and `category`. COCO, Pascal VOC, YOLO and Azure's JSONL are read as they are, too
# ([Data formats](../docs/data-formats.md)).
#
# Five of the 128 photos come with the package, with their boxes in COCO's file:

# %%
import json
from pathlib import Path

import datasets
from datasets import ClassLabel, Dataset, Features, Image, List, Value

coco = json.loads(Path("../samples/annotations/fridge.json").read_text())
names = [category["name"] for category in coco["categories"]]
number_of = {category["id"]: number for number, category in enumerate(coco["categories"])}
rows = []
for photo in coco["images"]:
    drawn = [box for box in coco["annotations"] if box["image_id"] == photo["id"]]
    objects = {"bbox": [box["bbox"] for box in drawn], "category": [number_of[box["category_id"]] for box in drawn]}
    rows.append({"image": f"../samples/images/{photo['file_name']}", "objects": objects})
objects = {"bbox": List(List(Value("float32"))), "category": List(ClassLabel(names=names))}
photos = Dataset.from_list(rows, features=Features({"image": Image(), "objects": objects}))
datasets.disable_progress_bars()
photos.save_to_disk("output/fridge")
photos

# %% [markdown]
# **Five photos are there to try things out.** Below, the detector learns them by heart and is evaluated on the photos
# that it was trained on: every figure says that training works, and nothing about other photos. For the real thing,
# `ddetr data fridge` downloads the whole set into `datasets/fridge`: 102 photos to train on, 26 to validate on.
#
# ## What is in it, and is anything wrong with it?

# %%
import PIL.Image

from ddetr.main import main as ddetr

assert ddetr(["data", "inspect", "output/fridge", "--output", "output/look"]) == 0
PIL.Image.open("output/look/contact_sheet.jpg")

# %% [markdown]
# Nothing would be lost, so the exit status is 0.
#
# ## What to start from
#
# A detector that knows photos. MMDetection's published one (COCO box AP 47.0) is one line away where there is a
# network; to train it takes a GPU. Here it is the small detector of blood cells that comes with the package, which a
# CPU can train; it has never seen a photo, so it needs more epochs and a higher learning rate. Either way the class
# heads are made anew for the classes of the data, and box heads and the ranking of proposals are kept.

# %%
START = "../samples/blood-cells"
# ddetr(["convert", "r50-refine-twostage", "output/r50"]); START = "output/r50"

# %% [markdown]
# ## Train
#
# The settings are those of `configs/fridge.yaml`, which is made for the whole set, with what five photos and a CPU need
# instead. With the whole set and a GPU, `--data ../datasets/fridge`, `--model` and `--output_dir` are all it takes.

# %%
from deformable_detr_refine.training.train import train

settings = {
    "data": "output/fridge",
    "model": START,
    "output_dir": "output/detector",
    # The five photos have no split of their own to validate on.
    "validation_data": "output/fridge",
    "validation_split": "train",
    # All five in a step, small, and the same in every epoch: what is learnt by heart needs no augmentation.
    "per_device_train_batch_size": 5,
    "shortest_edge": 192,
    "longest_edge": 320,
    "augmentation": "none",
    "num_train_epochs": 60,  # steps of one batch: a minute or two
    "learning_rate": 4e-4,
    "slow_factor": 0.5,  # the backbone comes from other images: let it learn, too
    "eval_strategy": "steps",
    "eval_steps": 10,
    "save_strategy": "no",
    "load_best_model_at_end": "false",
    "use_cpu": "true",
    "dataloader_num_workers": 0,
    "disable_tqdm": "true",
}
metrics = train(["../configs/fridge.yaml", *(word for name in settings for word in (f"--{name}", str(settings[name])))])

# %% [markdown]
# `output/detector` is a model folder, with the settings, the metrics and a page `report.html` beside the weights. The
# log is in `trainer_state.json`, every term of the loss in every layer:

# %%
import matplotlib.pyplot as plt

history = json.loads(Path("output/detector/trainer_state.json").read_text())["log_history"]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
for axes, terms in ((left, ("loss", "loss_cls", "loss_bbox", "loss_iou")), (right, ("eval_AP", "eval_AP50"))):
    for name in terms:
        points = [(line["epoch"], line[name]) for line in history if name in line]
        axes.plot(*zip(*points, strict=True), marker="." if name.startswith("eval") else "", label=name)
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.3)
    axes.legend()
left.set(title="loss, and its terms in the last layer", yscale="log")
right.set(title="AP on the photos it learns by heart", ylim=(0, 1.05))
plt.show()

# %% [markdown]
# ## How good is it?
#
# COCO's metrics, those of each class with them. On photos that it has not seen they are lower, and those count.

# %%
for name in ("AP", "AP50", "AP75", "AR100", *(f"AP_{name}" for name in names)):
    print(f"{name:16}{metrics[f'eval_{name}']:.2f}")

# %% [markdown]
# ## Load it again
#
# `from_pretrained` and `pipeline` take the folder, as `ddetr detect` and `ddetr serve` do. A detector gives scores;
# which of them count is yours to say. Training found the threshold at which precision and recall are best together
# (F1), on the validation photos, and wrote it into the config.

# %%
from transformers import AutoModelForObjectDetection, pipeline

import deformable_detr_refine  # registers the model with transformers' Auto classes

model = AutoModelForObjectDetection.from_pretrained("output/detector")
threshold = model.config.score_threshold
detect = pipeline("object-detection", model="output/detector")
results = detect([row["image"] for row in rows], threshold=threshold)
for row, found in zip(rows, results, strict=True):
    drawn = sorted(names[number] for number in row["objects"]["category"])
    print(Path(row["image"]).name, "drawn:", ", ".join(drawn))
    print("       found:", ", ".join(sorted(box["label"] for box in found)))
    assert sorted(box["label"] for box in found) == drawn

# %% [markdown]
# Figures do not tell what is wrong; looking does. `Detector` is the same without transformers' pipeline, and its
# `Detections` draw themselves:

# %%
from deformable_detr_refine.inference import Detector

every = Detector("output/detector").detect([row["image"] for row in rows], threshold=threshold)
sheet = PIL.Image.new("RGB", (1120, 1000), "white")
for place, (row, detections) in enumerate(zip(photos, every, strict=True)):
    drawn = detections.draw(row["image"]).resize((370, 494))
    sheet.paste(drawn, (place % 3 * 375, place // 3 * 500))
sheet

# %% [markdown]
# ## Where to go from here
#
# - other settings, validation, and what to change when it does not learn:
#   [Small data sets](../docs/guides/small-data-sets.md)
# - low scores, no boxes, duplicates: [Why?](../docs/guides/low-scores.md)
# - a Trainer of your own instead of ours: [Your own Trainer script](../docs/guides/own-trainer.md)
# - figures, curves and confusion of a detector: [evaluate.ipynb](evaluate.ipynb)
# - serve it: [online_endpoint.ipynb](online_endpoint.ipynb); over many images:
#   [batch_endpoint.ipynb](batch_endpoint.ipynb); to the Hub: [push_to_hub.ipynb](push_to_hub.ipynb)
