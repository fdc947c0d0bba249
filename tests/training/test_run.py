"""Whole runs of `ddetr train`, in this process."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.utils import httpx
from support.training_runs import COLOURS, SETTINGS, TRAIN_BOXES, VALIDATION_BOXES, history, largest_difference, weights

from ddetr.main import main as ddetr
from deformable_detr_refine import DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor
from deformable_detr_refine.training.loss_terms import LossTerms
from deformable_detr_refine.training.replay import replay
from deformable_detr_refine.training.settings import read_settings, settings_text
from deformable_detr_refine.training.train import train
from deformable_detr_refine.training.trainer import DetectionTrainer


@pytest.fixture(scope="module")
def trained(settings_file, module_folder):
    """A run of two epochs, and what it returned."""
    folder = module_folder("run") / "out"
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


def test_the_folder_has_a_card_and_the_models_code_aside(trained):
    folder, metrics = trained
    card = (folder / "README.md").read_text()
    assert f"{metrics['eval_AP']:.3f}" in card and all(name in card for name in COLOURS)
    assert ("It finds next to nothing yet" in card) == (metrics["eval_AP50"] < 0.01)
    assert str(folder.parent) not in card
    assert not [*folder.glob("*.py")]
    config = json.loads((folder / "config.json").read_text())
    assert {"AutoConfig", "AutoModelForObjectDetection", "AutoImageProcessor"} <= config["auto_map"].keys()
    for place in config["auto_map"].values():
        assert (folder / f"{place.partition('.')[0]}.py").is_file()
    for part in (DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor):
        part.from_pretrained(folder).save_pretrained(folder.parent / "again")
    for place in json.loads((folder.parent / "again" / "config.json").read_text())["auto_map"].values():
        assert (folder.parent / "again" / f"{place.partition('.')[0]}.py").is_file()


def test_weights_have_the_permissions_of_any_new_file(trained, tmp_path):
    (tmp_path / "any").touch()
    expected = (tmp_path / "any").stat().st_mode
    files = [*trained[0].rglob("*.safetensors")]
    assert len(files) == 1 + 2  # the detector's, and two checkpoints'
    assert {file.stat().st_mode for file in files} == {expected}


def test_evaluations_and_checkpoints_are_no_training_time():
    """Images a second are of the training alone, whether a pause comes before or after a line of the log."""
    terms = LossTerms()
    accelerator = SimpleNamespace(num_processes=1, reduce=lambda tensor, _: tensor)
    clock = iter([0.0, 10.0, 14.0, 20.0, 20.0, 100.0, 102.0, 103.0, 103.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deformable_detr_refine.training.loss_terms.time.perf_counter", lambda: next(clock))
        terms.begin(0)  # at 0
        terms.add({"loss": torch.ones(())}, 32)
        with terms.paused():  # from 10 to 14
            pass
        assert terms.drain(accelerator, 1)["images_per_second"] == 32 / (20 - 4)  # at 20, the next line begins
        terms.add({"loss": torch.ones(())}, 30)
        with terms.paused():  # from 100 to 102
            pass
        assert terms.drain(accelerator, 2)["images_per_second"] == pytest.approx(30 / (103 - 20 - 2))


def test_thresholds_count_in_the_metrics_of_the_end(settings_file, tmp_path):
    """With no score above the threshold nothing is found, which Azure's precision says."""
    thresholds = {"box_score_threshold": 1.0, "iou_threshold": 0.7, "metric_for_best_model": "eval_recall"}
    train([str(settings_file(tmp_path / "out", max_steps=1, **thresholds))])
    assert history(tmp_path / "out")[-1]["eval_recall"] == 0
    azure = json.loads((tmp_path / "out" / "metrics.json").read_text())["azure"]
    assert azure["recall"] == 0 and azure["mean_average_precision"] == 0


