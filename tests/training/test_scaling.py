"""Which ways to scale are refused, in one sentence, and what one process does when its memory is short."""

import json
from types import SimpleNamespace

import pytest
import torch
from support.training_runs import history, weights

from ddetr.main import main as ddetr
from deformable_detr_refine import DeformableDetrRefineForObjectDetection
from deformable_detr_refine.training.arguments import DataArguments, DetectionTrainingArguments
from deformable_detr_refine.training.checks import check_settings
from deformable_detr_refine.training.scaling import check_scaling
from deformable_detr_refine.training.train import train
from deformable_detr_refine.training.trainer import MOST_SKIPPED, DetectionTrainer


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fsdp": True}, "fsdp divides the weights among processes, of which there is one"),
        ({"fsdp_config": {"version": 2}}, "fsdp_config is of no use without"),
        ({"torch_compile_mode": "fastest"}, "There is no torch_compile_mode 'fastest'; there are default"),
        ({"optim": "schedule_free_adamw"}, "evaluates other weights than it trains"),
        ({"accelerator_config": {"even_batches": False}}, "even_batches of accelerator_config must be True"),
        ({"auto_find_batch_size": True, "scale_lr_by_batch": 32}, "scale_lr_by_batch needs to know the batch"),
        ({"parallelism_config": "tp"}, "parallelism_config is 'tp', which means nothing to a detector"),
    ],
)
def test_what_does_not_go_with_a_detector_is_refused(settings, said, tmp_path):
    arguments = DetectionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)
    with pytest.raises(ValueError, match=said):
        check_settings(DataArguments(), arguments)


@pytest.mark.parametrize(("process", "tellers"), [(0, 1), (1, 0)])
def test_one_process_tells_of_slow_numbers(process, tellers, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("deformable_detr_refine.training.checks.warn_of_slow_numbers", lambda *what: told.append(what))
    monkeypatch.setattr(DetectionTrainingArguments, "process_index", process)
    arguments = DetectionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, bf16=True)
    check_settings(DataArguments(), arguments)
    assert len(told) == tellers


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_what_only_the_launcher_asks_for_is_refused(name, tmp_path, monkeypatch):
    arguments = DetectionTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ValueError, match=f"accelerate launch asks for {name}: "):
        check_scaling(arguments)


@pytest.mark.parametrize("name", ["version", "state_dict_type", "cpu_offload", "activation_checkpointing"])
def test_fsdp_as_it_was_not_tried_is_refused(name, tmp_path, monkeypatch):
    values = {"version": 1, "state_dict_type": "SHARDED_STATE_DICT"}
    config = {name: values.get(name, True)}
    arguments = DetectionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, fsdp=True, fsdp_config=config)
    monkeypatch.setattr(DetectionTrainingArguments, "world_size", 2)
    with pytest.raises(ValueError, match=f"{name} of fsdp_config is "):
        check_scaling(arguments)


@pytest.mark.parametrize(
    ("zero3", "settings", "said"),
    [
        (True, {}, "ZeRO-3 and offloading were not tried"),
        (False, {"bf16": True}, "deepspeed casts all to 16 bits"),
        (False, {"ema_decay": 0.9}, "ema_decay with deepspeed was not tried"),
    ],
)
def test_deepspeed_as_it_was_not_tried_is_refused(zero3, settings, said, tmp_path):
    arguments = DetectionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)
    arguments.deepspeed = "zero.json"  # which transformers reads where DeepSpeed is installed
    arguments.hf_deepspeed_config = SimpleNamespace(is_zero3=lambda: zero3, is_offload=lambda: False)
    with pytest.raises(ValueError, match=said):
        check_scaling(arguments)


@pytest.mark.slow
def test_smaller_batches_where_memory_is_short(settings_file, tmp_path, monkeypatch):
    """As if three images were too many: transformers tries 4 and goes on with fewer, in batches of one orientation."""
    step = DetectionTrainer.training_step

    def short_of_memory(self, model, inputs, *args, **kwargs):
        if len(inputs["labels"]) > 2:
            raise RuntimeError("CUDA out of memory.")
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(DetectionTrainer, "training_step", short_of_memory)
    train([str(settings_file(tmp_path / "out", auto_find_batch_size=True))])
    assert len([line for line in history(tmp_path / "out") if "loss" in line]) == 5
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["train_batch_size"] == 2 and state["global_step"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("lost", [1, 100])
def test_a_loss_that_is_not_finite_is_skipped_under_fp16(lost, settings_file, tmp_path, monkeypatch, capsys):
    """A CPU has no fp16 of accelerate's, so its scaler is put there; too many in turn are an error."""
    compute = DeformableDetrRefineForObjectDetection.forward
    calls = []

    def overflowing(self, *args, **kwargs):
        outputs = compute(self, *args, **kwargs)
        calls.append(outputs.loss)
        if len(calls) <= lost and self.training:
            outputs.loss = outputs.loss * torch.nan
        return outputs

    begin = DetectionTrainer.__init__

    def with_scaler(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        self.accelerator.scaler = torch.amp.GradScaler("cpu")

    monkeypatch.setattr(DeformableDetrRefineForObjectDetection, "forward", overflowing)
    monkeypatch.setattr(DetectionTrainer, "__init__", with_scaler)
    settings = str(settings_file(tmp_path / "out", num_train_epochs=1 if lost == 1 else 20, eval_strategy="no"))
    if lost == 1:
        train([settings])
        losses = [line["loss"] for line in history(tmp_path / "out") if "loss" in line]
        assert len(losses) == 3 and all(value.isfinite().all() for value in weights(tmp_path / "out").values())
    else:
        assert ddetr(["train", settings]) == 2
        assert "The loss is not finite" in capsys.readouterr().err and len(calls) == MOST_SKIPPED + 1
