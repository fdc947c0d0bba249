"""Whether a run may write into its folder, and which checkpoint it goes on from, and how: held before any work."""

import json
from collections.abc import Callable
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from deformable_detr_refine.files import check_writable
from deformable_detr_refine.messages import one_line, printable
from deformable_detr_refine.secret_text import without_secrets
from deformable_detr_refine.yaml_text import read_yaml

from .arguments import DetectionTrainingArguments, defaults_of
from .checkpoints import NUMBERED, fault_of, has_random_state, newest_whole_checkpoint
from .settings import Settings, given_settings

SETTINGS_FILE = "settings.yaml"
# What a dry run, a run that stopped before its first checkpoint, or a shell leave in the folder; a run writes over none
# of a person's own files.
HARMLESS = (".*", "dry_run.jpg", SETTINGS_FILE, "not-finite-step-*.pt", "runs", "*.log", "*.txt")
# What a checkpoint has decided: its optimiser is of these parameters and options, its place in an epoch of these random
# numbers.
_DECIDED = (
    *("seed", "freeze", "slow_parameters", "optim", "optim_args", "optim_target_modules"),
    *("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
)
# Schedules that go on from the rates in the checkpoint, and what would be of other rates.
_OWN_RATES = ("reduce_lr_on_plateau", "greedy")
_RATES = ("learning_rate", "slow_factor", "scale_lr_by_batch")
# Of where the model comes from, which now is the checkpoint, whose config is compared for itself; and the seed of
# transformers' samplers, none of which draws here.
_NOT_COMPARED = (
    *("output_dir", "model", "revision", "model_config", "improved_recipe", "backbone_weights", "head_surgery"),
    "data_seed",
)
# What an evaluation depends on: with another the best result so far is not of the same kind as those to come.
_OF_EVALUATIONS = (
    *("data", "validation_data", "validation_split", "split_every", "shortest_edge", "longest_edge"),
    *("tiles", "tile_size", "tile_overlap", "tile_nms", "metric_for_best_model"),
)
_TRUE = (True, "true", "True")
_UNSET = (None, False, "false", "False", "")


def checkpoint_to_resume(
    args: DetectionTrainingArguments, say: Callable[[str], Any] = lambda text: None
) -> Path | None:
    """The checkpoint to go on from, or None.

    Args:
        args: the run's.
        say: is told which checkpoints are not whole.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the folder holds another run, or the checkpoint is not whole or of another number of processes.
        OSError: the folder is a file, or nothing can be written in it.
    """
    output, asked = Path(args.output_dir), args.resume_from_checkpoint
    check_writable(output, "--output_dir")
    if asked not in (*_UNSET, *_TRUE):
        if not Path(asked).is_dir():
            raise FileNotFoundError(f"There is no checkpoint {asked} to resume from.")
        if fault := fault_of(Path(asked)):
            raise ValueError(f"{asked} is not whole ({fault}): copy it again, or go on from the one before it.")
        return Path(asked)
    if asked in _TRUE:
        checkpoint = newest_whole_checkpoint(output, args.world_size, say)
        if checkpoint and not has_random_state(checkpoint, args.world_size):
            raise ValueError(
                f"{checkpoint} was written by another number of processes than {args.world_size}: go on with as many, "
                f"or name it (--resume_from_checkpoint {checkpoint}) to go on with new random numbers."
            )
        return checkpoint
    if args.dry_run:
        return None
    if any(path.is_dir() and NUMBERED.fullmatch(path.name) for path in output.glob("*")):
        raise ValueError(
            f"{output} holds checkpoints of an earlier run: go on with --resume_from_checkpoint true, "
            "or choose another --output_dir."
        )
    held = sorted(path.name for path in output.iterdir()) if output.exists() else []
    if others := [name for name in held if not any(fnmatch(name, pattern) for pattern in HARMLESS)]:
        raise ValueError(
            f"{output} is not empty ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''}): "
            "choose another --output_dir."
        )
    return None


def changed_settings(checkpoint: Path, settings: Settings) -> str:
    """In words, what of a run's settings is not as it stands in the settings.yaml beside its checkpoint.

    Raises:
        ValueError: it is something that the checkpoint decides, or the file is damaged.
    """
    file = checkpoint.parent / SETTINGS_FILE
    try:
        before = read_yaml(file.read_text(encoding="utf-8")) if file.is_file() else None
    except ValueError as error:
        raise ValueError(f"{file} is not YAML: {one_line(error)}") from error
    if not isinstance(before, dict):
        return ""
    now, changes, note = given_settings(settings), [], ""
    args = settings[2]
    keeps_rates = args.lr_scheduler_type in _OWN_RATES and not args.lr_drop_epochs
    defaults = {item.name: defaults_of(item)[0] for part in settings for item in fields(part)}
    for name in {**before, **now}:
        old, new = (_plain(values.get(name, defaults.get(name))) for values in (before, now))
        texts = [json.dumps(value, default=str) for value in (new, old)]
        if old == new or texts[0] == texts[1] or name in _NOT_COMPARED:  # NaN is not equal to itself
            continue
        words = [printable(without_secrets(text), 60) for text in texts]
        if name in _DECIDED or (keeps_rates and name in _RATES):
            raise ValueError(
                f"{checkpoint} was trained with {name} {words[1]}, this run has {words[0]}: go on with the settings of "
                "the run (its settings.yaml), or start anew, without --resume_from_checkpoint in a new --output_dir."
            )
        changes.append(f"{printable(str(name), 40)} {words[0]} (before {words[1]})")
        if name in _OF_EVALUATIONS and args.metric_for_best_model:
            note = "; the best result so far, which later ones are compared with, is of the settings before"
    return ", ".join(changes) + note


def _plain(value: Any) -> Any:
    """As YAML gives it, which takes 1e-4 for text; AdamW is the same optimiser in its fused form."""
    value = getattr(value, "value", value)
    if value == "adamw_torch_fused":
        return "adamw_torch"
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
