"""The handler of Hugging Face's Inference Endpoints: a copy of this file, as handler.py, in a model's repository.

It needs nothing of this package but the model code that the repository holds; beside it stands a requirements.txt with
timm and scipy. Request: `{"inputs": IMAGE, "parameters": {"threshold": 0.5, "top_k": 100}}`, an image as base64, or a
picture where the request was one itself; a list of images has a list of answers.
"""

import base64
import binascii
import sys
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForObjectDetection

MAX_PIXELS = 50_000_000
MOST_IMAGES = 32


class EndpointHandler:
    """Created once by the endpoint, called for every request.

    Args:
        path: the model's folder.
    """

    def __init__(self, path: str = ""):
        # The code is that of the repository which this very file comes from.
        self.processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=True)
        model = AutoModelForObjectDetection.from_pretrained(path, trust_remote_code=True).eval()
        self.model = model.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
        self.load_image = sys.modules[type(self.processor).__module__].load_image

    def __call__(self, data: dict[str, Any]) -> list[Any]:
        """Answers one request.

        Returns:
            As transformers' pipeline: `[{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}, ...]`, in whole
            pixels of the upright original image; for a list of images a list of those, `{"error"}` where one failed.

        Raises:
            ValueError: the request is of another form, or its only image cannot be read. Endpoints answer with 400.
        """
        inputs = data.get("inputs")
        threshold, top_k = _parameters(data.get("parameters") or {})
        if not isinstance(inputs, list):
            return self._detect(inputs, threshold, top_k)
        if len(inputs) > MOST_IMAGES:
            raise ValueError(f"The request has {len(inputs)} images, the limit is {MOST_IMAGES}.")
        answers: list[Any] = []
        for item in inputs:
            try:
                answers.append(self._detect(item, threshold, top_k))
            except ValueError as error:
                answers.append({"error": str(error)})
        return answers

    def _detect(self, source: Any, threshold: float, top_k: int | None) -> list[dict[str, Any]]:
        image = self.load_image(_decode(source), max_pixels=MAX_PIXELS)
        inputs = self.processor(images=image, return_tensors="pt").to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            outputs = self.model(**inputs)
        (best,) = self.processor.post_process_object_detection(
            outputs, threshold=threshold, target_sizes=[(image.height, image.width)], top_k=top_k
        )
        corners = ("xmin", "ymin", "xmax", "ymax")
        return [
            {
                "score": score,
                "label": self.model.config.id2label[label],
                "box": dict(zip(corners, (round(value) for value in box), strict=True)),
            }
            for score, label, box in zip(*(best[key].tolist() for key in ("scores", "labels", "boxes")), strict=True)
        ]


def _decode(source: Any) -> bytes | Image.Image:
    if isinstance(source, bytes | Image.Image):
        return source
    if not isinstance(source, str):
        raise ValueError(f"An image is base64 or a picture, not {type(source).__name__}.")
    if "://" in source[:40]:
        raise ValueError("URLs are not fetched: send the picture itself, or its base64.")
    text = source.partition(",")[2] if source.startswith("data:") else source
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("The image is not base64.") from error


def _parameters(given: Any) -> tuple[float, int | None]:
    if wrong := sorted(set(given) - {"threshold", "top_k"}) if isinstance(given, dict) else [given]:
        raise ValueError(f"parameters are threshold and top_k, not {str(wrong[0])[:80]}.")
    threshold, top_k = given.get("threshold", 0.5), given.get("top_k")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {str(threshold)[:80]}, expected a number from 0 to 1.")
    if top_k is not None and (type(top_k) is not int or not 1 <= top_k <= 1000):
        raise ValueError(f"top_k is {str(top_k)[:80]}, expected a whole number from 1 to 1000.")
    return float(threshold), top_k
