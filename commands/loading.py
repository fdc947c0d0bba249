"""The former place of `deformable_detr_refine.conversion.load_detector`."""

from deformable_detr_refine.conversion.load_detector import choose_device, load_detector

__all__ = ["choose_device", "load_detector"]
