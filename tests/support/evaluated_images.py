"""Random detections and truth, with everything that has tripped up evaluations: see `random_images`."""

import numpy as np

from deformable_detr_refine.evaluation.evaluated_image import EvaluatedImage


def random_images(seed: int, count: int = 40, classes: int = 4, elsewhere: int = 12) -> list[EvaluatedImage]:
    """Images without objects, without detections, without both; crowds; tied scores; duplicates; boxes without area.

    The last class has no truth, and ids are large, negative and not in order. Areas differ from those of the boxes.
    """
    random = np.random.default_rng(seed)
    ids = random.permutation(np.r_[random.choice(10**6, count - 2, replace=False), -5, 2**53 + 1])
    images = []
    for image_id in ids.tolist():
        true = _boxes(random, int(random.integers(0, 7)))
        labels = random.integers(0, max(classes - 1, 1), len(true))
        # Near the truth, some twice, some of another class, and some anywhere.
        near = np.repeat(true, 2, axis=0)[random.uniform(size=2 * len(true)) < 0.7]
        near_labels = np.repeat(labels, 2)[: len(near)]
        boxes = np.concatenate(
            [near + random.normal(0, 6, near.shape), _boxes(random, int(random.integers(0, elsewhere)))]
        )
        boxes[:, 2:] = np.maximum(boxes[:, :2], boxes[:, 2:])
        boxes[random.uniform(size=len(boxes)) < 0.05, 2:] = 0
        boxes[:, 2:] = np.maximum(boxes[:, :2], boxes[:, 2:])
        if random.uniform() < 0.15:
            boxes = boxes[:0]
        guesses = random.integers(0, classes, len(boxes))
        guesses[: len(near_labels)] = near_labels[: len(guesses)]
        images.append(
            EvaluatedImage(
                image_id=image_id,
                file_name=f"{image_id}.jpg",
                size=(480, 640),
                boxes=boxes,
                scores=random.integers(1, 20, len(boxes)) / 20,
                labels=guesses,
                true_boxes=true,
                true_labels=labels,
                true_crowd=random.uniform(size=len(true)) < 0.15,
                true_area=(true[:, 2:] - true[:, :2]).prod(1) * 0.8,
            )
        )
    return images


def one_image(
    boxes=(), scores=None, labels=None, true_boxes=(), true_labels=None, crowd=None, image_id=1
) -> EvaluatedImage:
    """A 100x100 image; scores fall from 0.9, labels are 0, unless given."""
    return EvaluatedImage(
        image_id,
        f"{image_id}.jpg",
        (100, 100),
        list(boxes),
        [0.9 - 0.1 * i for i in range(len(boxes))] if scores is None else scores,
        [0] * len(boxes) if labels is None else labels,
        list(true_boxes),
        [0] * len(true_boxes) if true_labels is None else true_labels,
        crowd,
    )


def _boxes(random: np.random.Generator, count: int) -> np.ndarray:
    corners = random.uniform(0, 400, (count, 2))
    sizes = np.exp(random.uniform(np.log(4), np.log(240), (count, 2)))
    return np.round(np.concatenate([corners, corners + sizes], axis=1), 1)
