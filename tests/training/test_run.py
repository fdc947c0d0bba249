"""Whole runs of `ddetr train`, in this process."""

import json

import pytest
import torch
from training_runs import COLOURS, SETTINGS, TRAIN_BOXES, VALIDATION_BOXES, history, largest_difference, weights

from ddetr.main import main as ddetr
from deformable_detr_refine import DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor
from deformable_detr_refine.training.replay import replay
from deformable_detr_refine.training.settings import read_settings, settings_text
from deformable_detr_refine.training.train import train


@pytest.fixture(scope="module")
def trained(settings_file, tmp_path_factory):
    """A run of two epochs, and what it returned."""
    folder = tmp_path_factory.mktemp("run") / "out"
    metrics = train([str(settings_file(folder, num_train_epochs=2, augmentation="light"))])
    return folder, metrics


def test_the_folder_holds_a_detector_its_processor_metrics_and_a_report(trained):
    folder, metrics = trained
    model = DeformableDetrRefineForObjectDetection.from_pretrained(folder)
    assert list(model.config.id2label.values()) == list(COLOURS)
    assert model.config.category_ids == [1, 2, 3]
    size = DeformableDetrRefineImageProcessor.from_pretrained(folder).size
    assert (size["shortest_edge"], size["longest_edge"]) == (96, 96)
    written = json.loads((folder / "metrics.json").read_text())
    assert written["AP"] == pytest.approx(metrics["eval_AP"]) and set(written["per_class"]) == set(COLOURS)
    assert "<html" in (folder / "report.html").read_text()
    assert not (folder / "training_args.bin").exists()


def test_the_written_settings_give_the_same_run(trained):
    folder = trained[0]
    again = read_settings([str(folder / "settings.yaml")])
    model, data, args = again
    assert json.loads(model.model_config) == SETTINGS["model_config"] and data.augmentation == "light"
    assert (args.num_train_epochs, args.learning_rate, args.per_device_train_batch_size) == (2, 1e-4, 4)
    assert settings_text(again) == (folder / "settings.yaml").read_text()


def test_the_log_has_every_loss_term_by_name_and_they_add_up(trained):
    steps = [line for line in history(trained[0]) if "loss" in line]
    assert len(steps) == 2 * 3
    names = [f"{prefix}loss_{kind}" for prefix in ("enc_", "d0.", "") for kind in ("cls", "bbox", "iou")]
    for line in steps:
        assert sum(line[name] for name in names) == pytest.approx(line["loss"], rel=1e-4)
        assert line["images_per_second"] > 0 and line["learning_rate_slow"] <= line["learning_rate"]
    evaluations = [line for line in history(trained[0]) if "eval_AP" in line]
    assert [line["epoch"] for line in evaluations[:2]] == [1, 2]
    assert all({"eval_loss", "eval_AP50", "eval_AP_red"} <= set(line) for line in evaluations)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(trained, settings_file, tmp_path):
    for name, seed in (("same", 42), ("other", 7)):
        train([str(settings_file(tmp_path / name, num_train_epochs=2, augmentation="light")), "--seed", str(seed)])
    assert largest_difference(weights(trained[0]), weights(tmp_path / "same")) == 0
    assert largest_difference(weights(trained[0]), weights(tmp_path / "other")) > 1e-3


def test_accumulating_two_batches_is_one_batch_of_both(settings_file, tmp_path):
    """`num_boxes` is of the whole window, so images without boxes do not shift the weights of the others."""
    train([str(settings_file(tmp_path / "whole", max_steps=2))])
    halves = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    train([str(settings_file(tmp_path / "halves", max_steps=2, **halves))])
    first, second = history(tmp_path / "whole"), history(tmp_path / "halves")
    assert first[0]["loss"] == pytest.approx(second[0]["loss"], rel=1e-4)
    assert first[0]["grad_norm"] == pytest.approx(second[0]["grad_norm"], rel=1e-3)
    assert largest_difference(weights(tmp_path / "whole"), weights(tmp_path / "halves")) < 1e-4


