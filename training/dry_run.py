"""A look before a long run: what the model will see, and whether the loader keeps up with the model."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from deformable_detr_refine.data.examples import Examples
from deformable_detr_refine.files import new_path
from deformable_detr_refine.inference.drawing import draw_boxes
from deformable_detr_refine.messages import counted
from deformable_detr_refine.modeling import DeformableDetrRefineForObjectDetection
from deformable_detr_refine.modeling.boxes import cxcywh_to_xyxy

from .arguments import DetectionTrainingArguments
from .rates import loader_rate, model_rate

PICTURES, COLUMNS = 9, 3


def dry_run(
    model: DeformableDetrRefineForObjectDetection, examples: Examples, args: DetectionTrainingArguments, folder: Path
) -> str:
    """Draws training images after augmentation with their boxes, and times loader and model beside each other.

    Returns:
        What was found, in sentences; the picture is `folder`/dry_run.jpg.
    """
    names = model.config.id2label
    seen = [examples[(0, index)] for index in range(min(PICTURES, len(examples)))]
    with new_path(folder / "dry_run.jpg") as new:
        grid([picture(example, examples.processor, names) for example in seen], COLUMNS).save(new, "JPEG", quality=90)
    workers = args.dataloader_num_workers
    batches, loaded = loader_rate(examples, args, workers)
    trained = model_rate(model.train().to(args.device), batches, args)
    if not workers:
        both, verdict = 1 / (1 / loaded + 1 / trained), "each waits for the other."
    elif loaded < trained:
        both, verdict = loaded, "the loader is the slower: raise --dataloader_num_workers."
    else:
        both, verdict = trained, "the loader keeps up."
    images, told = _images(len(examples), args)
    return (
        f"Written: {folder / 'dry_run.jpg'}\n"
        f"A process loads {loaded:.1f} images/s with {workers} workers and trains {trained:.1f} images/s: {verdict}\n"
        f"{told}, {counted(args.world_size, 'process', 'processes')}: about "
        f"{_duration(images / args.world_size / both)} without evaluations."
    )


def _images(count: int, args: DetectionTrainingArguments) -> tuple[float, str]:
    """How many images all processes train on together, and how that comes about."""
    if args.max_steps > 0:
        a_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return args.max_steps * a_step, f"{args.max_steps} steps of {a_step} images"
    return count * args.num_train_epochs, f"{count} images, {args.num_train_epochs:g} epochs"


def _duration(seconds: float) -> str:
    """Example:
    >>> _duration(50), _duration(600), _duration(9000)
    ('50 seconds', '10 minutes', '2.5 hours')
    """
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


def picture(example: dict, processor, names: dict[int, str]) -> Image.Image:
    """An example as the model sees it, with its boxes."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    pixels = ((example["pixel_values"] * std + mean).clamp(0, 1) * 255).round().byte()
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    labels = example["labels"]
    boxes = cxcywh_to_xyxy(labels["boxes"]) * torch.tensor([image.width, image.height] * 2)
    classes = labels["class_labels"].numpy()
    texts = [names[label] for label in classes.tolist()]
    return draw_boxes(image, boxes.numpy(), classes, texts, [1.0] * len(texts))


def grid(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures side by side, each in a cell of the largest's size."""
    width, height = max(image.width for image in pictures), max(image.height for image in pictures)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (width * min(columns, len(pictures)), height * rows), "white")
    for index, image in enumerate(pictures):
        sheet.paste(image, (index % columns * width, index // columns * height))
    return sheet
