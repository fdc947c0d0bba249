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
# Fridge Objects is the sample of Azure's model catalogue: photos of groceries in four classes. This notebook looks at
# the data, trains, evaluates, looks at the worst photos, saves and loads again. A data set of your own goes the same
# way: COCO, Pascal VOC, YOLO, Azure's JSONL and `datasets` are read as they are.
#
# ```sh
# pip install ".[notebooks]"  # in the checkout
# ```
#
# ## The data
#
# Five of the 128 photos come with the package. **Five photos are there to try things out.** Below, the detector learns
# them by heart: it is evaluated on the photos that it was trained on, so every figure says that training works, and
# nothing about other photos. For the real thing, `ddetr data fridge` downloads the whole set, 102 photos to train on
# and 26 to validate on; then change the one line:

# %%
DATA = "../samples/annotations/fridge.json"  # the whole set, after `ddetr data fridge`: "datasets/fridge"

# %% [markdown]
# ## What is in it, and is anything wrong with it?

# %%
from PIL import Image

from ddetr.main import main as ddetr

assert ddetr(["data", "inspect", DATA, "--output", "output/look"]) == 0
Image.open("output/look/contact_sheet.jpg")

# %% [markdown]
# Nothing would be lost, so the exit status is 0. (The images that are not listed are those of blood cells, which lie in
# the same folder.)
#
# ## A batch, as the model will see it
#
# The model to start from is the small detector of blood cells that comes with the package, since it trains on a CPU. On
# a GPU, start from a converted checkpoint of MMDetection. Its class heads are made anew for the classes of the data;
# box heads and the ranking of proposals are kept.

# %%
from deformable_detr_refine.data import load_detection_data
from deformable_detr_refine.data.augmentation.recipe import training_transform
from deformable_detr_refine.data.examples import Examples, collate
from deformable_detr_refine.training.arguments import DataArguments, DetectionTrainingArguments, ModelArguments
from deformable_detr_refine.training.dry_run import grid, picture
from deformable_detr_refine.training.model import build_model, build_processor
from deformable_detr_refine.training.trainer import DetectionTrainer

START = ModelArguments(model="../samples/blood-cells")
# Small pixels are quick to learn by heart; for the real thing leave the size to the model.
SIZE = DataArguments(shortest_edge=192, longest_edge=320)

data = load_detection_data(DATA)
train_rows = data["train"]
validation_rows = data.splits.get("validation", train_rows)  # the five photos have no split of their own
model, where_from = build_model(START, data.label_map)
processor = build_processor(START, SIZE)
print(data)
print(where_from)

# %% [markdown]
# `light` is the augmentation for hundreds of images: mirrored, zoomed in and out, colours changed. Three photos in
# three epochs, with the boxes that go with them:

# %%
augmentation = training_transform("light", SIZE.shortest_edge, SIZE.longest_edge)
examples = Examples(train_rows, processor, augmentation, seed=0)
grid(
    [picture(examples[(epoch, index)], processor, model.config.id2label) for epoch in range(3) for index in range(3)], 3
)

# %% [markdown]
# and what the model gets of it: pixels, a mask that is 1 where there is image, and a dict of labels for each photo,
# boxes as cxcywh, 0 to 1 of the image.

# %%
batch = collate([examples[(0, index)] for index in range(3)])
print("pixels", tuple(batch["pixel_values"].shape), "mask", tuple(batch["pixel_mask"].shape))
{name: value.tolist() for name, value in batch["labels"][0].items()}

# %% [markdown]
# ## Train
#
# `DetectionTrainer` is transformers' Trainer, with MMDetection's optimiser and loss and COCO's metrics. Here a step is
# all five photos, an epoch one step, and the learning rate is high. For the whole set take the settings of
# `configs/fridge.yaml` (4 photos a step, 1e-4, 30 epochs, the best one kept), and a GPU or some patience.

# %%
args = DetectionTrainingArguments(
    output_dir="output/run",
    num_train_epochs=64,
    per_device_train_batch_size=5,
    per_device_eval_batch_size=5,
    learning_rate=4e-4,
    lr_scheduler_type="cosine",
    warmup_steps=2,
    slow_factor=0.5,  # the backbone comes from other images: let it learn, too
    eval_strategy="steps",
    eval_steps=8,
    save_strategy="no",
    logging_steps=8,
    dataloader_num_workers=0,
    use_cpu=True,
    disable_tqdm=True,
    seed=0,
)
trainer = DetectionTrainer(model, args, examples, Examples(validation_rows, processor))
_ = trainer.train()

# %% [markdown]
# The curves. All terms of the loss, of every decoder layer and of the encoder, are in `trainer.state.log_history`.

# %%
import matplotlib.pyplot as plt

history = trainer.state.log_history
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
for axes, names in ((left, ("loss", "loss_cls", "loss_bbox", "loss_iou")), (right, ("eval_AP", "eval_AP50"))):
    for name in names:
        points = [(line["epoch"], line[name]) for line in history if name in line]
        axes.plot(*zip(*points, strict=True), marker="." if name.startswith("eval") else "", label=name)
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.3)
    axes.legend()
