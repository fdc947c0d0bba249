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

from deformable_detr_refine.training.run import train
from deformable_detr_refine.training.settings import parser

if __name__ == "__main__":
    if len(sys.argv) == 1 or "--help" in sys.argv or "-h" in sys.argv:
        print(__doc__)
        parser().print_help()
        sys.exit(0)
    try:
        train(sys.argv[1:])
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"train.py: error: {' '.join(str(error).split())}")
