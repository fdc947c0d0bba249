"""What the real MMDetection is asked to build: plain values of a config, and only parts known to do no more than that.

A config's `type` may name anything that can be imported, and MMDetection calls it. So nothing that is not on the list
below is passed on, and no place from which files would be fetched.
"""

from typing import Any

from deformable_detr_refine.errors import CheckpointError

from ..mmdet_config.literals import Unknown

_KNOWN = {
    *("DeformableDETR", "ResNet", "ChannelMapper", "DeformableDETRHead", "DetDataPreprocessor"),
    *("BN", "SyncBN", "GN", "LN", "ReLU"),
    *("FocalLoss", "L1Loss", "SmoothL1Loss", "GIoULoss", "IoULoss", "DIoULoss", "CIoULoss"),
    *("HungarianAssigner", "FocalLossCost", "BBoxL1Cost", "IoUCost"),
}
# What a path to one of PyTorch's own classes ends in, and what mmcv calls it.
_REGISTERED = {"BatchNorm2d": "BN", "SyncBatchNorm": "SyncBN", "GroupNorm": "GN"}
# Weights come from the checkpoint; these name others, to be downloaded.
_LEFT_OUT = frozenset(("init_cfg", "pretrained"))
_DEFAULT_STEPS = [{"type": "Resize", "scale": (1333, 800), "keep_ratio": True}]
_META_KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")


def detector_settings(config: dict[str, Any], where: str) -> dict[str, Any]:
    """`model` and `test_pipeline` of a MMDetection 3.x config, fit for `runner.py`.

    Args:
        config: as `read_config_text` or `read_config_file` gives it.
        where: what to call it in messages.

    Raises:
        CheckpointError: the model is missing, is not all literals, or has a part that is not on the list.
    """
    model = config.get("model")
    if not isinstance(model, dict):
        raise CheckpointError(f"{where} has no `model` section.")
    return {"model": _plain(model, f"{where}: model"), "test_pipeline": _pipeline(config, where)}


def _plain(value: Any, where: str) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            return type(value)(_plain(item, f"{where}[{number}]") for number, item in enumerate(value))
        case dict():
            kind = value.get("type")
            name = _last(kind) if isinstance(kind, str) else kind
            if kind is not None and name not in _KNOWN:
                raise CheckpointError(
                    f"{where} has the type {kind!r}, which MMDetection would import and call; `verify` passes on only "
                    "the parts that Deformable DETR is made of."
                )
            kept = {key: _plain(item, f"{where}.{key}") for key, item in value.items() if key not in _LEFT_OUT}
            return kept if kind is None else {**kept, "type": name}
        case Unknown():
            line = f" (line {value.line})" if value.line else ""
            raise CheckpointError(f"{where}{line} is not a literal, and what would compute it is not executed.")
    raise CheckpointError(f"{where} is a {type(value).__name__}, not a plain value.")


def _last(kind: str) -> str:
    """A type's name in MMDetection's registry: of 'mmdet.ResNet' and of a module's path the last part."""
    name = kind.rpartition(".")[2]
    return _REGISTERED.get(name, name)


def _pipeline(config: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """The test pipeline with loading from a file in front, without annotations, and packing at the end."""
    steps: Any = config
    for key in ("test_dataloader", "dataset", "pipeline"):
        steps = steps.get(key) if isinstance(steps, dict) else None
    steps = config.get("test_pipeline", _DEFAULT_STEPS) if steps is None else steps
    if not isinstance(steps, (list, tuple)) or not all(isinstance(step, dict) for step in steps):
        raise CheckpointError(f"{where}: the test pipeline is not a list of literal steps.")
    middle = []
    for step in steps:
        kind = _last(str(step.get("type")))
        if kind == "Resize":
            middle.append({"type": kind, **_plain({k: v for k, v in step.items() if k != "type"}, f"{where}: {kind}")})
        elif kind not in ("LoadImageFromFile", "LoadAnnotations", "PackDetInputs"):
            raise CheckpointError(f"{where}: `verify` does not know the test pipeline's step {step.get('type')!r}.")
    return [{"type": "LoadImageFromFile"}, *middle, {"type": "PackDetInputs", "meta_keys": _META_KEYS}]


__all__ = ["detector_settings"]
