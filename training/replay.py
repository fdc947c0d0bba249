"""A batch whose loss was not finite: kept with the weights, and run again to see where it breaks."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deformable_detr_refine.files import new_path
from deformable_detr_refine.messages import near
from deformable_detr_refine.modeling import DeformableDetrRefineConfig, DeformableDetrRefineForObjectDetection


def save_batch(
    model: DeformableDetrRefineForObjectDetection,
    inputs: dict[str, Any],
    num_items_in_batch: Any,
    folder: Path,
    step: int,
) -> Path:
    """Writes the batch, the weights and the config into one file of tensors and plain values, and gives its path."""
    file = folder / f"not-finite-step-{step}.pt"
    content = {
        "config": model.config.to_dict(),
        "weights": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        "inputs": _on_cpu(inputs),
        "num_items_in_batch": None if num_items_in_batch is None else float(num_items_in_batch),
        "step": step,
    }
    with new_path(file) as new:
        torch.save(content, new)
    return file


def replay(file: Path) -> dict[str, Any]:
    """Runs a kept batch again, in fp32 on the CPU, and says what is not finite.

    Returns:
        The loss terms by name, and `not_finite`: names of weights, inputs or outputs that hold nan or inf.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no kept batch.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}{near(file)}")
    try:
        kept = torch.load(file, weights_only=True)  # executes nothing
        config = DeformableDetrRefineConfig.from_dict(kept["config"])
        inputs = {**kept["inputs"], "num_items_in_batch": kept["num_items_in_batch"]}
    except Exception as error:
        raise ValueError(
            f"{file} is no batch that a training kept: give the not-finite-step-N.pt of its folder."
        ) from error
    model = DeformableDetrRefineForObjectDetection(config).train()
    model.load_state_dict(kept["weights"])
    wrong = [name for name, tensor in kept["weights"].items() if not tensor.isfinite().all()]
    wrong += [name for name, tensor in inputs.items() if isinstance(tensor, Tensor) and not tensor.isfinite().all()]
    terms: dict[str, Any] = {}
    try:
        terms = {name: float(term) for name, term in model(**inputs).loss_dict.items()}
        wrong += [name for name, term in terms.items() if term != term or abs(term) == float("inf")]
    except FloatingPointError as error:
        wrong.append(str(error))
    return {**terms, "not_finite": wrong}


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict) or hasattr(value, "items"):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_on_cpu(item) for item in value]
    return value
