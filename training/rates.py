"""How many images a second the loader gives, and the model trains."""

import time
from collections.abc import Iterator, Sequence
from itertools import count, cycle, islice

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from deformable_detr_refine.data.examples import Examples, collate
from deformable_detr_refine.data.samplers import OrientationSampler

from .arguments import DetectionTrainingArguments

LOADED_ROUNDS, LOADED_BATCHES, TRAINED_BATCHES = 3, 12, 3


def loader_rate(examples: Examples, args: DetectionTrainingArguments, workers: int) -> tuple[list[dict], float]:
    """The loader alone, with training's own order of images, over as many epochs as it takes.

    Each worker's first batch is not counted: it came while Python started. Nobody computes meanwhile, so no batch
    waits, and the workers' own speed is seen.

    Returns:
        Some of the batches, and images/s.
    """
    loader = DataLoader(
        examples,
        args.train_batch_size,
        sampler=_Epochs(training_order(examples, args)),
        collate_fn=collate,
        num_workers=workers,
    )
    # Workers take turns: whole rounds, so that none is counted with a batch that was half done.
    a_round = max(workers, 1)
    counted = a_round * max(LOADED_ROUNDS, -(-LOADED_BATCHES // a_round))
    iterator = iter(loader)
    batches = list(islice(iterator, a_round))
    start, images = time.perf_counter(), 0
    for batch in islice(iterator, counted):
        images += len(batch["labels"])
        if len(batches) <= TRAINED_BATCHES:
            batches.append(batch)
    return batches, images / (time.perf_counter() - start)


def model_rate(model: nn.Module, batches: Sequence[dict], args: DetectionTrainingArguments) -> float:
    """Images/s of forward and backward, after one step that is not counted; few batches come again."""
    kind = torch.bfloat16 if args.bf16 else torch.float16
    images, start = 0, 0.0
    for number, batch in enumerate(islice(cycle(batches), 1 + TRAINED_BATCHES)):
        inputs = {name: value.to(args.device) for name, value in batch.items() if isinstance(value, Tensor)}
        labels = [
            {name: value.to(args.device) for name, value in label.items() if isinstance(value, Tensor)}
            for label in batch["labels"]
        ]
        with torch.autocast(args.device.type, kind, enabled=args.bf16 or args.fp16):
            loss = model(**inputs, labels=labels).loss
        loss.backward()
        loss.item()  # waits for the device
        if number == 0:
            start = time.perf_counter()
        else:
            images += len(labels)
    return images / (time.perf_counter() - start)


def training_order(
    examples: Examples, args: DetectionTrainingArguments, batch_size: int | None = None
) -> OrientationSampler:
    """The order in which training takes the images, batches of one orientation, of args' size if no other is given."""
    rows = examples.rows
    is_wide = [width >= height for width, height in zip(rows["width"], rows["height"], strict=True)]
    return OrientationSampler(is_wide, batch_size or args.train_batch_size, args.seed)


class _Epochs(Sampler[tuple[int, int]]):
    """One epoch after the other, without end."""

    def __init__(self, order: OrientationSampler) -> None:
        self.order = order

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for epoch in count():
            self.order.set_epoch(epoch)
            yield from self.order
