"""A model folder -> a checkpoint that MMDetection 3.x loads."""

from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from deformable_detr_refine.files import check_new_file, new_path
from deformable_detr_refine.inference.load_model import load_model
from deformable_detr_refine.modeling import DeformableDetrRefineImageProcessor

from ..mmdet_config.writer import mmdet_config_text
from .weights import weights_to_3x


def export_mmdet_checkpoint(model_dir: str | Path, output: str | Path, force: bool = False) -> dict[str, Tensor]:
    """Write a model under MMDetection 3.x's names, with the config text and class names that MMDetection looks for.

    The same tensors, value by value: converting the file again gives the same model.

    Args:
        model_dir: folder of a converted or trained model.
        output: the `.pth` file to write.
        force: replace it.

    Returns:
        The state dict that was written.

    Raises:
        FileNotFoundError: there is no model folder.
        CheckpointError: the folder holds another model or a damaged one, or the output is taken.
    """
    model_dir, output = Path(model_dir), Path(output)
    check_new_file(output, force)
    if not (model_dir / "config.json").is_file():
        raise FileNotFoundError(f"There is no model folder {model_dir} (no config.json in it).")
    model = load_model(model_dir, local_files_only=True)
    config = model.config
    labels = [config.id2label[index] for index in range(config.num_labels)]
    has_processor = (model_dir / "preprocessor_config.json").is_file()
    processor = (
        DeformableDetrRefineImageProcessor.from_pretrained(model_dir, local_files_only=True)
        if has_processor
        else DeformableDetrRefineImageProcessor()
    )
    weights = weights_to_3x(model.state_dict(), config)
    meta = {
        "cfg": mmdet_config_text(config, processor, labels),
        "dataset_meta": {"CLASSES": tuple(labels), "classes": tuple(labels)},
        "exported_by": f"deformable-detr-refine {version('deformable-detr-refine')}",
    }
    with new_path(output) as file:
        torch.save({"meta": meta, "state_dict": weights}, file)
    return weights


__all__ = ["export_mmdet_checkpoint"]
