"""What an MLflow model of this package runs: a pyfunc with the signature of the model catalogue's card."""

import json
from typing import Any

import pandas
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel

from deformable_detr_refine.inference.detector import DetectionFailure, Detector

from ..azure.schema import COLUMN, MOST_TOP_K, read_images
from ..limits import Limits

ARTIFACT = "model"
_URL = (b"http://", b"https://")


class MlflowDetector(PythonModel):
    """image: binary -> boxes: string.

    Input: a column `image` with the bytes of image files; base64 and http(s) URLs of public addresses are taken too,
    where MLflow lets strings through. Output: a column `boxes` with JSON, `[{"box": {"topX", "topY", "bottomX",
    "bottomY"}, "label", "score"}]`, corners in 0..1 of the upright image, best first. When an image fails, its boxes
    are `[]`, and a column `error` says why, which is null for the others.
    """

    # MLflow calls it by name, with a keyword: a parameter of another name fails when the model is loaded.
    def load_context(self, context):
        self.limits = Limits.from_environment()
        self.detector = Detector(context.artifacts[ARTIFACT], max_pixels=self.limits.pixels)

    def predict(self, context, model_input, params=None):
        threshold, top_k = _parameters(params or {})
        images = read_images([_cell(value) for value in model_input[COLUMN]], self.limits)
        results = self.detector.detect(images, threshold, top_k)
        answers = [result.to_azure() for result in results]
        columns: dict[str, list[Any]] = {
            "boxes": [json.dumps(answer["boxes"], ensure_ascii=False) for answer in answers]
        }
        if any(isinstance(result, DetectionFailure) for result in results):
            columns["error"] = [answer.get("error") for answer in answers]
        return pandas.DataFrame(columns, index=model_input.index)


def _cell(value: Any) -> bytes | str:
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes | bytearray | memoryview):
        raise _refused(f"An image is of type {type(value).__name__}, expected bytes, base64 or a URL.")
    value = bytes(value)
    return value.decode("utf-8", "replace") if value[:8].lower().startswith(_URL) else value


def _parameters(params: dict[str, Any]) -> tuple[float, int | None]:
    threshold, top_k = params.get("threshold"), params.get("top_k")
    threshold = 0.0 if threshold is None else float(threshold)
    if not 0 <= threshold <= 1:
        raise _refused(f"threshold is {threshold}, expected a number from 0 to 1.")
    if top_k is not None and not 1 <= (top_k := int(top_k)) <= MOST_TOP_K:
        raise _refused(f"top_k is {top_k}, expected a whole number from 1 to {MOST_TOP_K}.")
    return threshold, top_k


def _refused(text: str) -> MlflowException:
    return MlflowException(text, error_code=INVALID_PARAMETER_VALUE)
