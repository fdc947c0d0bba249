"""Whether the loader of training images keeps up with the model: images/s of both, by the settings files in configs/.

    python benchmarks/loader.py [--workers 1 2]

The sample photos again and again, augmented as the settings say. The model is the one that the settings train; where
they fine-tune a detector, R-50, one image per step. Loader and model are timed one after the other. Prints Markdown.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from timing import write_numbers
from torch.utils.data import DataLoader

from deformable_detr_refine.data.augmentation.recipe import training_transform
from deformable_detr_refine.data.examples import Examples, collate
from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.training.model import build_model, build_processor
from deformable_detr_refine.training.rates import loader_rate, model_rate
from deformable_detr_refine.training.settings import read_settings

REPOSITORY = Path(__file__).parents[1]
# settings file -> the sample photos of its kind
SETTINGS = {"small_cpu.yaml": "blood_cells.json", "fridge.yaml": "fridge.json"}
IMAGES = 120


def rates(settings: str, annotations: str, workers: list[int]) -> list[float]:
    """Images/s of the loader with each number of workers, and of the model."""
    with tempfile.TemporaryDirectory(prefix="ddetr-bench-") as folder:
        words = [str(REPOSITORY / "configs" / settings), "--output_dir", folder, "--use_cpu", "true"]
        # Weights change nothing in the time, and would have to be fetched.
        model_args, data_args, args = read_settings([*words, "--backbone_weights", ""])
        data = load_detection_data(REPOSITORY / "samples" / "annotations" / annotations, defects="skip")
        photos: Dataset = next(iter(data.splits.values()))
        processor = build_processor(model_args, data_args)
        size = processor.size["shortest_edge"], processor.size["longest_edge"]
        augmentation = training_transform(data_args.augmentation, *size, vertical_flip=data_args.vertical_flip)
        rows = photos.select([number % len(photos) for number in range(IMAGES)])
        examples = Examples(rows, processor, augmentation, args.seed)
        batches, speeds = [], []
        for count in workers:
            batches, rate = loader_rate(examples, args, count)
            speeds.append(rate)
        if model_args.model_config == "{}":
            batches = list(DataLoader(torch.utils.data.Subset(examples, range(3)), 1, collate_fn=collate))
        model, _ = build_model(model_args, data.label_map)
        return [*speeds, model_rate(model.train(), batches, args)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="processes that load (default 1 2)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch for the model (default 2)")
    parser.add_argument("--numbers", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    columns = [f"{count} worker{'s' * (count > 1)}, images/s" for count in args.workers]
    print(f"| settings | {' | '.join(columns)} | the model here, images/s |\n|{'---|' * (len(columns) + 2)}")
    numbers = {}
    for settings, annotations in SETTINGS.items():
        numbers[settings] = rates(settings, annotations, args.workers)
        cells = [f"{rate:.3g}" for rate in numbers[settings]]
        print(f"| `configs/{settings}` | {' | '.join(cells)} |", flush=True)
    write_numbers(args.numbers, numbers)


if __name__ == "__main__":
    main()
