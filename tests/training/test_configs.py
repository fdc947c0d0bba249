"""The settings files that come with the package are read, and say what MMDetection's recipe says."""

from pathlib import Path

import pytest

from deformable_detr_refine import DeformableDetrRefineConfig
from deformable_detr_refine.training.model import build_processor
from deformable_detr_refine.training.settings import read_settings

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(file for file in CONFIGS.glob("*.yaml") if not file.name.startswith("azure"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_settings_file_is_read(file, tmp_path):
    model, data, args = read_settings([str(file), "--output_dir", str(tmp_path)])
    assert args.num_train_epochs > 1 and args.metric_for_best_model == "AP"
    assert args.load_best_model_at_end and data.augmentation in ("mmdet", "light")
    build_processor(model, data)


def test_the_coco_recipe_is_mmdetections(tmp_path):
    """configs/deformable_detr/deformable-detr_r50_16xb2-50e_coco.py of MMDetection 3.1.0."""
    model, data, args = read_settings([str(CONFIGS / "coco_50e_8gpu.yaml"), "--output_dir", str(tmp_path)])
    assert (args.learning_rate, args.weight_decay, args.max_grad_norm) == (2e-4, 1e-4, 0.1)
    assert args.slow_parameters == ["backbone", "sampling_offsets", "reference_points"] and args.slow_factor == 0.1
    assert (args.num_train_epochs, args.lr_drop_epochs) == (50, [40])
    assert 8 * args.per_device_train_batch_size * args.gradient_accumulation_steps == 32
    assert args.warmup_steps == 0 and str(getattr(args.optim, "value", args.optim)).startswith("adamw")
    assert data.augmentation == "mmdet" and (data.shortest_edge, data.longest_edge) == (800, 1333)
    default = DeformableDetrRefineConfig()
    assert default.backbone == "resnet50" and default.variant == "refine_twostage" and default.dropout == 0.1
    assert model.backbone_weights == "resnet50.tv_in1k"
