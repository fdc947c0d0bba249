"""Data sets as files: COCO, Pascal VOC, YOLO, JSONL of Azure and `datasets`, in and out."""
