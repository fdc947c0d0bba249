"""An exported detector beside the model it was made from: the same detections, the same AP."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from PIL import Image

from deformable_detr_refine.inference.comparison import RawDetections, compare_detections
from deformable_detr_refine.inference.detections import to_numpy
from deformable_detr_refine.inference.network import Network
from deformable_detr_refine.modeling import load_image

# Of corners in 0..1 of the image, and of scores.
TOLERANCE = 1e-3
# 0.1 points.
AP_TOLERANCE = 1e-3


class ProofError(ValueError):
    """The exported detector does not compute what the model does."""


@dataclass(frozen=True)
class Proof:
    """How far an exported detector is from its model.

    Attributes:
        shapes: (height, width) of the images after resizing; the padded batch of all of them stands last.
        boxes: largest difference between corners of matched detections, in 0..1 of the image.
        scores: the same of scores.
        agreeing: detections with an equal partner (label, score, box), of `detections`.
        at_the_cut: of the others, those whose score ties with the last one kept, where either may be left out.
        model_ap, exported_ap: COCO's AP, 0..1, on `ap_images` images; None when there was no data set.
    """

    shapes: list[tuple[int, int]]
    boxes: float
    scores: float
    agreeing: int
    at_the_cut: int
    detections: int
    model_ap: float | None = None
    exported_ap: float | None = None
    ap_images: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        shapes = ", ".join(f"{width}x{height}" for height, width in self.shapes)
        said = (
            f"{self.agreeing} of {self.detections} detections are the same in images of {shapes}: boxes within "
            f"{self.boxes:.1e} of the image, scores within {self.scores:.1e}"
        )
        if self.at_the_cut:
            said += f"; {self.at_the_cut} more tie with the last one kept"
        if self.model_ap is None:
            return said + "; AP was not compared"
        if self.model_ap < 0:
            return said + f"; AP was not compared, as {self.ap_images} images have no object"
        return said + f"; AP {self.exported_ap:.4f}, the model's {self.model_ap:.4f}, on {self.ap_images} images"


@dataclass
class Samples:
    """What an export is proved on.

    Args:
        images: anything that `load_image` takes, of at least two shapes.
        rows: gives, for the model's class names, the rows of a data set (`RelabelledData`), or None when AP is not to
            be compared.
        progress: called with the number of images after each.
    """

    images: Sequence[Any]
    rows: Callable[[Sequence[str]], Sequence[Any] | None] = lambda names: None
    progress: Callable[[int], Any] = lambda count: None
    _loaded: list[Image.Image] = field(default_factory=list, init=False, repr=False)
    _rows: Sequence[Any] | None = field(default=None, init=False, repr=False)

    def check(self, model: Network) -> None:
        """Before the work: reads the images and checks that they have two shapes after resizing; opens the data set.

        Raises:
            OSError, ValueError: an image or the data set cannot be read, or all images have one shape.
        """
        self._loaded = [load_image(image) for image in self.images]
        self._rows = self.rows(names_of(model))
        if len({_shape(image, model) for image in self._loaded}) < 2:
            raise ValueError(
                f"{len(self._loaded)} image(s) have one shape after resizing; give images of two shapes, one wide and "
                "one high, to prove that the export takes every size."
            )

    def prove(self, model: Network, exported: Network) -> Proof:
        """Runs both on every image alone, on a padded batch of two, and over the data set.

        Raises:
            ProofError: they do not agree.
        """
        images = self._loaded
        batches = [[image] for image in images]
        first = _shape(images[0], model)
        batches.append([images[0], next(image for image in images if _shape(image, model) != first)])
        worst = {"boxes": 0.0, "scores": 0.0, "agreeing": 0, "at_the_cut": 0, "detections": 0}
        shapes = []
        for batch in batches:
            inputs, exported_inputs = model.prepare(batch), exported.prepare(batch)
            shapes.append(tuple(inputs["pixel_values"].shape[-2:]))
            for ours, theirs in zip(_found(model, inputs), _found(exported, exported_inputs), strict=True):
                difference = compare_detections(theirs, ours, TOLERANCE, TOLERANCE)
                worst["boxes"] = _larger(worst["boxes"], difference["box_pixels"])
                worst["scores"] = _larger(worst["scores"], difference["scores"])
                for key in ("agreeing", "at_the_cut", "detections"):
                    worst[key] += difference[key]
            self.progress(len(batch))
        proof = Proof(shapes, **worst)
        if not (
            proof.agreeing + proof.at_the_cut == proof.detections
            and proof.boxes <= TOLERANCE
            and proof.scores <= TOLERANCE
        ):
            raise ProofError(f"The export is refused, it does not compute what the model does: {proof}.")
        if not self._rows:
            return proof
        model_ap, exported_ap = average_precisions(self._rows, (model, exported), self.progress)
        proof = Proof(shapes, **worst, model_ap=model_ap, exported_ap=exported_ap, ap_images=len(self._rows))
        if not abs(model_ap - exported_ap) <= AP_TOLERANCE:
            raise ProofError(f"The export is refused, its AP differs by more than 0.1 points: {proof}.")
        return proof


def average_precisions(
    rows: Sequence[Any], networks: Sequence[Network], progress: Callable[[int], Any] = lambda count: None
) -> list[float]:
    """COCO's AP, 0..1, of each network on the rows of a data set."""
    from deformable_detr_refine.data.row_image import row_image
    from deformable_detr_refine.evaluation.evaluated_image import evaluated_image
    from deformable_detr_refine.evaluation.metrics.coco import coco_metrics

    seen: list[list[Any]] = [[] for _ in networks]
    for row in rows:
        image = row_image(row)
        for network, images in zip(networks, seen, strict=True):
            (result,) = network.detect([image])
            images.append(evaluated_image(result, row))
        progress(1)
    return [coco_metrics(images, names_of(networks[0]))["AP"] for images in seen]


def names_of(network: Network) -> list[str]:
    """A network's class names, in the order of its labels."""
    return [name for _, name in sorted(network.id2label.items())]


def _found(network: Network, inputs: Any) -> list[RawDetections]:
    """The best detections of a batch, boxes xyxy in 0..1 of the image."""
    _, results = network.run(inputs, None)
    return [RawDetections(*(to_numpy(result[name]) for name in ("boxes", "scores", "labels"))) for result in results]


def _shape(image: Image.Image, network: Network) -> tuple[int, int]:
    return network.processor.resized_shape(image.height, image.width)


def _larger(a: float, b: float) -> float:
    """The larger one; NaN when one of them is."""
    return max(a, b) if a == a and b == b else float("nan")


__all__ = ["AP_TOLERANCE", "TOLERANCE", "Proof", "ProofError", "Samples", "average_precisions", "names_of"]
