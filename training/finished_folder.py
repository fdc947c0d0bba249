"""What a finished run's folder gets so that people find their way in it: a card, and the model's code put aside."""

import json
import os
from pathlib import Path

from deformable_detr_refine.files import new_path
from deformable_detr_refine.inference.detections import THRESHOLD
from deformable_detr_refine.modeling import DeformableDetrRefineForObjectDetection

from .card_facts import read_facts
from .model_card import model_card

CODE = "code"


def code_aside(folder: Path) -> None:
    """Moves the model's code from beside the weights, where `save_pretrained` puts it, into `code/`.

    The configs say where it is, so that the folder loads with `trust_remote_code=True` as before; what is saved from it
    again has its code beside it.
    """
    files = sorted(folder.glob("*.py"))
    (folder / CODE).mkdir(exist_ok=True)
    for name in ("config.json", "preprocessor_config.json"):
        config = json.loads((folder / name).read_text(encoding="utf-8"))
        config["auto_map"] = _moved(config.get("auto_map", {}), {file.stem for file in files})
        with new_path(folder / name) as new:
            new.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for file in files:
        os.replace(file, folder / CODE / file.name)


def _moved(place: str | dict, modules: set[str]) -> str | dict:
    if isinstance(place, dict):
        return {key: _moved(value, modules) for key, value in place.items()}
    return f"{CODE}/{place}" if place.partition(".")[0] in modules else place


def write_card(folder: Path, model: DeformableDetrRefineForObjectDetection) -> None:
    """Writes README.md from what lies in the folder: metrics, settings, steps."""
    facts = read_facts(folder)
    facts.parameters = sum(parameter.numel() for parameter in model.parameters())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = folder.name if folder.is_absolute() else folder.as_posix()
    text = model_card(name, model.config, facts, config.get("score_threshold") or THRESHOLD)
    with new_path(folder / "README.md") as new:
        new.write_text(text, encoding="utf-8")


__all__ = ["code_aside", "write_card"]
