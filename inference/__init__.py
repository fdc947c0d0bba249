"""A detector that runs: loaded from a folder, the Hub, an ONNX file or an MLflow folder, over images in batches."""

from .detections import Detections
from .detector import DetectionFailure, Detector
from .load_detector import load_detector

__all__ = ["DetectionFailure", "Detections", "Detector", "load_detector"]
