"""The parameters of Azure ML's fine-tuning component for this model, under Azure's own names.

    python -m deformable_detr_refine.training.azure configs/azure_finetune.yaml --training_data DIR ...

takes what the component takes: a pipeline job's YAML, of which the `inputs` count, and `--name value` on top. `-1` and
`""` mean automatic: the component's default. Without `validation_data` every 5th training image validates. Checkpoints,
metrics and the report go to outputs/, which Azure keeps with the job, the trained detector to `--mlflow_model_folder`.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deformable_detr_refine.inference.detections import THRESHOLD
from deformable_detr_refine.messages import escape_what_cannot_be_printed, near, one_line
from deformable_detr_refine.training.run import run
from deformable_detr_refine.training.settings import read_settings
from deformable_detr_refine.yaml_text import read_yaml

SCHEDULES = {
    "warmup_linear": "linear",
    "warmup_cosine": "cosine",
    "warmup_cosine_with_restarts": "cosine_with_restarts",
    "warmup_polynomial": "polynomial",
    "constant": "constant",
    "warmup_constant": "constant_with_warmup",
}
OPTIMIZERS = {
    "adamw_hf": "adamw_torch_fused",
    "adamw": "adamw_torch_fused",
    "sgd": "sgd",
    "adafactor": "adafactor",
    "adagrad": "adagrad",
}
METRICS = ("mean_average_precision", "precision", "recall")
OUTPUTS = "outputs"
AUTOMATIC = (-1, "-1", "-1.0", "", None)


def _same(value: Any) -> Any:
    return value


def _one_of(choices: Mapping[str, str]) -> Callable[[Any], str]:
    def choose(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}.")
        return choices[value]

    return choose


def _is_on(value: Any) -> bool:
    if str(value).lower() not in ("true", "false"):
        raise ValueError(f"{value!r} is neither true nor false.")
    return str(value).lower() == "true"


def _grid(text: str) -> str | None:
    """`(3, 2)`, as Azure writes it, as `3x2`."""
    if text.strip().lower() == "none":
        return None
    if len(sides := re.findall(r"\d+", text)) != 2:
        raise ValueError(f"{text!r} is no grid; write (3, 2) for 3 columns and 2 rows.")
    return "x".join(sides)


def _not_supported(value: Any) -> None:
    if _is_on(value):
        raise ValueError("this is not supported here; leave it False.")


# Azure's name -> (our setting, the component's default when automatic or left out, how its value becomes ours).
# Default None: left to the model or to our own setting.
PARAMETERS: dict[str, tuple[str | None, Any, Callable[[Any], Any]]] = {
    "model_name": ("model", None, _same),
    "mlflow_model": ("model", None, lambda folder: str(model_inside(Path(folder)))),
    "pytorch_model": ("model", None, _same),
    "training_data": ("data", None, _same),
    "validation_data": ("validation_data", None, _same),
    "image_min_size": ("shortest_edge", None, int),
    "image_max_size": ("longest_edge", None, int),
    "tile_grid_size": ("tiles", None, lambda grid: _grid(str(grid))),
    "tile_overlap_ratio": ("tile_overlap", None, float),
    "tile_predictions_nms_thresh": ("tile_nms", None, float),
    "apply_augmentations": ("augmentation", True, lambda value: "light" if _is_on(value) else "none"),
    "number_of_workers": ("dataloader_num_workers", 8, int),
    "number_of_epochs": ("num_train_epochs", 15, int),
    "max_steps": ("max_steps", -1, int),
    "training_batch_size": ("per_device_train_batch_size", 4, int),
    "validation_batch_size": ("per_device_eval_batch_size", 4, int),
    "auto_find_batch_size": ("auto_find_batch_size", False, _is_on),
    "learning_rate": ("learning_rate", 5e-5, float),
    "learning_rate_scheduler": ("lr_scheduler_type", "warmup_linear", _one_of(SCHEDULES)),
    "warmup_steps": ("warmup_steps", 0, int),
    "optimizer": ("optim", "adamw_hf", _one_of(OPTIMIZERS)),
    # Azure writes "momentum=0.5; nesterov=True", transformers commas.
    "extra_optim_args": ("optim_args", None, lambda text: str(text).strip("\"' ").replace(";", ",")),
    "weight_decay": ("weight_decay", 0.0, float),
    "gradient_accumulation_step": ("gradient_accumulation_steps", 1, int),
    "max_grad_norm": ("max_grad_norm", 1.0, float),
    "precision": ("fp16", 32, lambda bits: _one_of({"32": "false", "16": "true"})(str(bits))),
    "random_seed": ("seed", 42, int),
    "evaluation_strategy": ("eval_strategy", "epoch", _same),
    "evaluation_steps": ("eval_steps", 500, int),
    "logging_strategy": ("logging_strategy", "epoch", _same),
    "logging_steps": ("logging_steps", 500, int),
    "save_strategy": ("save_strategy", "epoch", _same),
    "save_steps": ("save_steps", 500, int),
    "save_total_limit": ("save_total_limit", None, int),
    "early_stopping": (None, False, _is_on),
    "early_stopping_patience": (None, 1, int),
    "resume_from_checkpoint": ("resume_from_checkpoint", False, _is_on),
    "metric_for_best_model": ("metric_for_best_model", "mean_average_precision", _one_of({m: m for m in METRICS})),
    "iou_threshold": ("iou_threshold", 0.5, float),
    "box_score_threshold": ("box_score_threshold", THRESHOLD, float),
    "save_as_mlflow_model": (None, True, _is_on),
    "mlflow_model_folder": (None, None, _same),
    "apply_deepspeed": (None, False, _is_on),
    "deepspeed_config": (None, None, _same),
    "apply_ort": (None, False, _not_supported),
    # What the launcher takes, or what is the same for every run.
    "test_data": (None, None, _same),
    "instance_count": (None, 1, int),
    "process_count_per_instance": (None, 1, int),
    "task_name": (None, "image-object-detection", _one_of({"image-object-detection": "image-object-detection"})),
    "model_family": (None, "MmDetectionImage", _same),
    "label_column_name": (None, "label", _one_of({"label": "label"})),
    "input_column_names": (None, "image_url", _one_of({"image_url": "image_url"})),
}


def our_settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `ddetr train` from the component's parameters.

    Raises:
        ValueError: a parameter is unknown, or its value cannot be used; the message names it.

    Example:
        >>> our_settings({"learning_rate": -1, "optimizer": "sgd", "precision": 16})["learning_rate"]
        5e-05
    """
    if unknown := sorted(set(parameters) - set(PARAMETERS)):
        raise ValueError(f"Azure's fine-tuning component has no parameter {unknown[0]!r}.")
    values, settings = {}, {}
    for name, (ours, default, convert) in PARAMETERS.items():
        given = parameters.get(name)
        value = default if given in AUTOMATIC else given
        if value is None:
            continue
        try:
            values[name] = convert(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if ours is not None and values[name] is not None:
            settings[ours] = values[name]
    if "validation_data" not in values:
        settings["split_every"] = 5
    if values["early_stopping"]:
        settings["early_stopping_patience"] = values["early_stopping_patience"]
    if values["apply_deepspeed"]:
        if "deepspeed_config" not in values:
            raise ValueError("apply_deepspeed is on: give deepspeed_config, a DeepSpeed JSON file.")
        settings["deepspeed"] = values["deepspeed_config"]
    # The component keeps the best model, which needs evaluations and checkpoints at the same time.
    settings["load_best_model_at_end"] = settings["eval_strategy"] == settings["save_strategy"] != "no"
    return {**settings, "defects": "skip", "output_dir": OUTPUTS}


def read_parameters(words: Sequence[str]) -> dict[str, Any]:
    """`[JOB.yaml] [--name value ...]` -> parameters; the inputs of the YAML's one job, or its own keys."""
    words = list(words)
    parameters: dict[str, Any] = {}
    if words and not words[0].startswith("--"):
        file = Path(words.pop(0))
        if not file.is_file():
            raise FileNotFoundError(f"There is no file {file}{near(file)}")
        try:
            content = read_yaml(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is not YAML: {one_line(error)}") from error
        inputs = content.get("inputs", content) if isinstance(content, dict) else None
        if not isinstance(inputs, dict):
            raise ValueError(f"{file} is no pipeline job and no mapping of parameters.")
        parameters = {str(name): _plain(value) for name, value in inputs.items()}
    if len(words) % 2 or not all(word.startswith("--") for word in words[::2]):
        raise ValueError("Parameters are pairs: --name value.")
    return {**parameters, **{name[2:]: value for name, value in zip(words[::2], words[1::2], strict=True)}}


def _plain(value: Any) -> Any:
    """An input of a pipeline job: a plain value, or a mapping with its path."""
    return value.get("path") if isinstance(value, dict) else value


def model_inside(folder: Path) -> Path:
    """The model folder inside an MLflow model (where MLflow puts artifacts), or the folder itself."""
    configs = sorted(folder.glob("artifacts/*/config.json"))
    return configs[0].parent if configs else folder


def main(words: Sequence[str]) -> None:
    """Reads parameters, trains, and writes the MLflow model."""
    parameters = read_parameters(words)
    settings = our_settings(parameters)
    wants_model = str(parameters.get("save_as_mlflow_model", True)).lower() == "true"
    if wants_model and not parameters.get("mlflow_model_folder"):
        raise ValueError("There is no folder for the trained model: give --mlflow_model_folder DIR.")
    ours = read_settings([word for name, value in settings.items() for word in (f"--{name}", str(value))])
    run(ours)
    if wants_model and ours[2].process_index == 0:
        # The one thing that training takes from serving, which stands above it.
        from deformable_detr_refine.inference.mlflow_model import export_mlflow

        export_mlflow(ours[2].output_dir, parameters["mlflow_model_folder"])


if __name__ == "__main__":
    escape_what_cannot_be_printed()
    if len(sys.argv) == 1 or "--help" in sys.argv:
        print(__doc__)
        sys.exit(0)
    try:
        main(sys.argv[1:])
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        sys.exit(f"azure.py: error: {one_line(error)}")
