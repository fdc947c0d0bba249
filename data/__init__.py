"""Detection data sets: formats in and out, label map, augmentation, collation, inspection."""

from deformable_detr_refine.data.azure_jsonl import write_azure
from deformable_detr_refine.data.coco import write_coco
from deformable_detr_refine.data.defects import DataError, Defect
from deformable_detr_refine.data.detection_data import DetectionData, split_every
from deformable_detr_refine.data.hub import write_datasets
from deformable_detr_refine.data.label_map import LabelMap
from deformable_detr_refine.data.load import load_detection_data
from deformable_detr_refine.data.voc import write_voc
from deformable_detr_refine.data.yolo import write_yolo

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
