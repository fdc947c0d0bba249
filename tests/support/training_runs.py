"""A small data set of coloured boxes, and runs of the real training on it."""

import json
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from support import forked

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220)}
SIZE = 96
# The first image has no box; 10 images and batches of 4 leave an uneven last batch.
TRAIN_BOXES, VALIDATION_BOXES = (0, 2, 1, 3, 2, 1, 2, 3, 1, 2), (2, 1, 0, 3, 1)
TINY = {
    "backbone": "test_resnet",
    "d_model": 64,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 20,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}
SETTINGS = {
    "augmentation": "none",
    "shortest_edge": SIZE,
    "longest_edge": SIZE,
    "model_config": TINY,
    "learning_rate": "1e-4",
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 2,
    "dataloader_num_workers": 0,
    "logging_steps": 1,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "use_cpu": True,
    "disable_tqdm": True,
}


def write_split(folder: Path, counts: tuple[int, ...], seed: int) -> None:
    """Images of one size with filled boxes, as Roboflow lays COCO out."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    images, annotations = [], []
    for number, count in enumerate(counts, 1):
        pixels = generator.integers(90, 130, (SIZE, SIZE, 3), dtype=np.uint8)
        for _ in range(count):
            width, height = (int(side) for side in generator.integers(20, 50, 2))
            x, y = (int(generator.integers(0, SIZE - side)) for side in (width, height))
            label = int(generator.integers(0, 3))
            pixels[y : y + height, x : x + width] = list(COLOURS.values())[label]
            box = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, **box})
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIZE, "height": SIZE})
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(COLOURS)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "_annotations.coco.json").write_text(json.dumps(content))


def launch(settings: Path, processes: int = 1) -> list[BaseProcess]:
    """The training in a process of its own, or in several over gloo, which print into `log_of(settings)`."""
    if processes > 1:
        return forked.start_ranks(processes, _train, settings, log=log_of(settings))
    return [forked.start(_train, settings, log=log_of(settings))]


def _train(settings: Path) -> None:
    from deformable_detr_refine.training.train import train

    train([str(settings)])


def train_all(settings: Sequence[Path]) -> None:
    """One training after the other in this process; accelerate is made to take FSDP on a CPU, too."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    begin = AcceleratorState.__init__

    def init(state: AcceleratorState, *args, fsdp_plugin=None, **kwargs) -> None:
        begin(state, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            state.fsdp_plugin, state.distributed_type = fsdp_plugin, DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    with patch.object(AcceleratorState, "__init__", init):
        for file in settings:
            _train(file)


def run(settings: Path, processes: int = 1) -> None:
    """Runs the training to its end."""
    forked.finish(launch(settings, processes), log_of(settings))


def log_of(settings: Path) -> Path:
    return settings.with_name("log")


def history(folder: Path) -> list[dict]:
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def weights(folder: Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(folder / name)


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)
