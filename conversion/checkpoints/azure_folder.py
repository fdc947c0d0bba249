"""The MLflow model folder that Azure's catalogue wraps around a checkpoint of MMDetection."""

import json
from pathlib import Path

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.messages import printable
from deformable_detr_refine.modeling import DeformableDetrRefineConfig

from ..label_names import names_in


def read_azure_folder(folder: Path) -> tuple[Path, Path | None, list[str] | None]:
    """Weights, config and class names of an MLflow model folder of Azure's catalogue."""
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        kind = _model_type(folder / "config.json")
        if kind == DeformableDetrRefineConfig.model_type:
            raise CheckpointError(f"{folder} is a converted model folder already (to go back: --to mmdet).")
        raise CheckpointError(f"{folder} is a folder of transformers, of a model of type {kind}.")
    artifacts = next((place for place in (folder / "artifacts", folder) if _weight_files(place)), None)
    if artifacts is None:
        raise CheckpointError(
            f"{folder} holds no weights in a form that is known: config.json with model.safetensors, config.yaml with "
            "a .pth, a checkpoint.pth, or artifacts/*_weights.pth, as in an Azure MLflow model folder."
        )
    weights, configs = _weight_files(artifacts), sorted(artifacts.glob("*.py"))
    for kind, files in (("weights", weights), ("configs", configs)):
        if len(files) > 1:
            raise CheckpointError(f"{artifacts} holds several {kind}: {', '.join(file.name for file in files[:4])}.")
    names = None
    if (metadata := artifacts / "model_metadata.json").is_file():
        try:
            content = json.loads(metadata.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{metadata} is not JSON: {error}.") from error
        names = names_in(content) or names_in(content.get("dataset_meta") if isinstance(content, dict) else None)
    return weights[0], configs[0] if configs else None, names


def _model_type(file: Path) -> str:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return "unknown"
    return printable(str(content.get("model_type", "unknown"))) if isinstance(content, dict) else "unknown"


def _weight_files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for pattern in ("*_weights.pth", "*.pth", "pytorch_model.bin"):
        found = found or sorted(folder.glob(pattern))
    return found


__all__ = ["read_azure_folder"]
