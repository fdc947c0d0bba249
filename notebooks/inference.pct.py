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
# # Find objects in images
#
# From a model folder to detections, and from detections to whatever comes next: pictures, COCO's JSON, Azure's
# response, supervision.
#
# ```sh
# pip install ".[notebooks]"  # in the checkout
# ```
#
# The detector here is the one that comes with the package: it finds blood cells under the microscope. **Not a medical
# device.** Give the folder of your own (from `ddetr train` or `ddetr convert`) or a name on the Hub instead.

# %%
import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModelForObjectDetection, pipeline

import deformable_detr_refine  # registers the model with transformers' Auto classes
from deformable_detr_refine import Detections, load_image

MODEL = "../samples/blood-cells"
IMAGES = sorted(str(image) for image in Path("../samples/images").glob("BloodImage_*.jpg"))
IMAGES

# %% [markdown]
# ## Three lines: the pipeline

# %%
detect = pipeline("object-detection", model=MODEL)
found = detect(IMAGES[0], threshold=0.6)
print(len(found), "objects; the best two:")
found[:2]

# %% [markdown]
# ## Every step in hand
#
# `from_pretrained`, as for any model of transformers. The processor resizes (as MMDetection does), normalises and
# pads; the model gives logits and boxes; post-processing makes detections of them, in pixels of the original image.

# %%
model = AutoModelForObjectDetection.from_pretrained(MODEL).eval()
processor = AutoImageProcessor.from_pretrained(MODEL)

image = load_image(IMAGES[0])
inputs = processor(image, return_tensors="pt")
with torch.inference_mode():
    outputs = model(**inputs)
print("pixels", tuple(inputs["pixel_values"].shape))
print("logits", tuple(outputs.logits.shape), "boxes", tuple(outputs.pred_boxes.shape))

size = (image.height, image.width)
(result,) = processor.post_process_object_detection(outputs, threshold=0.3, target_sizes=[size])
detections = Detections.from_post_process(result, model.config.id2label, size)
detections

# %% [markdown]
# `Detections` is the one type for results. It is drawn, filtered, indexed and converted; the arrays in it are numpy.

# %%
detections.draw(image)

# %% [markdown]
# ## Which threshold?
#
# A threshold trades missed objects against wrong ones. With true boxes at hand one can look: of the cells that people
# boxed in the three sample images, how many are found, and how many detections are right? (Many red cells in these
# images have no box, so that a right answer may count as wrong: see the detector's card.)

# %%
from deformable_detr_refine.inference.detector import Detector

detector = Detector(MODEL)
coco = json.loads(Path("../samples/annotations/blood_cells.json").read_text())
numbers = {image["file_name"]: image["id"] for image in coco["images"]}
names = {category["id"]: category["name"] for category in coco["categories"]}


def right(detections: Detections, file_name: str) -> tuple[int, int]:
    """How many detections have a true box of their class that they overlap by half, each true box taken once."""
    truth = [item for item in coco["annotations"] if item["image_id"] == numbers[file_name]]
    free = set(range(len(truth)))
    hits = 0
    for one in detections:
        for index in sorted(free):
            x, y, w, h = truth[index]["bbox"]
            box, true = one.boxes[0], np.array([x, y, x + w, y + h])
            shared = np.clip(np.minimum(box[2:], true[2:]) - np.maximum(box[:2], true[:2]), 0, None).prod()
            overlap = shared / ((box[2:] - box[:2]).prod() + w * h - shared)
            if overlap > 0.5 and names[truth[index]["category_id"]] == one.names[0]:
                free.remove(index)
                hits += 1
                break
    return hits, len(truth)


everything = detector.detect(IMAGES, threshold=0.0)
print("threshold  detections  right  of boxed")
for threshold in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
    kept = [each.filter(threshold) for each in everything]
    hits = [right(each, Path(name).name) for each, name in zip(kept, IMAGES, strict=True)]
    total, correct, boxed = sum(map(len, kept)), sum(hit for hit, _ in hits), sum(count for _, count in hits)
    print(f"{threshold:9.1f}  {total:10}  {correct / total:5.0%}  {correct / boxed:8.0%}")

# %% [markdown]
# `ddetr evaluate` does this over a whole data set, with curves and the best threshold of each class.
#
# ## Many images
#
# `Detector` takes paths, bytes or PIL images, batches those of one shape, and keeps the order. An image that cannot
# be read does not stop the others: in its place stands the reason.

