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
# # Many images: a batch
#
# A folder or a table of images in, a row for each out. A batch that was stopped goes on where it was; an image that
# cannot be read is a row with the reason. The same runs on one machine, on a Ray cluster and as a batch endpoint of
# Azure ML.
#
# ```sh
# pip install ".[notebooks]"  # in the checkout
# ```
#
# ## The input of the catalogue's sample
#
# A folder of images, or a CSV with a column of base64. Here a CSV with forty rows, of which one is no image; a folder,
# a Parquet file, JSON lines, an MLTable, paths and URLs instead of base64 do as well.

# %%
import base64
import csv
import shutil
from pathlib import Path

MODEL = "../samples/blood-cells"  # your own: the folder that `ddetr train` or `ddetr convert` wrote
PHOTOS = sorted(Path("../samples/images").glob("BloodImage_*.jpg"))

shutil.rmtree("output/batch", ignore_errors=True)  # of an earlier run of this notebook
Path("output/batch").mkdir(parents=True)
images = [base64.b64encode(PHOTOS[row % 3].read_bytes()).decode() for row in range(40)]
images[5] = "dGhpcyBpcyBubyBpbWFnZQ=="
with open("output/batch/images.csv", "w", newline="") as file:
    csv.writer(file).writerows([["image"], *([image] for image in images)])
print(Path("output/batch/images.csv").read_text()[:60], "...")

# %% [markdown]
# ## Run it
#
# On the command line:
#
# ```sh
# ddetr batch ../samples/blood-cells output/batch/images.csv --output output/batch/predictions.csv
# ```
#
# It is **killed** here as soon as the first rows are there, as a machine that is taken away would do:

# %%
import os
import signal
import subprocess
import sys
import time

OUTPUT = Path("output/batch/predictions.csv")
PARTS = Path("output/batch/predictions.csv.parts")
words = ["batch", MODEL, "output/batch/images.csv", "--output", str(OUTPUT), "--workers", "1"]
batch = subprocess.Popen([sys.executable, "-m", "ddetr.main", *words], start_new_session=True)
while batch.poll() is None and not list(PARTS.glob("*.part")):
    time.sleep(0.01)
assert batch.poll() is None, "it was finished, or failed, before it could be killed"
os.killpg(batch.pid, signal.SIGKILL)  # the process and its workers
batch.wait()
print("finished:", OUTPUT.exists(), "- work kept:", len(list(PARTS.glob("*.part"))) > 0)

# %% [markdown]
# The same command goes on. Nothing is lost, nothing is done twice:

# %%
again = subprocess.run([sys.executable, "-m", "ddetr.main", *words], capture_output=True, text=True)
assert again.returncode == 0, again.stderr
assert "of them in an earlier run" in again.stdout
rows = list(csv.reader(OUTPUT.open(newline="")))
print(len(rows), "rows, each image once:", [int(row[0]) for row in rows] == list(range(40)))
print("work kept:", PARTS.exists())

# %% [markdown]
# ## The output of the catalogue's sample
#
# `predictions.csv` has no header: the row's number in its file, the response of the online endpoint for this image as
# JSON, and the file's name. The sample reads it so:

# %%
import json

import pandas as pd

table = pd.read_csv(OUTPUT, header=None, names=["row_number_per_file", "preds", "file_name"])
table.head(3)

# %%
first = json.loads(table["preds"][0])
print(len(first["boxes"]), "boxes; the best one:")
print(json.dumps(first["boxes"][0], indent=2))
print("row 5:", table["preds"][5])

# %% [markdown]
# What was found in all of it, above a score of 0.4:

# %%
boxes = [box for preds in table["preds"] for box in json.loads(preds)["boxes"] if box["score"] > 0.4]
scores = pd.DataFrame({"label": box["label"], "score": box["score"]} for box in boxes).groupby("label")["score"]
scores.agg(["count", "mean", "max"]).round(2)

# %% [markdown]
# ## Other outputs
#
# `.jsonl` and `.parquet` have boxes in pixels, for work that goes on. With `--threshold` they are small. A folder this
# time:

# %%
Path("output/batch/photos").mkdir()
for photo in PHOTOS:
    shutil.copy(photo, "output/batch/photos")
words = ["batch", MODEL, "output/batch/photos", "--output", "output/batch/found.parquet"]
words += ["--threshold", "0.4", "--workers", "1"]
done = subprocess.run([sys.executable, "-m", "ddetr.main", *words], capture_output=True, text=True)
assert done.returncode == 0, done.stderr
found = pd.read_parquet("output/batch/found.parquet")
found.assign(boxes=found["boxes"].map(len), labels=found["labels"].map(lambda labels: ", ".join(sorted(set(labels)))))[
    ["image", "width", "height", "boxes", "labels"]
]

# %%
from deformable_detr_refine import Detections

row = found.iloc[0]
names = sorted(set(row["labels"]))
Detections(
    boxes=[list(box) for box in row["boxes"]],
    scores=row["scores"],
    labels=[names.index(label) for label in row["labels"]],
    id2label=dict(enumerate(names)),
    image_size=(row["height"], row["width"]),
).draw(f"output/batch/photos/{row['image']}")

# %% [markdown]
# ## When too much fails
#
# By default every image may fail, as Azure has it. `--error-threshold 0` stops the batch after the first failure, so
# that a wrong folder does not cost a night:

# %%
words = ["batch", MODEL, "output/batch/images.csv", "--output", "output/batch/strict.csv", "--workers", "1"]
strict = subprocess.run(
    [sys.executable, "-m", "ddetr.main", *words, "--error-threshold", "0"], capture_output=True, text=True
)
assert strict.returncode != 0
print(strict.stderr.strip().splitlines()[-1])

# %% [markdown]
# ## On Azure
#
# A batch endpoint calls `init` once and `run` with the names of a few files at a time; what `run` returns it appends to
# `predictions.csv`. The script is `serving/azure/score_batch.py`, called here as Azure calls it:

# %%
from deformable_detr_refine.serving.azure import score_batch

os.environ["DDETR_MODEL"] = MODEL  # on Azure, the folder in which it puts the model
score_batch.init()
lines = score_batch.run([str(photo) for photo in PHOTOS])
for line in lines:
    row, preds, name = next(csv.reader([line]))
    print(row, f"{preds[:60]}...", name)

# %% [markdown]
# `serving/deploy/` has the files:
#
# | file | what to change in it |
# |---|---|
# | `deploy-batch.sh` | nothing: subscription, resource group, workspace and `COMPUTE_SIZE` are variables |
# | `deploy-batch.yaml` | `mini_batch_size` (files at a time), `instance_count`, `error_threshold` (-1: all may fail) |
# | `image/Dockerfile.batch` | nothing |
#
# ```sh
# export SUBSCRIPTION=... RESOURCE_GROUP=... WORKSPACE=...
# serving/deploy/deploy-batch.sh MODEL_FOLDER INPUT
# ```
#
# registers the model, makes compute, endpoint and deployment, runs it over INPUT, and downloads `predictions.csv`.
# Azure's SDK has read these files and accepts them; **nothing was deployed to Azure**, for want of an account.
#
# On a Ray cluster: `RAY_ADDRESS=auto ddetr batch MODEL INPUT --output FILE --engine ray`.
#
# ## Where to go from here
#
# - ten million images, on paper: [serving](../serving/README.md)
# - single requests: [online_endpoint.ipynb](online_endpoint.ipynb)
