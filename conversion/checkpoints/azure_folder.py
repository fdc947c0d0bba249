"""The MLflow model folder that Azure's catalogue wraps around a checkpoint of MMDetection."""

from pathlib import Path

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.json_file import read_json

from ..label_names import names_in


def read_azure_folder(folder: Path) -> tuple[Path, Path | None, list[str] | None] | None:
    """Weights, config and class names of an MLflow model folder of Azure's catalogue, or None where there are none."""
    artifacts = next((place for place in (folder / "artifacts", folder) if _weight_files(place)), None)
    if artifacts is None:
        return None
    weights, configs = _weight_files(artifacts), sorted(artifacts.glob("*.py"))
    for kind, files in (("weights", weights), ("configs", configs)):
        if len(files) > 1:
            raise CheckpointError(f"{artifacts} holds several {kind}: {', '.join(file.name for file in files[:4])}.")
    names = None
    if (metadata := artifacts / "model_metadata.json").is_file():
        content = read_json(metadata)
        names = names_in(content) or names_in(content.get("dataset_meta"))
    return weights[0], configs[0] if configs else None, names


def _weight_files(folder: Path) -> list[Path]:
    files: list[Path] = []
    for pattern in ("*_weights.pth", "*.pth", "pytorch_model.bin"):
        # transformers' Trainer leaves rng_state.pth, which holds no weights.
        files = files or sorted(file for file in folder.glob(pattern) if not file.name.startswith("rng_state"))
    return files


__all__ = ["read_azure_folder"]
