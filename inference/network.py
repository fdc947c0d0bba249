"""What computes, in PyTorch or ONNX Runtime, and the one place where its outputs become boxes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from PIL import Image

from .detections import THRESHOLD

# In what PyTorch, on a CPU or an accelerator, and ONNX Runtime say where they raise errors of their own.
_NO_MEMORY = ("can't allocate memory", "out of memory", "Failed to allocate memory")


class NoMemory(ValueError):
    """Images take more memory than there is: fewer at a time take less."""


@contextmanager
def no_memory_told() -> Iterator[None]:
    """Within the block memory that is short, the machine's or an accelerator's, is a `NoMemory`."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in _NO_MEMORY):
            raise
        raise NoMemory("There is not enough memory to look at it; tiles or a smaller size need less.") from error


class Network(NamedTuple):
    """A forward pass, its image processor, the names of its classes, and the score threshold to begin with."""

    # {"pixel_values" (B, 3, height, width), "pixel_mask" (B, height, width)} -> `logits`, `pred_boxes`
    forward: Callable[[Any], Any]
    processor: Any
    id2label: Mapping[int, str]
    threshold: float = THRESHOLD
    # Of which kind the image processor is to give them: "pt" or "np".
    tensors: str = "pt"

    @classmethod
    def of(cls, model: Any, processor: Any) -> "Network":
        """Of a model in PyTorch, to whose device and type of numbers each batch is moved."""
        import torch
        from transformers import BatchFeature

        known = model.config.score_threshold

        @torch.inference_mode()
        def forward(inputs: Any) -> Any:
            mask = inputs.get("pixel_mask")
            if mask is not None and mask.device.type == "cpu" and mask.all():  # a GPU would not be asked
                inputs = BatchFeature({"pixel_values": inputs["pixel_values"]})
            return model(**inputs.to(model.device, model.dtype))

        return cls(
            forward,
            processor,
            model.config.id2label,
            THRESHOLD if known is None else known,
        )

    def run(
        self,
        inputs: Any,
        sizes: Sequence[tuple[int, int]] | None,
        threshold: float = 0.0,
        top_k: int | None = None,
    ) -> tuple[Any, list[dict[str, Any]]]:
        """One batch.

        Args:
            inputs: as `prepare` gives them.
            sizes: (height, width) of each original image; without them boxes are in 0..1 of the image.
            threshold: scores above it are kept.
            top_k: most boxes an image; as many as the image processor says if None.

        Returns:
            What `forward` gave, and for each image `boxes` (N, 4) xyxy in pixels of the original image, `scores` (N,)
            and `labels` (N,), best first.

        Raises:
            NoMemory: there is not enough.
        """
        with no_memory_told():
            outputs = self.forward(inputs)
            return outputs, self.processor.post_process_object_detection(outputs, threshold, sizes, top_k)

    def prepare(self, images: Sequence[Image.Image]) -> Any:
        """What `run` takes, of B images."""
        with no_memory_told():
            return self.processor(images=list(images), return_tensors=self.tensors)

    def detect(
        self, images: Sequence[Image.Image], threshold: float = 0.0, top_k: int | None = None
    ) -> list[dict[str, Any]]:
        """What `run` finds in images of one resized shape, which are prepared first."""
        sizes = [(image.height, image.width) for image in images]
        return self.run(self.prepare(images), sizes, threshold, top_k)[1]


__all__ = ["Network", "NoMemory"]
