"""A model folder -> the form of another code base."""

from pathlib import Path

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.files import check_new_file, check_new_folder, new_path
from deformable_detr_refine.inference.load_model import load_model, load_processor, refuse_int8
from deformable_detr_refine.messages import near
from deformable_detr_refine.modeling import DeformableDetrRefineImageProcessor

from .code_base import Export
from .code_bases import code_base_named
from .stock.config import MODEL_TYPE
from .stock.folder import model_type_of


def export_checkpoint(model_dir: str | Path, output: str | Path, code_base: str, *, force: bool = False) -> Export:
    """Write a model as another code base has it: the same tensors, value by value, under its names.

    Converting what was written gives the same model.

    Args:
        model_dir: folder of a converted or trained model.
        output: the file to write, or the folder for a code base that has folders.
        code_base: 'mmdet', 'original' or 'transformers'.
        force: replace it.

    Raises:
        FileNotFoundError: there is no model folder.
        CheckpointError: the folder holds another model or a damaged one, the code base cannot hold it, or the output is
            taken.
    """
    model_dir, output = Path(model_dir), Path(output)
    kind = code_base_named(code_base)
    if kind.writes is None:
        raise CheckpointError(f"Models cannot be written for {kind.title}.")
    if kind.writes == "folder":
        check_new_folder(output, force, model_dir)
    else:
        check_new_file(output, force)
    if not model_dir.exists():
        raise FileNotFoundError(f"There is no model folder {model_dir}{near(model_dir)}")
    if model_type_of(model_dir) in (None, MODEL_TYPE):
        raise CheckpointError(
            f"{model_dir} is no model folder of this package. Two steps lead from a checkpoint to another: `ddetr "
            f"convert {model_dir} FOLDER`, then `ddetr convert --to {code_base} FOLDER {output}`."
        )
    model = load_model(model_dir, local_files_only=True)
    refuse_int8(model.config, model_dir, "ddetr convert")
    if model.config.mixed_query_selection:
        raise CheckpointError(f"{model_dir} has mixed_query_selection=True, which has no counterpart in {kind.title}.")
    has_processor = (model_dir / "preprocessor_config.json").is_file()
    processor = load_processor(model_dir) if has_processor else DeformableDetrRefineImageProcessor()
    with new_path(output) as new:
        export = kind.export(model, processor, new)
    if model.config.quality_target is not None:
        export.notes.append(
            f"quality_target={model.config.quality_target}: {kind.title} trains on with the focal loss; "
            "what the model detects is the same."
        )
    return export


__all__ = ["export_checkpoint"]
