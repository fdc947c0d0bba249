"""What changes of the training recipe bring: validation AP of short trainings on BCCD, several seeds each.

    python benchmarks/recipes.py BCCD --backbone-weights tf_efficientnet_lite0.safetensors
    python benchmarks/recipes.py BCCD --tasks fine-tuned --variants baseline --seeds 3 4
    python benchmarks/recipes.py --table

Two tasks, both with configs/small_cpu.yaml. `new`: a new detector, shortened to 12 epochs at a shortest edge of 192.
`fine-tuned`: samples/blood-cells learns 16 of its images with renamed classes, 15 epochs. The averaged weights are
evaluated once, after the last epoch. Every run is a process of its own; RESULTS gets it when it has ended, and a run
that stands there is not made again: a stopped measurement goes on with the same command. RECIPES.md gets the tables.
A run is known by its task, recipe and seed alone: other data, weights or machines need other --results and --page.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from timing import machine

from deformable_detr_refine.data.formats.coco import write_coco
from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.data.label_map import LabelMap
from deformable_detr_refine.files import new_path
from deformable_detr_refine.training.model import IMPROVED, IMPROVED_WHEN_NEW

ROOT = Path(__file__).resolve().parent.parent
ONCE = {
    "improved_recipe": "false",  # each variant says what it changes
    "per_device_train_batch_size": 4,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": "false",
    "dataloader_num_workers": 0,  # one process, one core
}
# Warm-up and average are shortened with the epochs: 200 and 1,000 of the 3,120 steps of small_cpu.yaml.
NEW = {"shortest_edge": 192, "longest_edge": 320, "num_train_epochs": 12, "warmup_steps": 40, "ema_decay": 0.995}
FINE_TUNED = {"num_train_epochs": 15, "learning_rate": 1e-4, "warmup_steps": 4, "ema_decay": 0.95}
TASKS = {"new": NEW, "fine-tuned": FINE_TUNED}
BASELINE = "baseline"
BOTH = "mixed-query-selection + quality-target"  # `improved_recipe`
# By task, what each adds to the file's `model_config`. What is fine-tuned was itself trained by both.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "new": {
        BASELINE: {},
        "mixed-query-selection": {"mixed_query_selection": True},
        "quality-target": IMPROVED,
        "class-coefficient": {"class_loss_coefficient": 1.0},
        BOTH: IMPROVED_WHEN_NEW,
    },
    "fine-tuned": {BASELINE: {}, "focal-loss": {"quality_target": None, "class_loss_coefficient": 2.0}},
}


def train(task: str, data: str, backbone: Path, variant: str, seed: int, work: Path) -> dict[str, Any]:
    """One training in a process of its own -> its figures. What it writes is removed."""
    config, folder = ROOT / "configs" / "small_cpu.yaml", work / "run"
    shutil.rmtree(folder, ignore_errors=True)
    given: dict[str, Any] = {"data": data, "seed": seed, "output_dir": folder}
    given["model_config"] = json.dumps(VARIANTS[task][variant])
    if task == "new":
        given["backbone_weights"] = backbone
    else:
        given |= {"data": few_images(data, work / f"few-{Path(data).name}"), "model": ROOT / "samples" / "blood-cells"}
    words = [word for key, value in (ONCE | TASKS[task] | given).items() for word in (f"--{key}", str(value))]
    start = time.perf_counter()
    command = [sys.executable, ROOT / "training" / "train.py", config, *words]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"recipes.py: error: {task}, {variant}, seed {seed}: {os.waitstatus_to_exitcode(status)}.")
    wall = time.perf_counter() - start
    metrics = json.loads((folder / "metrics.json").read_text())
    shutil.rmtree(folder)
    return {
        "task": task,
        "variant": variant,
        "seed": seed,
        **{name: round(metrics[name], 5) for name in ("AP", "AP50", "AP75")},
        "processor_s": round(used.ru_utime + used.ru_stime, 1),
        "wall_s": round(wall, 1),
    }


def few_images(data: str, folder: Path) -> Path:
    """Every 13th of the training images, 16 of BCCD's 205, with other names for its classes, and its validation."""
    if not folder.is_dir():
        full = load_detection_data(data, defects="skip")
        rows = full["train"]
        splits = {"train": rows.select(range(0, len(rows), 13)), "validation": full["validation"]}
        renamed = LabelMap(tuple(f"new {name}" for name in full.label_map.names), full.label_map.category_ids)
        write_coco(replace(full, splits=splits, label_map=renamed), folder)
    return folder


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: a row for each variant, mean and standard deviation over its seeds.

    The gain is the mean difference to the baseline of the same seeds, with its standard error.
    """
    rows = ["| recipe | seeds | AP | AP50 | AP75 | gain in AP | processor time |", "|---|---|---|---|---|---|---|"]
    of: dict[str, dict[int, dict[str, Any]]] = {}
    for run in runs:
        of.setdefault(run["variant"], {})[run["seed"]] = run
    base = of.get(BASELINE, {})
    for name, by_seed in of.items():
        cells = [_spread([run[metric] for run in by_seed.values()]) for metric in ("AP", "AP50", "AP75")]
        price = f"{statistics.mean(run['processor_s'] for run in by_seed.values()):.0f} s"
        gain, common = "", [seed for seed in by_seed if seed in base and name != BASELINE]
        if common:
            gains = [by_seed[seed]["AP"] - base[seed]["AP"] for seed in common]
            gain = _spread(gains, "+.3f", len(gains) ** 0.5)
            times = [by_seed[seed]["processor_s"] / base[seed]["processor_s"] for seed in common]
            price += f", {statistics.mean(times):.2f}x"
        rows.append(f"| {name} | {len(by_seed)} | {' | '.join(cells)} | {gain} | {price} |")
    return "\n".join(rows)


def _spread(values: list[float], form: str = ".3f", divisor: float = 1.0) -> str:
    mean = format(statistics.mean(values), form)
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values) / divisor:.3f}"


def write_page(results: Path, page: Path) -> None:
    """Puts the tables between the marks of RECIPES.md."""
    found, text = json.loads(results.read_text()), page.read_text()
    tables = [
        f"`{task}`:\n\n{table([run for run in found['runs'] if run['task'] == task])}"
        for task in dict.fromkeys(run["task"] for run in found["runs"])
    ]
    before, after = text.split("<!-- tables -->")[0], text.split("<!-- end -->")[1]
    body = "\n\n".join([f"{found['machine']}.", *tables])
    with new_path(page) as new:
        new.write_text(f"{before}<!-- tables -->\n{body}\n<!-- end -->{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).parent
    parser.add_argument("data", nargs="?", help="BCCD, or another data set with a validation split")
    parser.add_argument("--backbone-weights", type=Path, default=Path("pretrained"), help="a file, or pretrained")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    variants = list(dict.fromkeys(variant for of_task in VARIANTS.values() for variant in of_task))
    parser.add_argument("--variants", nargs="+", choices=variants, default=variants)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=here / "recipes.json")
    parser.add_argument("--page", type=Path, default=here / "RECIPES.md")
    parser.add_argument("--work", type=Path, default=Path("runs/recipes"), help="where a run writes meanwhile")
    parser.add_argument("--table", action="store_true", help="write the page from the results, and train nothing")
    args = parser.parse_args()
    if not (args.table or args.data):
        parser.error("give the data set, or --table")
    found = json.loads(args.results.read_text()) if args.results.is_file() else {"machine": machine(), "runs": []}
    done = {(run["task"], run["variant"], run["seed"]) for run in found["runs"]}
    asked = [
        (task, variant, seed)
        for task in args.tasks
        for variant in args.variants
        if variant in VARIANTS[task]
        for seed in args.seeds
    ]
    for task, variant, seed in asked if not args.table else ():
        if (task, variant, seed) not in done:
            found["runs"].append(train(task, args.data, args.backbone_weights, variant, seed, args.work))
            with new_path(args.results) as new:
                new.write_text(json.dumps(found, indent=1) + "\n")
    write_page(args.results, args.page)


if __name__ == "__main__":
    main()
