"""Train or fine-tune a detector.

One process (CPU or one GPU), eight GPUs, several machines; the settings file says the rest:

    python training/train.py configs/fridge.yaml --data odFridgeObjects --output_dir runs/fridge
    torchrun --nproc-per-node 8 training/train.py configs/coco_50e_8gpu.yaml --data coco --output_dir runs/coco
    accelerate launch training/train.py configs/coco_50e_8gpu.yaml --data coco --output_dir runs/coco
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 training/train.py ...

Without the checkout: `ddetr train ...`, or `torchrun --nproc-per-node 8 -m deformable_detr_refine.training.train ...`.
A run that was stopped goes on with `--resume_from_checkpoint true`. `--help` lists every setting.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from deformable_detr_refine.messages import escape_what_cannot_be_printed, one_line
from deformable_detr_refine.training.run import run
from deformable_detr_refine.training.settings import Settings, parser, read_settings


def train(words: Sequence[str]) -> dict[str, float]:
    """Trains as `[CONFIG.yaml] [--key value ...]` says; see `run`."""
    return train_as(read_settings(words))


def train_as(settings: Settings) -> dict[str, float]:
    """Trains, and writes the MLflow model where that is asked for."""
    metrics = run(settings)
    args = settings[2]
    if args.save_as_mlflow_model and args.process_index == 0 and not args.dry_run:
        # The one thing that training takes from serving, which stands above it.
        from deformable_detr_refine.inference.mlflow_model import export_mlflow

        export_mlflow(args.output_dir, Path(args.output_dir) / "mlflow", force=True)
    return metrics


if __name__ == "__main__":
    escape_what_cannot_be_printed()
    if len(sys.argv) == 1 or "--help" in sys.argv or "-h" in sys.argv:
        print(__doc__)
        parser().print_help()
        sys.exit(0)
    try:
        train(sys.argv[1:])
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        sys.exit(f"train.py: error: {one_line(error)}")