# %%
Path("output").mkdir(exist_ok=True)
Path("output/broken.jpg").write_bytes(b"this is no image")
paths = [*IMAGES, "output/broken.jpg"]
for path, each in zip(paths, detector.detect(paths, threshold=0.5), strict=True):
    print(f"{Path(path).name:22}{each}")

# %% [markdown]
# Images of different shapes may also stand in one batch, padded. The numbers are then those that MMDetection would
# give for this batch, and differ from those of the image alone, here by so much: the neck's group norm
# averages over the padding too. Hence equal shapes, wherever this package makes the batches.

# %%
pair = [load_image(IMAGES[0]), load_image(IMAGES[1]).crop((0, 0, 400, 480))]
inputs = processor(pair, return_tensors="pt")
with torch.inference_mode():
    both = model(**inputs).logits[1], model(**processor(pair[1], return_tensors="pt")).logits[0]
together, alone = (logits.sigmoid().amax(-1).sort().values for logits in both)
print("how much of the batch is image:", [f"{mask.float().mean():.0%}" for mask in inputs["pixel_mask"]])
print(f"the second image's scores, padded and alone: up to {(together - alone).abs().max():.3f} apart")

# %% [markdown]
# ## A folder, on the command line

# %%
from ddetr.main import main as ddetr

words = ["detect", MODEL, "../samples/images/BloodImage_*.jpg", "--output", "output/found", "--draw"]
assert ddetr([*words, "--threshold", "0.5"]) == 0
records = json.loads(Path("output/found/detections.json").read_text())
records[0]["image"], records[0]["boxes"][:1], records[0]["scores"][:1], records[0]["labels"][:1]

# %% [markdown]
# Without a model's name (`ddetr detect cells.jpg --output found`) the package's own detector is taken. For millions
# of images there is `ddetr batch`, which resumes.
#
# ## To COCO
#
# `to_coco` gives COCO's result form. `category_ids` leads from the model's labels to the ids of the annotation file:
# here by name, since files number their classes as they like. (Those of the data that it was trained on, a model knows
# itself: `config.category_ids`.)

# %%
from contextlib import redirect_stdout

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

id_of = {name: number for number, name in names.items()}
ids = {label: id_of[name] for label, name in model.config.id2label.items()}
results = [
    row for name, each in zip(IMAGES, everything, strict=True) for row in each.to_coco(numbers[Path(name).name], ids)
]
with redirect_stdout(None):  # it tells how long each step took
    truth = COCO("../samples/annotations/blood_cells.json")
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
evaluation.summarize()

# %% [markdown]
# Three images say little; the detector's card has the figures over the validation set.
#
# ## To Azure ML's response

# %%
detections.filter(0.7).to_azure()

# %% [markdown]
# ## To supervision
#
# [supervision](https://supervision.roboflow.com) counts, tracks and annotates. Here: what is in the left half.

# %%
import supervision as sv

as_supervision = detections.to_supervision()
half = np.array([[0, 0], [image.width // 2, 0], [image.width // 2, image.height], [0, image.height]])
zone = sv.PolygonZone(half, triggering_anchors=[sv.Position.CENTER])
inside = as_supervision[zone.trigger(as_supervision)]
print(len(inside), "of", len(as_supervision), "are in the left half")
sv.LabelAnnotator(text_scale=0.4, text_padding=3).annotate(sv.BoxAnnotator().annotate(image.copy(), inside), inside)

# %% [markdown]
# ## transformers' own models on the same operator
#
# Deformable DETR, Grounding DINO, Mask2Former, RT-DETR and others of transformers compute their attention with
# `grid_sample`. One line puts them on this package's operator: a call for the whole program, or a `with` block. Here a
# model with weights drawn at random, so that nothing is downloaded.

# %%
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

from deformable_detr_refine import accelerate_transformers

other = DeformableDetrForObjectDetection(DeformableDetrConfig()).eval()
pixels = inputs["pixel_values"][:1, :, :256, :256]
with torch.inference_mode():
    own = other(pixels).logits
    with accelerate_transformers():
        ours = other(pixels).logits
print("the same logits:", torch.allclose(own, ours, atol=1e-5))

# %% [markdown]
# ## Where to go from here
#
# - your own classes: [finetune_fridge_objects.ipynb](finetune_fridge_objects.ipynb)
# - how good is it: [evaluate.ipynb](evaluate.ipynb)
# - what does it see: [look_inside.ipynb](look_inside.ipynb)
# - faster: `ddetr benchmark` shows what this machine does in bfloat16, int8 and ONNX; `ddetr export` writes them
