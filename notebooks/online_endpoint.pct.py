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
# # An endpoint that answers requests
#
# The detector behind HTTP, with the request and the response of Azure's model catalogue. The server is Azure's own
# (`azureml-inference-server-http`), the one that runs in its containers; here it runs on this machine.
#
# ```sh
# make serve-env  # in the checkout
# ```
#
# It cannot live in one environment with MLflow, so it may have one of its own: in a checkout, `make serve-env` makes
# `.venv-serve`. This finds the Python that has it:

# %%
import os
import subprocess
import sys
from pathlib import Path


def server_python() -> str:
    """The Python of an environment with Azure's server."""
    places = (os.environ.get("DDETR_SERVE_PYTHON"), sys.executable, "../.venv-serve/bin/python")
    look = "import sys, importlib.util as u; sys.exit(u.find_spec('azureml_inference_server_http') is None)"
    for python in filter(None, places):
        if Path(python).exists() and subprocess.run([python, "-c", look]).returncode == 0:
            return python
    raise RuntimeError(
        "Azure's inference server is in no environment here: run `make serve-env` in the checkout, or name the Python "
        "of an environment that has it in DDETR_SERVE_PYTHON."
    )


PYTHON = server_python()

# %% [markdown]
# ## Start it
#
# On the command line this is `ddetr serve ../samples/blood-cells --port 5001`. It is ready when `GET /`, the health
# probe, answers.

# %%
import atexit
import socket
import time
import urllib.error
import urllib.request

MODEL = "../samples/blood-cells"  # your own: the folder that `ddetr train` or `ddetr convert` wrote

with socket.create_server(("127.0.0.1", 0)) as probe:
    port = probe.getsockname()[1]  # a free one
SERVER = f"http://127.0.0.1:{port}"
Path("output").mkdir(exist_ok=True)
command = [PYTHON, "-m", "ddetr.main", "serve", MODEL, "--port", str(port)]
with Path("output/server.log").open("w") as log:
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
atexit.register(server.terminate)  # also when a cell below fails

for _ in range(1200):
    if server.poll() is not None:
        raise RuntimeError(Path("output/server.log").read_text())
    try:
        with urllib.request.urlopen(SERVER, timeout=5) as answer:
            print("ready:", answer.status, answer.read().decode())
        break
    except OSError:
        time.sleep(0.1)
else:
    raise RuntimeError("The server did not get ready within two minutes: see output/server.log")

# %% [markdown]
# ## Ask
#
# The request of the catalogue's card: images as base64, or as public URLs. Two images in one request:

# %%
import base64
import json

PHOTOS = [f"../samples/images/BloodImage_{number}.jpg" for number in ("00053", "00222")]


def ask(body: dict) -> list | dict:
    """Posts JSON, gives what is answered."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{SERVER}/score", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return {"status": error.code, "body": error.read().decode()}


data = [base64.b64encode(Path(photo).read_bytes()).decode() for photo in PHOTOS]
request = {"input_data": {"columns": ["image"], "index": [0, 1], "data": data}}
shown = {"input_data": {**request["input_data"], "data": [f"{image[:24]}..." for image in data]}}
print("POST /score\n" + json.dumps(shown, indent=2))

# %% [markdown]
# ## The answer
#
# A list with an entry for each image, in order: 100 boxes, best first, whatever their score. Corners are 0 to 1 of the
# image's width and height.

# %%
answer = ask(request)
print([len(entry["boxes"]) for entry in answer], "boxes; the best two of the first image:")
print(json.dumps(answer[0]["boxes"][:2], indent=2))

# %% [markdown]
# Drawn, with a score of 0.4 or more:

# %%
from PIL import Image

from deformable_detr_refine import Detections


def drawn(photo: str, entry: dict, threshold: float) -> Image.Image:
    """A photo with the boxes of its answer."""
    image = Image.open(photo).convert("RGB")
    found = [box for box in entry["boxes"] if box["score"] >= threshold]
    sides = (("topX", image.width), ("topY", image.height), ("bottomX", image.width), ("bottomY", image.height))
    names = sorted({box["label"] for box in found})
    return Detections(
        boxes=[[box["box"][side] * length for side, length in sides] for box in found],
        scores=[box["score"] for box in found],
        labels=[names.index(box["label"]) for box in found],
        id2label=dict(enumerate(names)),
        image_size=(image.height, image.width),
    ).draw(image)


drawn(PHOTOS[1], answer[1], 0.4)

# %% [markdown]
# To get only what is needed, `params` may stand beside `input_data`:

# %%
few = ask({**request, "params": {"threshold": 0.6, "top_k": 5}})
[[(box["label"], round(box["score"], 2)) for box in entry["boxes"]] for entry in few]

# %% [markdown]
# ## What goes wrong
#
# An image that cannot be used has the reason in its place, and the others are answered. URLs are fetched from public
# addresses only, so that nobody reads your network through the server. A request that is none is refused as a whole.

# %%
bad = ["this is no image", "http://127.0.0.1/photo.jpg", data[0]]
for entry in ask({"input_data": {"columns": ["image"], "index": [0, 1, 2], "data": bad}}):
    print(len(entry["boxes"]), "boxes", entry.get("error", ""))
ask({"input_data": {"columns": ["picture"], "index": [0], "data": data[:1]}})

# %% [markdown]
# ## Many at once
#
# Requests at work wait for each other, not for slow senders. Eight at a time, all answered alike:

# %%
from concurrent.futures import ThreadPoolExecutor

one = {"input_data": {"columns": ["image"], "index": [0], "data": data[:1]}}
with ThreadPoolExecutor(8) as pool:
    answers = list(pool.map(ask, [one] * 8))
print(len(answers), "answers, all the same:", all(each == answers[0] for each in answers))

# %% [markdown]
# ## Stop it
#
# SIGTERM and Ctrl-C let requests at work finish.

# %%
server.terminate()
print("ended with status", server.wait(timeout=120))

# %% [markdown]
# ## On Azure
#
# The same server and the same script (`serving/azure/score.py`), in a container. `serving/deploy/` has the files:
#
# | file | what to change in it |
# |---|---|
# | `deploy-online.sh` | nothing: subscription, resource group and workspace are given as variables |
# | `deploy-online.yaml` | `instance_type`, `instance_count`; limits as environment variables (`DDETR_IMAGES`, ...) |
# | `image/Dockerfile` | nothing |
#
# ```sh
# export SUBSCRIPTION=... RESOURCE_GROUP=... WORKSPACE=...
# serving/deploy/deploy-online.sh MODEL_FOLDER PHOTO
# ```
#
# registers the model, builds the image, makes endpoint and deployment, and asks it about the photo. Requests and
# answers are those of above; the address and the key come from Azure:
#
# ```python
# SERVER = "https://ENDPOINT.REGION.inference.ml.azure.com"
# headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
# ```
#
# Azure's SDK has read these files and accepts them; **nothing was deployed to Azure**, for want of an account.
#
# ## Where to go from here
#
# - thousands of images: [batch_endpoint.ipynb](batch_endpoint.ipynb)
# - MLflow, ONNX, Hugging Face's endpoints, a page to drop pictures on: [Deploy](../docs/guides/deploy.md)