left.set(title="loss, and its terms in the last layer", yscale="log")
right.set(title="AP on the photos it learns by heart", ylim=(0, 1))
plt.show()

# %% [markdown]
# ## Evaluate
#
# `evaluate` gives COCO's metrics, with those of each class, and keeps detections and truth of every photo in
# `trainer.evaluated`.

# %%
metrics = trainer.evaluate()
for name in ("AP", "AP50", "AP75", "AR100", *(f"AP_{name}" for name in data.label_map.names)):
    print(f"{name:16}{metrics[f'eval_{name}']:.3f}")

# %% [markdown]
# ## The worst photos
#
# Figures do not tell what is wrong; looking does. These are the photos with the lowest F1, truth on the left, what was
# found on the right. With photos that it has not seen, this is where wrong labels turn up. After 64 steps scores are
# still low, so the boxes that are drawn are those above the threshold with the best F1.

# %%
from deformable_detr_refine.data.row_image import row_image
from deformable_detr_refine.evaluation.metrics.curves import best_threshold
from deformable_detr_refine.evaluation.metrics.matching import match
from deformable_detr_refine.evaluation.report.pictures import choose_images
from deformable_detr_refine.training.mlflow_run import side_by_side

evaluated = sorted(trainer.evaluated, key=lambda image: image.image_id)  # as `match` numbers them
matches = match(evaluated)
best = best_threshold(matches.scores, matches.truths[0] >= 0, len(matches.true_labels))
THRESHOLD = best.threshold or 0.3
print(f"threshold {THRESHOLD}: precision {best.precision:.2f}, recall {best.recall:.2f}")
worst, good = choose_images(matches, len(evaluated), THRESHOLD)
rows = {row["image_id"]: row for row in validation_rows}
shown = [evaluated[number] for number in (worst + good)[:4]]
for image in shown:
    print(f"{image.file_name}: {(image.scores > THRESHOLD).sum()} detections, {len(image.true_labels)} objects")
grid([side_by_side(row_image(rows[image.image_id]), image, model.config.id2label, THRESHOLD) for image in shown], 2)

# %% [markdown]
# ## Save, and load again
#
# The folder holds weights, image processor and the model's code. It is what `ddetr detect`, `ddetr serve`,
# `from_pretrained` and `pipeline` take.

# %%
from transformers import AutoModelForObjectDetection, pipeline

trainer.save_model("output/detector")
again = AutoModelForObjectDetection.from_pretrained("output/detector")
weights = model.state_dict()
assert all(tensor.equal(weights[name]) for name, tensor in again.state_dict().items())
print("loaded again, the same bit for bit;", list(again.config.id2label.values()))

found = pipeline("object-detection", model="output/detector")("../samples/images/10.jpg", threshold=THRESHOLD)
[(each["label"], round(each["score"], 1)) for each in found]

# %% [markdown]
# ## The same on the command line, from `datasets`
#
# `ddetr train` is the same trainer with settings in a YAML file; it also writes `report.html` and `metrics.json`, and a
# run that was stopped goes on. Its data here is in the usual form of the Hub: an image column, and `objects` with
# `bbox` (x, y, width, height) and `category`. Anything in that form is read: a `Dataset` object, a folder that
# `datasets` saved, parquet files, or a data set of the Hub by its name (`--data hub:OWNER/NAME`).

# %%
import datasets
from datasets import ClassLabel, Dataset, List, Value

names = list(data.label_map.names)
own = Dataset.from_list(
    [
        {
            "image": f"../samples/images/{row['file_name']}",
            "objects": {key: row["objects"][key] for key in ("bbox", "category")},
        }
        for row in data["train"]
    ]
)
own = own.cast_column("image", datasets.Image())
own = own.cast_column("objects", {"bbox": List(List(Value("float32"))), "category": List(ClassLabel(names=names))})
load_detection_data(own)

# %% [markdown]
# Saved as a folder, and one epoch from the detector of above, whose classes it keeps:

# %%
import shutil

shutil.rmtree("output/cli", ignore_errors=True)  # of an earlier run of this notebook
own.save_to_disk("output/fridge-datasets")
words = ["../configs/fridge.yaml", "--data", "output/fridge-datasets", "--model", "output/detector"]
words += ["--validation_data", "output/fridge-datasets", "--validation_split", "train"]
words += ["--num_train_epochs", "1", "--output_dir", "output/cli", "--use_cpu", "true", "--dataloader_num_workers", "0"]
words += ["--disable_tqdm", "true"]
assert ddetr(["train", *words]) == 0

# %% [markdown]
# ## Where to go from here
#
# - what to change when it does not learn: [Small data sets](../docs/guides/small-data-sets.md)
# - figures, curves and confusion of a detector: [evaluate.ipynb](evaluate.ipynb)
# - serve it: [online_endpoint.ipynb](online_endpoint.ipynb); over many images:
#   [batch_endpoint.ipynb](batch_endpoint.ipynb); to the Hub: [push_to_hub.ipynb](push_to_hub.ipynb)