def test_gradient_checkpointing_changes_nothing(settings_file, tmp_path):
    train([str(settings_file(tmp_path / "plain", max_steps=1))])
    train([str(settings_file(tmp_path / "checkpointed", max_steps=1, activation_checkpointing=True))])
    assert largest_difference(weights(tmp_path / "plain"), weights(tmp_path / "checkpointed")) < 1e-5


def test_bf16_trains(settings_file, tmp_path):
    metrics = train([str(settings_file(tmp_path / "out", max_steps=2, bf16=True))])
    assert 0 < metrics["eval_loss"] < 100


def test_a_frozen_backbone_and_the_head_of_known_names_stay(trained, settings_file, tmp_path):
    """Fine-tuning starts from the trained detector: what is frozen does not change by a bit."""
    folder = tmp_path / "tuned"
    train([str(settings_file(folder, model=str(trained[0]), freeze=["backbone"], max_steps=2, model_config={}))])
    before, after = weights(trained[0]), weights(folder)
    assert all(torch.equal(before[name], after[name]) for name in before if "backbone" in name)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_early_stopping_keeps_the_best_by_ap(settings_file, tmp_path):
    best = {"early_stopping_patience": 1, "load_best_model_at_end": True, "learning_rate": 0.0}
    train([str(settings_file(tmp_path / "out", num_train_epochs=6, **best))])
    epochs = [line["epoch"] for line in history(tmp_path / "out") if "eval_AP" in line]
    assert max(epochs) == 2  # nothing is learned, so the second evaluation is no better


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(trained, settings_file, tmp_path, capsys):
    broken = tmp_path / "broken"
    model = DeformableDetrRefineForObjectDetection.from_pretrained(trained[0])
    with torch.no_grad():
        model.model.level_embed[0, 0] = torch.nan
    model.save_pretrained(broken)
    DeformableDetrRefineImageProcessor.from_pretrained(trained[0]).save_pretrained(broken)
    settings = settings_file(tmp_path / "out", model=str(broken), model_config={})
    assert ddetr(["train", str(settings)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("ddetr train: error:") and "not finite" in error
    file = tmp_path / "out" / "not-finite-step-0.pt"
    assert f"ddetr train --replay {file}" in error
    assert "model.level_embed" in replay(file)["not_finite"]
    assert ddetr(["train", "--replay", str(file)]) == 1
    assert "model.level_embed" in capsys.readouterr().out


def test_a_dry_run_draws_what_the_model_sees_and_trains_nothing(settings_file, tmp_path, capsys):
    train([str(settings_file(tmp_path / "out", augmentation="light")), "--dry_run", "true"])
    assert "images/s" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dry_run.jpg"]


def test_every_fifth_image_can_be_the_validation(boxes_data, settings_file, tmp_path):
    settings = settings_file(tmp_path / "out", data=str(boxes_data / "train"), split_every=5, max_steps=1)
    train([str(settings)])
    evaluated = json.loads((tmp_path / "out" / "metrics.json").read_text())["per_class"]
    assert sum(values["objects"] for values in evaluated.values()) == TRAIN_BOXES[0] + TRAIN_BOXES[5]
    assert sum(VALIDATION_BOXES) != TRAIN_BOXES[0] + TRAIN_BOXES[5]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": "nowhere"}, "nowhere"),
        ({"model_config": {"d_mode": 64}}, "'d_mode'"),
        ({"model_config": {**SETTINGS["model_config"], "num_queries": 0}}, "num_queries"),
        ({"augmentation": "heavy"}, "'heavy'"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"learning_rat": 1}, "--learning_rat"),
        ({"train_split": "training set"}, "training set"),
        ({"freeze": ["backbones"]}, "'backbones'"),
        ({"model": "no/such/folder"}, "no/such/folder"),
        ({"resume_from_checkpoint": "no-checkpoint"}, "no-checkpoint"),
    ],
)
def test_bad_settings_are_one_sentence_before_any_work(change, said, settings_file, tmp_path, capsys):
    assert ddetr(["train", str(settings_file(tmp_path / "out", **change))]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_run_is_not_begun_anew_over_its_checkpoints(trained, settings_file, capsys):
    assert ddetr(["train", str(settings_file(trained[0]))]) == 2
    assert "--resume_from_checkpoint true" in capsys.readouterr().err
