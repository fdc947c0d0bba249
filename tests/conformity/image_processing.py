"""transformers' tests of every image processor."""

import unittest

import numpy as np
from PIL import Image
from transformers_tests.test_image_processing_common import (
    AnnotationFormatTestMixin,
    ImageProcessingTester,
    ImageProcessingTestMixin,
)

from deformable_detr_refine import DeformableDetrRefineImageProcessor


class SmallImages(ImageProcessingTester):
    def __init__(self, parent, **kwargs) -> None:
        kwargs.setdefault("size", {"shortest_edge": 18, "longest_edge": 1333})
        super().__init__(parent, **kwargs)

    def _get_image_processing_classes(self):
        return {"torchvision": DeformableDetrRefineImageProcessor}

    def expected_output_image_shape(self, images) -> tuple[int, int, int]:
        processor = DeformableDetrRefineImageProcessor(size=self.size)
        shapes = [processor.resized_shape(*_height_and_width(image)) for image in images]
        return self.num_channels, max(height for height, _ in shapes), max(width for _, width in shapes)


def _height_and_width(image) -> tuple[int, int]:
    if isinstance(image, Image.Image):
        return image.height, image.width
    return image.shape[:2] if isinstance(image, np.ndarray) else image.shape[1:]


class Processor(AnnotationFormatTestMixin, ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = SmallImages
