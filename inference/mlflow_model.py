"""A detector as an MLflow model that runs where its requirements are installed and this package is not."""

import os
import shutil
import tempfile
import warnings
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deformable_detr_refine.files import check_new_folder, new_path
from deformable_detr_refine.messages import near
from deformable_detr_refine.modeling import DeformableDetrRefineImageProcessor

from .detector import inside_mlflow
from .load_model import load_model

PACKAGE = "deformable_detr_refine"
# The rooms that answering needs.
_PARTS = ("modeling", "inference", "serving", "serving.azure", "serving.export")
REQUIREMENTS = (
    *("torch", "torchvision", "transformers", "timm", "scipy", "numpy", "pillow"),
    *("huggingface_hub", "safetensors", "tqdm", "pandas"),
)
_MODEL_FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json", "README.md")
# MLflow runs this text when it loads the model, so that nothing is pickled.
_SCRIPT = """\
import mlflow.models

from deformable_detr_refine.serving.export.mlflow_pyfunc import MlflowDetector

mlflow.models.set_model(MlflowDetector())
"""


def export_mlflow(model: str | os.PathLike, output: str | os.PathLike, force: bool = False) -> None:
    """Writes a model folder as an MLflow model: weights, this package's code and its requirements.

    It answers `mlflow.pyfunc.load_model(output).predict(DataFrame({"image": [bytes]}), params={"threshold": 0.3})`,
    and with `mlflow models serve -m OUTPUT --env-manager local` dataframe_split and dataframe_records. For Azure's
    `input_data` see `mlflow_app`.

    Args:
        model: a model folder; the weights must be whole.
        output: a new or empty folder.
        force: replace what is there; it must be such a folder, not any MLflow model.

    Raises:
        OSError: the model is not there, or nothing can be written.
        ValueError: the model is damaged, there is something at `output`, or mlflow is not installed.
    """
    mlflow = import_mlflow()
    model, output = Path(model), Path(output)
    if not model.is_dir():
        raise FileNotFoundError(f"There is no model folder {model}{near(model)}")
    if not (force and inside_mlflow(output) != str(output)):
        check_new_folder(output, force=False, source=model)
    load_model(model)
    top_k = DeformableDetrRefineImageProcessor.from_pretrained(model, local_files_only=True).top_k
    with tempfile.TemporaryDirectory() as stage, new_path(output) as new, warnings.catch_warnings():
        # On type hints and examples, from which MLflow would guess the signature that is given here.
        warnings.simplefilter("ignore", UserWarning)
        stage = Path(stage)
        script = stage / "model.py"
        script.write_text(_SCRIPT, encoding="utf-8")
        mlflow.pyfunc.save_model(
            path=str(new),
            python_model=str(script),
            artifacts={"model": str(_copy_model(model, stage / "model"))},
            code_paths=[str(copy_code(stage / PACKAGE))],
            pip_requirements=requirements(),
            signature=_signature(top_k),
        )


def copy_code(folder: Path) -> Path:
    """Copies what of this package's code answers requests, as it lies in an installation."""
    for part in (None, *_PARTS):
        name = PACKAGE if part is None else f"{PACKAGE}.{part}"
        source = Path(import_module(name).__path__[0])
        target = folder.joinpath(*(part or "").split("."))
        target.mkdir()
        # With the compiled operator: where it does not load, PyTorch's own operations take its place.
        for file in (*source.glob("*.py"), *source.glob("deformable_attention*")):
            shutil.copyfile(file, target / file.name)
    return folder


def requirements() -> list[str]:
    """The packages that the code needs, in the versions that are installed here, whatever build of them (+cpu)."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS]


def import_mlflow() -> Any:
    """`mlflow`, with its models and pyfunc.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import mlflow.models
        import mlflow.pyfunc
    except ImportError as error:
        raise ValueError(
            f'An MLflow model needs mlflow ({error}): pip install "deformable-detr-refine[mlflow]".'
        ) from error
    return mlflow


def _copy_model(model: Path, folder: Path) -> Path:
    """The files of the model and nothing else: a training's folder also holds checkpoints."""
    folder.mkdir()
    for pattern in _MODEL_FILES:
        for file in model.glob(pattern):
            shutil.copyfile(file, folder / file.name)
    return folder


def _signature(top_k: int) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema([ColSpec("string", "boxes")]),
        params=ParamSchema([ParamSpec("threshold", "double", 0.0), ParamSpec("top_k", "long", top_k)]),
    )


__all__ = ["copy_code", "export_mlflow", "import_mlflow", "requirements"]
