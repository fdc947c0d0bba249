"""Parts of the training: optimiser groups, schedule, moving average, head surgery, settings."""

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from support.small_detector import small_config
from torch import nn

from deformable_detr_refine import DeformableDetrRefineForObjectDetection
from deformable_detr_refine.data.label_map import LabelMap
from deformable_detr_refine.training.arguments import DetectionTrainingArguments, ModelArguments
from deformable_detr_refine.training.ema import MovingAverage
from deformable_detr_refine.training.model import build_model
from deformable_detr_refine.training.optimizer import drops_at, parameter_groups
from deformable_detr_refine.training.settings import read_settings
from deformable_detr_refine.training.surgery import transfer
from deformable_detr_refine.training.trainer import DetectionTrainer


def detector(names: list[str], seed: int, **changes):
    torch.manual_seed(seed)
    return DeformableDetrRefineForObjectDetection(
        small_config(num_labels=len(names), id2label=dict(enumerate(names)), **changes)
    )


def test_the_parameters_of_mmdetections_recipe_learn_a_tenth(detector_names=("a", "b")):
    model = detector(list(detector_names), 0)
    groups = parameter_groups(
        model.named_parameters(), 2e-4, 1e-4, ["backbone", "sampling_offsets", "reference_points"], 0.1
    )
    slow = {id(parameter) for parameter in groups[1]["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert (id(parameter) in slow) == ("backbone" in name or "sampling_offsets" in name), name
    assert groups[1]["lr"] == pytest.approx(2e-5) and groups[0]["weight_decay"] == groups[1]["weight_decay"] == 1e-4
    trained = sum(parameter.requires_grad for parameter in model.parameters())
    assert sum(len(group["params"]) for group in groups) == trained


def test_adamw_is_pytorchs_fused_one(tmp_path):
    trainer = object.__new__(DetectionTrainer)
    trainer.optimizer, trainer.args = None, DetectionTrainingArguments(output_dir=str(tmp_path))
    optimizer = trainer.create_optimizer(detector(["a"], 0))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["fused"] for group in optimizer.param_groups] == [True, True]


def test_the_learning_rate_drops_at_its_steps():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = drops_at(optimizer, [4, 6], warmup_steps=2)
    rates = []
    for _ in range(8):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_moving_average_is_the_weighted_sum_of_all_steps(tmp_path):
    model, decay = nn.Linear(3, 2), 0.5
    average = MovingAverage(model, decay)
    state = type("State", (), {"global_step": 0})()
    average.on_train_begin(None, state, None)
    expected = model.weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            model.weight += step
        average.on_step_end(None, state, None)
        share = min(decay, (1 + step) / (10 + step))
        expected = share * expected + (1 - share) * model.weight.detach()
    raw = model.weight.detach().clone()
    with average.applied():
        assert torch.allclose(model.weight, expected)
        average.save_raw(tmp_path)
        saved = model.state_dict()
        saved = {name: tensor.clone() for name, tensor in saved.items()}
    assert torch.equal(model.weight, raw)
    again = nn.Linear(3, 2)
    again.load_state_dict(saved)
    restored = MovingAverage(again, decay)
    restored.load(tmp_path)
    assert torch.equal(again.weight, raw)
    with restored.applied():
        assert torch.allclose(again.weight, expected)
    with pytest.raises(FileNotFoundError, match="without ema_decay"):
        restored.load(tmp_path / "nothing")


def test_weights_that_cannot_be_fetched_are_told_with_the_way_out(monkeypatch):
    def unreachable(model, weights):
        raise LocalEntryNotFoundError("Please check your connection.")

    monkeypatch.setattr(DeformableDetrRefineForObjectDetection, "load_backbone_weights", unreachable)
    args = ModelArguments(model_config='{"backbone": "test_resnet"}', backbone_weights="pretrained")
    with pytest.raises(FileNotFoundError, match=r"test_resnet are not in the cache.*--backbone_weights FILE"):
        build_model(args, LabelMap(("cat",), (1,)))


def test_surgery_keeps_boxes_ranking_and_the_rows_of_common_names():
    source = detector(["cat", "dog", "cow"], 0)
    target = detector(["cow", "fox", "cat", "owl"], 1)
    fresh = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    assert sorted(transfer(source, target)) == ["cat", "cow"]
    old, new = source.state_dict(), target.state_dict()
    for name, tensor in new.items():
        if name.startswith("class_heads"):
            assert torch.equal(tensor[0], old[name][2]) and torch.equal(tensor[2], old[name][0]), name
            assert torch.equal(tensor[1], fresh[name][1]) and torch.equal(tensor[3], fresh[name][3]), name
        elif "other_classes" not in name:
            assert torch.equal(tensor, old[name]), name


def test_without_surgery_every_class_head_is_as_made():
    source, target = detector(["cat", "dog"], 0), detector(["cat", "dog"], 1)
    fresh = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    assert transfer(source, target, keep_class_heads=False) == []
    ranking = "model.first_stage.class_head.foreground.weight"
    for name in ("class_heads.0.weight", ranking):
        assert torch.equal(target.state_dict()[name], fresh[name])
    assert torch.equal(target.model.level_embed, source.model.level_embed)


def test_surgery_with_the_same_classes_is_the_same_detector():
    source, target = detector(["cat", "dog", "cow"], 0), detector(["cat", "dog", "cow"], 1)
    transfer(source, target)
    assert all(torch.equal(target.state_dict()[name], tensor) for name, tensor in source.state_dict().items())


def test_surgery_adds_learned_queries_and_keeps_them():
    source, target, again = (detector(["cat", "dog"], seed, mixed_query_selection=seed > 0) for seed in range(3))
    content = target.model.first_stage.content.weight.clone()
    transfer(source, target)
    assert torch.equal(target.model.first_stage.content.weight, content)
    assert torch.equal(target.model.first_stage.query_proj.weight, source.model.first_stage.query_proj.weight)
    transfer(target, again)
    assert torch.equal(again.model.first_stage.content.weight, content)
    with pytest.raises(ValueError, match=r"Only one of the two has model\.first_stage\.content"):
        transfer(target, source)


def test_surgery_refuses_another_architecture():
    with pytest.raises(ValueError, match="only the classes may differ"):
        transfer(detector(["cat"], 0), detector(["cat"], 0, decoder_ffn_dim=64))


def test_numbers_of_a_settings_file_are_read_in_every_spelling(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(
        "learning_rate: 1e-4\nweight_decay: 1.0e-4\nlr_drop_epochs: [40, 45.5]\nbf16: false\n"
        "model_config: {d_model: 64}\n"
    )
    model, _, args = read_settings([str(file), "--learning_rate", "3e-4", "--output_dir", str(tmp_path)])
    assert args.learning_rate == 3e-4 and args.weight_decay == 1e-4
    assert args.lr_drop_epochs == [40, 45.5] and args.bf16 is False
    assert model.model_config == '{"d_model": 64}'


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [\n", "just words"])
def test_a_file_that_is_no_settings_is_told(content, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"settings\.yaml is not"):
        read_settings([str(file)])
