"""`ddetr train`: trains or fine-tunes a detector."""

import argparse
from pathlib import Path

DESCRIPTION = """\
usage: ddetr train [CONFIG.yaml] [--key value ...]
       ddetr train --replay FILE

Trains a detector on a data set: a folder or file of COCO, Pascal VOC, YOLO or Azure JSONL, a `datasets` folder, or a
Hub name. Settings stand in a YAML file, `key: value` a line, or on the command line, which wins. The folder
--output_dir gets the detector (for `ddetr detect`, from_pretrained and pipeline), metrics.json, report.html, and
checkpoint-N folders from which a stopped run goes on.

the settings that matter (--help-all lists every one, those of transformers' TrainingArguments too):
  --data SOURCE                the data set; its splits are --train_split (train) and --validation_split (validation)
  --validation_data SOURCE     another data set to evaluate on; or --split_every 5: every 5th training image
  --model MODEL                a detector to fine-tune (folder or Hub name); class rows with common names are kept
  --model_config JSON          fields of the config of a new detector (or to change), added to those of CONFIG.yaml
  --backbone_weights WEIGHTS   of a new detector: a file, or 'pretrained'
  --improved_recipe true       a new detector has more AP than by MMDetection's recipe, which is the default
  --output_dir DIR             where everything is written
  --num_train_epochs N, --per_device_train_batch_size N, --learning_rate X, --lr_drop_epochs 40, --bf16 true
  --augmentation NAME          mmdet (the recipe of COCO), light (small data sets) or none; in the file also a list of
                               MMDetection's transforms by its own names; --vertical_flip true
  --shortest_edge N            size of the images, --longest_edge N
  --ema_decay 0.999            evaluate and save a moving average of the weights
  --defects skip               leave out boxes and images that are defective (`ddetr data inspect` shows them)
  --check_images false         do not decode every image before the first step (for large sets known to be whole)
  --early_stopping_patience N, --freeze backbone, --resume_from_checkpoint true, --seed N
  --torch_compile true         compile the model as one graph for all shapes of images: the first step takes minutes
  --dry_run true               draw a batch as the model sees it, time loader and model, and stop
  --replay FILE                run a batch again whose loss was not finite, and say what is not finite in it

examples:
  ddetr train configs/fridge.yaml --data datasets/fridge --model detector --output_dir runs/fridge
    (with the five sample photos instead of the data set it learns them by heart: that shows the command, not the model)
  8 GPUs:            torchrun --nproc-per-node 8 -m deformable_detr_refine.training.train CONFIG.yaml ...
  several machines:  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
                       -m deformable_detr_refine.training.train CONFIG.yaml ...
  accelerate:        accelerate launch -m deformable_detr_refine.training.train CONFIG.yaml ...
"""


# No prefix: every word, `--key` too, is a setting, which the training reads itself.
PARSER = {"add_help": False, "prefix_chars": "\0"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*")


def run(args: argparse.Namespace) -> int:
    words = args.words
    if not words or {"--help", "-h"} & set(words):
        print(DESCRIPTION, end="")
        raise SystemExit(0)  # as argparse does after --help
    if words[0] == "--replay":
        return _replay(words[1:])
    if "--help-all" in words:
        from deformable_detr_refine.training.settings import parser

        parser().print_help()
        return 0
    from deformable_detr_refine.training.train import train

    try:
        train(words)
    except FloatingPointError as error:
        raise ValueError(str(error)) from error
    return 0


def _replay(words: list[str]) -> int:
    if len(words) != 1:
        raise ValueError("--replay takes one file, which a run whose loss was not finite has kept.")
    from deformable_detr_refine.training.replay import replay

    terms = replay(Path(words[0]))
    wrong = terms.pop("not_finite")
    for name, term in terms.items():
        print(f"{name:<16} {term:10.4f}")
    print("All finite, in fp32 on a CPU: suspect the precision." if not wrong else "Not finite: " + "; ".join(wrong))
    return 1 if wrong else 0
