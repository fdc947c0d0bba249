"""How many cores there are to compute with, and in which numbers they are slow."""

import warnings

import pytest
import torch

from deformable_detr_refine import machine


def test_a_containers_quota_bounds_the_usable_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "_QUOTA", tmp_path / "cpu.max")
    counts = []
    for text in (None, "max 100000", "150000 100000", "50000 100000", "1600000 100000"):
        if text:
            (tmp_path / "cpu.max").write_text(text)
        counts.append(machine.usable_cores())
    assert counts == [8, 8, 2, 1, 8]


@pytest.mark.parametrize(
    ("dtype", "device", "processor", "warns"),
    [
        (torch.bfloat16, "cpu", "x86_64", True),
        (torch.float32, "cpu", "x86_64", False),
        (torch.bfloat16, "meta", "x86_64", False),
        (torch.bfloat16, "cpu", "aarch64", False),
    ],
)
def test_numbers_that_a_processor_has_no_instructions_for_are_told(monkeypatch, dtype, device, processor, warns):
    monkeypatch.setattr("platform.machine", lambda: processor)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        machine.warn_of_slow_numbers(dtype, torch.device(device))
    assert ["no instructions for bfloat16" in str(warning.message) for warning in told] == [True] * warns


def test_slow_numbers_are_told_once_whoever_asks(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for caller in ("a.py", "b.py"):
            exec(
                compile("warn(dtype, device)", caller, "exec"),
                {"warn": machine.warn_of_slow_numbers, "dtype": torch.bfloat16, "device": torch.device("cpu")},
            )
    assert [warning.filename for warning in told] == [machine.__file__]
