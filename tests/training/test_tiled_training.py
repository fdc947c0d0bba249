"""Training on tiles: what it evaluates is what `ddetr evaluate` with the same tiles finds."""

import json

import pytest
from support.training_runs import TRAIN_BOXES, history

from ddetr.main import main as ddetr
from deformable_detr_refine.training.azure import our_settings
from deformable_detr_refine.training.train import train

SETTINGS = {"tiles": "2x1", "tile_overlap": 0.2, "tile_nms": 0.6}


def test_a_run_in_tiles(settings_file, boxes_data, tmp_path, capsys):
    metrics = train([str(settings_file(tmp_path / "run", **SETTINGS))])
    assert f"With their tiles {3 * len(TRAIN_BOXES)} images to train on." in capsys.readouterr().out
    steps = [row for row in history(tmp_path / "run") if "loss" in row]
    assert len(steps) == -(-3 * len(TRAIN_BOXES) // 4)
    assert "eval_loss" not in metrics
    about = json.loads((tmp_path / "run" / "metrics.json").read_text())["about"]
    words = ["evaluate", str(tmp_path / "run"), str(boxes_data), "--output", str(tmp_path / "again"), "--json"]
    capsys.readouterr()
    assert ddetr([*words, "--tiles", "2x1", "--tile-overlap", "0.2", "--tile-nms", "0.6"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["AP"] == pytest.approx(metrics["eval_AP"], abs=1e-6)
    assert again["about"]["tiling"] == about["tiling"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"tiles": "2by2"}, "no grid of tiles"),
        ({"tiles": "2x2", "tile_size": 64}, "one of the two"),
        ({"tile_size": 96}, "no smaller than the largest image"),
        ({"tile_size": 64, "metric_for_best_model": "loss"}, "has none"),
        ({"tile_size": 64, "tile_share": 2}, "from 0 to 1"),
        ({"tile_overlap": 0.3}, "tile_overlap is of tiles, of which there are none"),
        ({"tiles": "1x4"}, r"\.png: A grid of 1x4 is too fine"),
    ],
)
def test_settings_that_make_no_tiles_are_told_before_the_work(wrong, told, settings_file, tmp_path):
    with pytest.raises(ValueError, match=told):
        train([str(settings_file(tmp_path / "run", **wrong))])


def test_azures_names():
    given = {"tile_grid_size": "(3, 2)", "tile_overlap_ratio": 0.3, "tile_predictions_nms_thresh": "0.25"}
    settings = our_settings(given)
    assert (settings["tiles"], settings["tile_overlap"], settings["tile_nms"]) == ("3x2", 0.3, 0.25)
    for off in ("", "None", None):
        assert "tiles" not in our_settings({"tile_grid_size": off})
    with pytest.raises(ValueError, match="tile_grid_size: '3' is no grid"):
        our_settings({"tile_grid_size": "3"})
