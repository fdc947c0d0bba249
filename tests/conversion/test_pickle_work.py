"""A few bytes of a pickle can ask for minutes: what no honest checkpoint asks for is refused before it runs."""

import io
import struct
import zipfile

import pytest
import torch

from deformable_detr_refine.conversion import CheckpointError, open_checkpoint
from deformable_detr_refine.conversion.checkpoints import pickle_names
from deformable_detr_refine.conversion.checkpoints.pickle_names import names_in_pickle

LONG = b"\xc3\xa9" * 5_000
CRAFTED = {
    "numbers without end": b"\x80\x02](" + b"K\x01" * 60_000 + b"e.",
    "names without end": b"\x80\x02](" + b"".join(b"cmmdet.x\nC%d\n" % number for number in range(1_100)) + b"e.",
    "one text encoded again and again": b"\x80\x02]c_codecs\nencode\nq\x010X"
    + struct.pack("<I", len(LONG))
    + LONG
    + b"q\x020X\x06\0\0\0latin1q\x030("
    + b"h\x01h\x02h\x03\x86R" * 2_000
    + b"e.",
    # Each holds the one before twice, so that the hash of the last takes 2**50 steps.
    "a key that doubles": b"\x80\x02}K\x01\x85q\x01" + b"h\x01h\x01\x86q\x01" * 50 + b"K\x01s.",
}


@pytest.mark.parametrize("name", CRAFTED)
def test_work_that_no_checkpoint_asks_for_is_refused(name, save_pickle, monkeypatch):
    monkeypatch.setattr(pickle_names, "_MOST_WORK", 50_000)
    with pytest.raises(CheckpointError, match=r"more operations, or names of classes, than any .* was not opened"):
        open_checkpoint(save_pickle(CRAFTED[name]))


def test_the_bound_lies_far_above_what_a_training_saves(monkeypatch):
    """A state of the optimiser, and averaged weights, of as many tensors as the full-size model has."""
    tensors = {f"bbox_head.layers.{number}.weight": torch.zeros(2, 2) for number in range(700)}
    state = {number: {name: torch.zeros(2) for name in ("step", "exp_avg", "exp_avg_sq")} for number in range(700)}
    groups = [{"params": [number], "lr": 1e-4, "betas": (0.9, 0.999)} for number in range(700)]
    content = {"state_dict": tensors, "ema_state_dict": {name: tensor + 1 for name, tensor in tensors.items()}}
    stream = io.BytesIO()
    torch.save(content | {"optimizer": {"state": state, "param_groups": groups}}, stream)
    with zipfile.ZipFile(stream) as archive:
        data = archive.read("archive/data.pkl")
    monkeypatch.setattr(pickle_names, "_MOST_WORK", pickle_names._MOST_WORK // 5)
    assert "torch._utils._rebuild_tensor_v2" in set(names_in_pickle(io.BytesIO(data)))