@pytest.mark.parametrize(
    ("warmup", "told"),
    [
        ({"warmup_steps": 2}, True),
        ({"warmup_steps": 2, "lr_scheduler_type": "constant"}, False),
        ({"warmup_steps": 1}, False),
        ({"warmup_steps": 0.5}, False),
    ],
)
def test_settings_and_a_warm_up_without_end_are_told_before_the_first_step(
    warmup, told, settings_file, tmp_path, monkeypatch, capsys
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(DetectionTrainer, "training_step", stop)
    settings = settings_file(tmp_path / "out", max_steps=1, **warmup)
    assert ddetr(["train", str(settings)]) == 130
    assert ("The warm-up takes 2 steps and the run 1" in capsys.readouterr().out) == told
    written = (tmp_path / "out" / "settings.yaml").read_text()
    assert written == settings_text(read_settings([str(settings)]))


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


def test_gradient_checkpointing_changes_nothing(settings_file, tmp_path):  # under the name of every transformers
    train([str(settings_file(tmp_path / "plain", max_steps=1))])
    train([str(settings_file(tmp_path / "checkpointed", max_steps=1, gradient_checkpointing=True))])
    assert largest_difference(weights(tmp_path / "plain"), weights(tmp_path / "checkpointed")) < 1e-5


def test_bf16_trains(settings_file, tmp_path):
    assert read_settings(["--output_dir", str(tmp_path), "--bf16", "true"])[2].bf16  # nothing else is asked for
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
    best = {"early_stopping_patience": 1, "load_best_model_at_end": True, "learning_rate": 1e-12}
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
    train([str(settings_file(tmp_path / "out", augmentation="light", max_steps=9)), "--dry_run", "true"])
    said = capsys.readouterr().out
    assert "images/s" in said and "nan" not in said and "9 steps of 4 images" in said
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
        ({"model_config": {**SETTINGS["model_config"], "int8": True}}, "is in int8, which training does not take"),
        ({"augmentation": "heavy"}, "'heavy'"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"box_score_threshold": 3}, "box_score_threshold"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is '0', expected a whole number from 1 on"),
        ({"num_train_epochs": -3}, "num_train_epochs is '-3', expected a number above 0"),
        ({"max_steps": 0}, "max_steps is '0', expected a whole number from 1 on"),
        ({"learning_rate": "nan"}, "learning_rate is 'nan', expected a finite number"),
        ({"lr_drop_epochs": [1, -1]}, "lr_drop_epochs is '1 -1', expected a number from 0 on"),
        ({"ema_decay": 1.5}, "ema_decay is '1.5', expected a number between 0 and 1"),
        ({"neftune_noise_alpha": 5}, "means nothing to a detector: it adds noise to embeddings of words"),
        ({"label_smoothing_factor": 0.1}, "means nothing to a detector: the focal loss has no labels to smooth"),
        ({"report_to": "abacus"}, "report_to is 'abacus', expected none or some of"),
        ({"optim": "lomo"}, "optim lomo cannot be used: "),  # of a package that is not installed
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"a": 1}}, "lr_scheduler_type cosine does not go with"),
        ({"push_to_hub": True, "hub_model_id": "/a/folder"}, "push_to_hub cannot be used: Repo id must be in the form"),
        ({"ddp_backend": "gloo"}, "ddp_backend is for several processes"),
        ({"torch_compile_backend": "abacus"}, "There is no torch_compile_backend 'abacus'"),
        ({"dataloader_prefetch_factor": 2}, "dataloader_prefetch_factor"),
        (
            {"dataloader_drop_last": True, "per_device_train_batch_size": 64},
            "10 images to train on make no batch of 64",
        ),
        ({"metric_for_best_model": "AP5"}, "'AP5'"),
        ({"early_stopping_patience": 2, "eval_strategy": "no"}, "early_stopping_patience counts evaluations"),
        ({"learning_rat": 1}, "learning_rat"),
        ({"train_split": "training set"}, "training set"),
        ({"freeze": ["backbones"]}, "'backbones'"),
        ({"freeze": ["model", "class_heads"]}, "leave nothing of the model to train"),
        ({"model": str(Path(__file__).parent)}, "no config.json in it"),
        ({"model": "no/such/folder", "data": str(Path(__file__).parent)}, "There is no model folder no/such/folder"),
        ({"validation_data": "no/such/data", "data": str(Path(__file__).parent)}, "There is no data set no/such/data"),
        ({"model": "no/such/folder"}, "There is no model folder no/such/folder"),
        ({"resume_from_checkpoint": "no-checkpoint"}, "no-checkpoint"),
        ({"model_config": "[" * 100_000}, "model_config is not JSON: maximum recursion depth"),
        ({"augmentation": "[" * 100_000}, "neither a preset nor a list in JSON: maximum recursion depth"),
    ],
)
def test_bad_settings_are_one_sentence_before_any_work(change, said, settings_file, tmp_path, capsys):
    assert ddetr(["train", str(settings_file(tmp_path / "out", **change))]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_evaluations_without_validation_data_are_told_before_any_work(boxes_data, settings_file, tmp_path, capsys):
    assert ddetr(["train", str(settings_file(tmp_path / "out", data=str(boxes_data / "train")))]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and "--split_every 5" in printed.err and "Images:" not in printed.out
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_averaged_weights_is_not_resumed_without_an_average(settings_file, tmp_path, capsys):
    train([str(settings_file(tmp_path / "out", max_steps=1, ema_decay=0.9))])
    resumed = settings_file(tmp_path / "out", max_steps=2, resume_from_checkpoint=True)
    assert ddetr(["train", str(resumed)]) == 2
    assert "was trained with ema_decay" in capsys.readouterr().err


def test_a_hub_that_is_not_reached_is_told_before_the_work(settings_file, tmp_path, monkeypatch, capsys):
    def refuse(token):
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr("deformable_detr_refine.training.checks.whoami", refuse)
    assert ddetr(["train", str(settings_file(tmp_path / "out", push_to_hub=True))]) == 2
    assert "push_to_hub cannot be used: Name or service not known. `ddetr push`" in capsys.readouterr().err


def test_a_package_that_is_absent_is_named_before_the_work(settings_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("deformable_detr_refine.training.arguments.find_spec", lambda name: None)
    assert ddetr(["train", str(settings_file(tmp_path / "out", deepspeed="zero.json"))]) == 2
    assert capsys.readouterr().err.endswith("deepspeed needs a package that is not installed: pip install deepspeed.\n")
    available = "deformable_detr_refine.training.checks.get_available_reporting_integrations"
    monkeypatch.setattr(available, lambda: ["mlflow"])
    assert ddetr(["train", str(settings_file(tmp_path / "out", report_to="tensorboard"))]) == 2
    assert "report_to tensorboard needs a package that is not installed" in capsys.readouterr().err


def test_a_finished_run_goes_on_along_the_longer_schedule(settings_file, tmp_path, capsys):
    """Not at the rate of 0 at which the shorter one ended; and a run that asks for fewer steps is refused."""
    settings = {"lr_scheduler_type": "cosine", "eval_strategy": "no"}
    train([str(settings_file(tmp_path / "out", num_train_epochs=1, **settings))])
    settings["resume_from_checkpoint"] = True
    train([str(settings_file(tmp_path / "out", num_train_epochs=2, **settings))])
    steps = [line for line in history(tmp_path / "out") if "loss" in line]
    rates = [line["learning_rate"] for line in steps]
    # Three steps of a cosine over three, then the second half of one over six.
    expected = [1.0, 0.75, 0.25, *((1 + math.cos(math.pi * step / 6)) / 2 for step in (3, 4, 5))]
    assert rates == pytest.approx([1e-4 * share for share in expected])
    assert [line["learning_rate_slow"] for line in steps] == pytest.approx([0.1 * rate for rate in rates])
    train([str(settings_file(tmp_path / "out", num_train_epochs=2, **settings))])
    assert "All 6 steps had been made already" in capsys.readouterr().out
    assert ddetr(["train", str(settings_file(tmp_path / "out", num_train_epochs=1, **settings))]) == 2
    assert "has made 6 steps, and this run is to make 3" in capsys.readouterr().err


def test_a_run_is_not_begun_anew_over_its_checkpoints(trained, settings_file, capsys):
    assert ddetr(["train", str(settings_file(trained[0]))]) == 2
    assert "--resume_from_checkpoint true" in capsys.readouterr().err
