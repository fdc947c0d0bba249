"""A look before a long run: what the model will see, and whether the loader keeps up with the model."""

import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from deformable_detr_refine.boxes import cxcywh_to_xyxy
from deformable_detr_refine.conversion.model_folder import new_path
from deformable_detr_refine.data.examples import Collator, Examples
from deformable_detr_refine.drawing import draw_boxes
from deformable_detr_refine.training.arguments import DetectionTrainingArguments

PICTURES, COLUMNS = 9, 3
LOADED_BATCHES, TRAINED_BATCHES = 12, 3


def dry_run(model: nn.Module, examples: Examples, args: DetectionTrainingArguments, folder: Path) -> str:
    """Draws training images after augmentation with their boxes, and times loader and model beside each other.

    Returns:
        What was found, in sentences; the picture is `folder`/dry_run.jpg.
    """
    names = model.config.id2label
    seen = [examples[(0, index)] for index in range(min(PICTURES, len(examples)))]
    with new_path(folder / "dry_run.jpg") as new:
        grid([picture(example, examples.processor, names) for example in seen], COLUMNS).save(new, "JPEG", quality=90)
    batch_size = args.train_batch_size
    loader = DataLoader(
        examples,
        batch_size,
        shuffle=True,
        collate_fn=Collator(examples.processor),
        num_workers=args.dataloader_num_workers,
    )
    batches, loader_rate = _loader_rate(loader, batch_size)
    model_rate = _model_rate(model.train().to(args.device), batches, args)
    verdict = (
        "the loader keeps up."
        if loader_rate >= model_rate
        else "the loader is the slower: raise --dataloader_num_workers."
    )
    return (
        f"Written: {folder / 'dry_run.jpg'}\n"
        f"A process loads {loader_rate:.1f} images/s with {args.dataloader_num_workers} workers and trains "
        f"{model_rate:.1f} images/s: {verdict}\n"
        f"{len(examples)} images, {args.num_train_epochs:g} epochs, {args.world_size} processes: about "
        f"{len(examples) * args.num_train_epochs / args.world_size / min(loader_rate, model_rate) / 3600:.1f} hours."
    )


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


def _loader_rate(loader: DataLoader, batch_size: int) -> tuple[list[dict], float]:
    """A few batches, and images/s once the workers run."""
    iterator = iter(loader)
    first = next(iterator)
    start = time.perf_counter()
    batches = [first, *islice(iterator, LOADED_BATCHES)]
    count = sum(len(batch["labels"]) for batch in batches[1:]) or batch_size
    return batches, count / (time.perf_counter() - start)


def _model_rate(model: nn.Module, batches: Sequence[dict], args: DetectionTrainingArguments) -> float:
    """Images/s of forward and backward, after one step that is not counted."""
    kind = torch.bfloat16 if args.bf16 else torch.float16
    count, start = 0, 0.0
    for number, batch in enumerate(batches[: 1 + TRAINED_BATCHES]):
        if number == 1:
            count, start = 0, time.perf_counter()
        inputs = {name: value.to(args.device) for name, value in batch.items() if isinstance(value, Tensor)}
        labels = [
            {name: value.to(args.device) for name, value in label.items() if isinstance(value, Tensor)}
            for label in batch["labels"]
        ]
        with torch.autocast(args.device.type, kind, enabled=args.bf16 or args.fp16):
            loss = model(**inputs, labels=labels).loss
        loss.backward()
        count += len(labels)
        loss.item()  # waits for the device
    return count / (time.perf_counter() - start) if start else float("nan")
