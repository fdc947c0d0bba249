"""What the other code bases of Deformable DETR computed (tests/goldens/other), and checkpoints as each of them writes.

original: fundamentalvision/Deformable-DETR 11169a6. detrex: e244e6c with detectron2 02b5c4e2. stock: transformers
5.24.0, with which 4.30.2, 4.40.2 and 4.57.1 agree within 4e-6. All in fp32 on the CPU, with the weights that
`other_weights` draws.
"""

import json
import re
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from support.golden_weights import GOLDENS, draw
from support.goldens_mmdet import golden_batch

OTHER = GOLDENS / "other"
# CODE_SIZE_VARIANT; 'edge': boxes reach 0 and 1, so that the eps of the inverse sigmoid shows.
NAMES = sorted(file.stem for file in OTHER.glob("*.npz") if not file.stem.endswith(("inputs", "preprocess")))
TINY = [name for name in NAMES if "_tiny_" in name]
HF_RESNET18 = {
    "model_type": "resnet", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}  # fmt: skip
_SEED = 20
_EDGE_STEP = 5.0


def other_arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(OTHER / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def other_batch(size: str) -> dict[str, Tensor]:
    """pixel_values and pixel_mask of the two photos; the second one's edge is padding."""
    return golden_batch(f"other/{size}_inputs", 2)


def other_shapes(name: str) -> dict[str, list[int]]:
    """Names of weights, in the order of the code base's state dict, and their shapes."""
    return json.loads((OTHER / f"{name.removesuffix('_edge').removesuffix('_dc5')}_shapes.json").read_text())


def other_weights(name: str, shapes: dict[str, list[int]] | None = None) -> dict[str, Tensor]:
    """The weights of a golden, under its code base's names; names for one tensor hold the same numbers.

    Args:
        name: as 'stock_tiny_refine'.
        shapes: of a release that has other names than the golden's.
    """
    one_head = "refine" not in name
    weights = {}
    for key, shape in (other_shapes(name) if shapes is None else shapes).items():
        drawn_as = re.sub(r"^(transformer|model)\.decoder\.(bbox|class)_embed\.", r"\2_embed.", key)
        if one_head:
            drawn_as = re.sub(r"^(bbox|class)_embed\.\d+\.", r"\1_embed.0.", drawn_as)
        weights[key] = draw(drawn_as, tuple(shape), _SEED)
        if name.endswith("_edge") and re.search(r"bbox_embed\.\d+\.layers\.2\.weight$", key):
            weights[key] = weights[key] * _EDGE_STEP
    return weights


def other_args(name: str) -> dict[str, Any]:
    """`vars(args)` of a golden of the authors' repository."""
    return json.loads((OTHER / f"{name}_args.json").read_text())


def write_checkpoint(name: str, folder: Path) -> Path:
    """A golden's model as its code base writes it; what to convert."""
    code, weights = name.partition("_")[0], other_weights(name)
    folder.mkdir(parents=True, exist_ok=True)
    if code == "original":
        file = folder / "checkpoint.pth"
        torch.save({"model": weights, "epoch": 49, "args": Namespace(**other_args(name))}, file)
        return file
    if code == "detrex":
        file = folder / "model_final.pth"
        torch.save({"model": weights, "iteration": 374999}, file)
        shutil.copy(OTHER / f"{name}_config.yaml", folder / "config.yaml")
        return file
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(OTHER / f"{name}_config.json", folder / "config.json")
    shutil.copy(OTHER / "stock_preprocessor_5.24.0.json", folder / "preprocessor_config.json")
    return folder


def as_hf_resnet(name):
    """The name that transformers' ResNetModel gives a tensor of timm's ResNet."""
    start, _, rest = name.partition("conv_encoder.model.")
    if not rest:
        return name
    kind = {"conv": "convolution", "bn": "normalization", "0": "convolution", "1": "normalization"}
    if stem := re.match(r"(conv|bn)1\.(.+)", rest):
        return f"{start}conv_encoder.model.embedder.embedder.{kind[stem[1]]}.{stem[2]}"
    if not (layer := re.match(r"layer(\d)\.(\d+)\.(.+)\.(\w+)", rest)):
        raise KeyError(name)
    stage, block, part, value = layer.groups()
    place = f"{start}conv_encoder.model.encoder.stages.{int(stage) - 1}.layers.{block}"
    if part.startswith("downsample."):
        return f"{place}.shortcut.{kind[part[-1]]}.{value}"
    return f"{place}.layer.{int(part[-1]) - 1}.{kind[part[:-1]]}.{value}"
