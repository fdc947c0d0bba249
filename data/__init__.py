"""Detection data sets: formats in and out, label map, augmentation, collation, inspection."""

from .defects import DataError, Defect
from .detection_data import DetectionData, split_every
from .formats.azure_jsonl import write_azure
from .formats.coco import write_coco
from .formats.hub import write_datasets
from .formats.load import load_detection_data
from .formats.voc import write_voc
from .formats.yolo import write_yolo
from .label_map import LabelMap

__all__ = [
    "DataError",
    "Defect",
    "DetectionData",
    "LabelMap",
    "load_detection_data",
    "split_every",
    "write_azure",
    "write_coco",
    "write_datasets",
    "write_voc",
    "write_yolo",
]
