"""Azure's fine-tuning parameters: every one is known, automatic means the component's default, and a run works."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deformable_detr_refine.data.detection_data import DetectionData
from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.training.azure import our_settings, read_parameters
from deformable_detr_refine.training.settings import read_settings

CONFIGS = Path(__file__).parents[2] / "configs"


def test_automatic_means_the_components_defaults():
    automatic = dict.fromkeys(("learning_rate", "number_of_epochs", "training_batch_size", "weight_decay"), -1)
    settings = our_settings({**automatic, "optimizer": "", "learning_rate_scheduler": "", "metric_for_best_model": ""})
    assert settings == our_settings({})
    assert settings["learning_rate"] == 5e-5 and settings["num_train_epochs"] == 15 and settings["weight_decay"] == 0
    assert settings["optim"] == "adamw_torch_fused" and settings["lr_scheduler_type"] == "linear"
    assert settings["metric_for_best_model"] == "mean_average_precision" and "shortest_edge" not in settings
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    _, _, args = read_settings(words)  # every value is one that the settings take
    assert args.max_grad_norm == 1.0 and args.load_best_model_at_end and args.greater_is_better


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"precision": 16}, {"fp16": "true"}),
        ({"apply_augmentations": "False"}, {"augmentation": "none"}),
        ({"early_stopping": True, "early_stopping_patience": 3}, {"early_stopping_patience": 3}),
        ({"image_min_size": 600, "image_max_size": 1000}, {"shortest_edge": 600, "longest_edge": 1000}),
        ({"learning_rate_scheduler": "warmup_cosine"}, {"lr_scheduler_type": "cosine"}),
        ({"optimizer": "adagrad"}, {"optim": "adagrad"}),
        ({"extra_optim_args": "momentum=0.5; nesterov=True"}, {"optim_args": "momentum=0.5, nesterov=True"}),
        ({"training_data": "data"}, {"split_every": 5}),
        ({"apply_deepspeed": True, "deepspeed_config": "zero1.json"}, {"deepspeed": "zero1.json"}),
    ],
)
def test_parameters_become_settings(given, expected):
    settings = our_settings(given)
    assert {name: settings[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"learning_rat": 1}, "learning_rat"),
        ({"optimizer": "lion9"}, "optimizer: 'lion9'"),
        ({"apply_ort": True}, "apply_ort"),
        ({"early_stopping": "maybe"}, "early_stopping"),
        ({"number_of_epochs": "many"}, "number_of_epochs"),
        ({"apply_deepspeed": True}, "deepspeed_config"),
        ({"task_name": "image-classification"}, "task_name"),
    ],
)
def test_what_cannot_be_used_is_named(given, said):
    with pytest.raises(ValueError, match=said):
        our_settings(given)


def test_the_job_file_is_one_that_azure_reads_and_so_do_we():
    file = CONFIGS / "azure_finetune.yaml"
    job = yaml.safe_load(file.read_text())
    inside = job["jobs"]["finetune"]
    assert job["type"] == "pipeline"
    # What is set when the job is submitted reaches the run, which sees its command alone.
    assert inside["inputs"] == {name: f"${{{{parent.inputs.{name}}}}}" for name in job["inputs"]}
    for name in job["inputs"]:
        assert f'--{name} "${{{{inputs.{name}}}}}"' in inside["command"]
    parameters = read_parameters([str(file), "--number_of_epochs", "3"])
    assert parameters["number_of_epochs"] == "3" and parameters["learning_rate"] == -1
    our_settings(parameters)


def test_the_jobs_command_says_what_its_file_says():
    job = yaml.safe_load((CONFIGS / "azure_finetune.yaml").read_text())
    command = job["jobs"]["finetune"]["command"].partition("training.azure")[2]
    for name, value in job["inputs"].items():
        text = value["path"] if isinstance(value, dict) else str(value)  # Azure writes True for true, as str does
        command = command.replace(f"${{{{inputs.{name}}}}}", text)
    words = shlex.split(command)
    given = our_settings(read_parameters(words))
    assert given == our_settings(read_parameters([str(CONFIGS / "azure_finetune.yaml"), *words[-2:]]))


def as_mltable(data: DetectionData, split: str, folder: Path) -> Path:
    """One split as Azure has it: an MLTable folder with a line of JSON an image."""
    folder.mkdir()
    lines = []
    for row in data[split]:
        objects = zip(row["objects"]["bbox"], row["objects"]["category"], strict=True)
        label = [
            {
                "label": data.label_map.names[category],
                "topX": x / row["width"],
                "topY": y / row["height"],
                "bottomX": (x + w) / row["width"],
                "bottomY": (y + h) / row["height"],
                "isCrowd": 0,
            }
            for (x, y, w, h), category in objects
        ]
        details = {"format": "png", "width": row["width"], "height": row["height"]}
        (folder / row["file_name"]).write_bytes(Path(row["image"]["path"]).read_bytes())
        lines.append(json.dumps({"image_url": row["file_name"], "image_details": details, "label": label}))
    (folder / "data.jsonl").write_text("\n".join(lines))
    (folder / "MLTable").write_text("paths:\n  - file: ./data.jsonl\ntransformations:\n  - read_json_lines:\n")
    return folder


@pytest.mark.slow
def test_a_run_with_azures_parameters(boxes_data, settings_file, tmp_path):
    from deformable_detr_refine.training.train import train

    train([str(settings_file(tmp_path / "detector", max_steps=1))])
    data = load_detection_data(boxes_data)
    parameters = {
        "pytorch_model": tmp_path / "detector",
        "training_data": as_mltable(data, "train", tmp_path / "train"),
        "validation_data": as_mltable(data, "validation", tmp_path / "validation"),
        "number_of_epochs": 1,
        "number_of_workers": 0,
        "save_as_mlflow_model": "False",
    }
    words = [str(word) for name, value in parameters.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "deformable_detr_refine.training.azure", CONFIGS / "azure_finetune.yaml", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    logged = json.loads((tmp_path / "outputs" / "trainer_state.json").read_text())["log_history"]
    assert any("eval_mean_average_precision" in line for line in logged)
