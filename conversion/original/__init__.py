"""The authors' repository, fundamentalvision/Deformable-DETR: checkpoints of its main.py, in and out."""
