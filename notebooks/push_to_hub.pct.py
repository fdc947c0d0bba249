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
# # To the Hub, and from it
#
# A detector with its code and a card, so that others load it by its name, also where this package is not installed.
#
# ```sh
# pip install ".[notebooks]"  # in the checkout
# ```
#
# ## A hub to try with
#
# So that this runs without an account, the Hub here is a small server on this machine, the one that the tests use. The
# client is the real one (huggingface_hub). **For the real Hub leave this cell out**, log in with `hf auth login`, and
# take your own name below.

# %%
import os
import sys
from contextlib import ExitStack

sys.path.insert(0, "../tests")
from support.hub_server import TOKEN, hub_server

local = ExitStack()
hub = local.enter_context(hub_server())
# Before transformers is imported, which reads them.
os.environ |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": "output/hf", "HF_HUB_DISABLE_XET": "1"}

# %%
NAME = "someone/blood-cells"  # OWNER/NAME
MODEL = "../samples/blood-cells"  # your own: the folder that `ddetr train` or `ddetr convert` wrote
PHOTO = "../samples/images/BloodImage_00222.jpg"

# %% [markdown]
# ## Figures for the card
#
# The card is made of what lies in the folder: figures that were measured, settings, the weights' checksum. A folder
# from `ddetr train` has them; for others measure first. (Three images are no validation; the card says how many there
# were.)

# %%
from ddetr.main import main as ddetr

DATA = "../samples/annotations/blood_cells.json"
assert ddetr(["evaluate", MODEL, DATA, "--split", "train", "--output", "output/evaluated"]) == 0

# %% [markdown]
# ## Push
#
# One commit with everything: when it breaks off, the repository is as it was. The photo becomes public with the model.
# Add `--private` for a repository that only you see, `--revision trial` for a branch.

# %%
words = ["push", MODEL, NAME, "--license", "mit", "--image", PHOTO, "--metrics", "output/evaluated/metrics.json"]
assert ddetr(words) == 0

# %%
from huggingface_hub import HfApi

files = HfApi().list_repo_files(NAME)
print(*[file for file in files if not file.endswith(".py")], sep="\n")
print("and the model's code:", *[file for file in files if file.startswith("modeling_")], "...")

# %% [markdown]
# ## The card
#
# Its beginning; recipe, provenance (the weights' sha256, versions) and labels follow.

# %%
from huggingface_hub import ModelCard, hf_hub_download
from PIL import Image

card = ModelCard.load(NAME)
print("metadata:", sorted(card.data.to_dict()))
print(card.text.partition("## Recipe")[0].strip())
Image.open(hf_hub_download(NAME, "sample_detections.jpg"))

# %% [markdown]
# ## Load it by its name
#
# With this package: any class of transformers, or any command (`ddetr detect someone/blood-cells photo.jpg ...`).

# %%
from transformers import AutoModelForObjectDetection

import deformable_detr_refine  # registers the model with transformers' Auto classes

model = AutoModelForObjectDetection.from_pretrained(NAME)
mine = AutoModelForObjectDetection.from_pretrained(MODEL).state_dict()
assert all(tensor.equal(mine[name]) for name, tensor in model.state_dict().items())
print("the same weights, bit for bit")

# %% [markdown]
# Without it, `trust_remote_code=True` runs the code that lies beside the weights. That is code from the Hub: look at
# it, and pin the commit you looked at with `revision=`. In a process of its own, in which this package is never
# imported:

# %%
import subprocess

STRANGER = """
import sys
from transformers import pipeline

name, revision, photo = sys.argv[1:]
detect = pipeline("object-detection", model=name, revision=revision, trust_remote_code=True)
found = detect(photo, threshold=0.5)
print(len(found), "objects, the best:", found[0]["label"], f"{found[0]['score']:.2f}")
assert "deformable_detr_refine" not in sys.modules
print("the model's code is", type(detect.model).__module__.split(".")[0])
"""
commit = HfApi().model_info(NAME).sha
done = subprocess.run([sys.executable, "-c", STRANGER, NAME, commit, PHOTO], capture_output=True, text=True)
assert done.returncode == 0, done.stderr
print(done.stdout)

# %% [markdown]
# ## Push again
#
# An improved detector replaces weights, code and card; what else lies in the repository stays. Here into a branch,
# which is made:

# %%
assert ddetr([*words, "--revision", "trial", "--message", "A trial"]) == 0
print("branches:", sorted(branch.name for branch in HfApi().list_repo_refs(NAME).branches))
try:
    HfApi(token="wrong").create_repo("someone/other")
except Exception as error:
    print("without a right token:", str(error).splitlines()[0])

# %%
local.close()  # the server on this machine; with the real Hub leave this out too

# %% [markdown]
# ## The same on the real Hub
#
# ```sh
# hf auth login
# ddetr push MODEL OWNER/NAME --license mit --image photo.jpg
# ```
#
# The licence is that of the weights, which comes from what they were trained from and on. A token never gets into the
# card or the settings. For Hugging Face's Inference Endpoints, `serving/deploy/README.md` names the two files to add.
#
# ## Where to go from here
#
# - serve it: [online_endpoint.ipynb](online_endpoint.ipynb)
# - all that `ddetr push` takes: `ddetr push --help`
