"""`improved_recipe`: one setting, for a new detector as for a trained one."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from support.golden_weights import GOLDENS, golden_state_dict
from support.training_runs import TINY, history

from deformable_detr_refine import DeformableDetrRefineForObjectDetection
from deformable_detr_refine.conversion import convert_mmdet_checkpoint
from deformable_detr_refine.data.label_map import LabelMap
from deformable_detr_refine.training.arguments import ModelArguments
from deformable_detr_refine.training.model import build_model
from deformable_detr_refine.training.train import train

LABEL_MAP = LabelMap(("cat", "dog"), (1, 2))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, (True, 0.25, 1.0)),
        ({"quality_target": 0.5, "mixed_query_selection": False}, (False, 0.5, 1.0)),
        ({"two_stage": False}, (False, 0.25, 1.0)),
        ({"quality_target": None}, (True, None, 2.0)),
        ({"quality_target": None, "class_loss_coefficient": 1.5}, (True, None, 1.5)),
    ],
    ids=["alone", "what is given wins", "one stage", "no target, no coefficient of it", "but what is given"],
)
def test_it_sets_what_model_config_does_not_give(given, found):
    args = ModelArguments(model_config=json.dumps({**TINY, **given}), improved_recipe=True)
    model, origin = build_model(args, LABEL_MAP)
    config = model.config
    assert (config.mixed_query_selection, config.quality_target, config.class_loss_coefficient) == found
    assert ("no learned queries to it, since they need two_stage" in origin) == (not config.two_stage)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_trained_detector_keeps_its_queries(mixed, tmp_path):
    args = ModelArguments(model_config=json.dumps({**TINY, "mixed_query_selection": mixed}))
    trained = build_model(args, LABEL_MAP)[0]
    trained.save_pretrained(tmp_path)
    model = build_model(ModelArguments(model=str(tmp_path), improved_recipe=True), LABEL_MAP)[0]
    assert (model.config.mixed_query_selection, model.config.quality_target) == (mixed, 0.25)
    assert model.state_dict().keys() == trained.state_dict().keys()


def test_a_checkpoint_of_mmdetection_is_fine_tuned_by_it(settings_file, tmp_path):
    """What is saved loads as without it: the same parameters, trained on, for the data's three classes."""
    config = (GOLDENS / "tiny_refine_twostage_config.py").read_text()
    content = {"state_dict": golden_state_dict("tiny_refine_twostage"), "meta": {"cfg": config}}
    torch.save(content, tmp_path / "checkpoint.pth")
    convert_mmdet_checkpoint(tmp_path / "checkpoint.pth", tmp_path / "converted")
    settings = {"model": str(tmp_path / "converted"), "improved_recipe": True, "model_config": {}}
    train([str(settings_file(tmp_path / "out", **settings))])
    model = DeformableDetrRefineForObjectDetection.from_pretrained(tmp_path / "out")
    assert model.config.quality_target == 0.25 and not model.config.mixed_query_selection
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("converted", "out"))
    assert before.keys() == after.keys() and not after["model.level_embed"].equal(before["model.level_embed"])
    assert all(math.isfinite(line["loss"]) for line in history(tmp_path / "out") if "loss" in line)
