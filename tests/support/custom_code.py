"""The beginning of a script that loads a saved model as custom code, where the package is not installed."""

# Its arguments: a folder or a name on the Hub, and an image. What a test asks of `model`, `detect`, ... follows.
LOAD_AS_CUSTOM_CODE = """
import importlib.util, json, sys
assert importlib.util.find_spec("deformable_detr_refine") is None, "the package is installed here too"
import torch
from transformers import AutoImageProcessor, AutoModelForObjectDetection, pipeline

folder, image = sys.argv[1:]
model = AutoModelForObjectDetection.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    outputs = model(**processor(image, return_tensors="pt"))
detect = pipeline("object-detection", model=folder, trust_remote_code=True)
"""
