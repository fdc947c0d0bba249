"""Times, bandwidth and profiles on a device, and the detectors and batches that parts measure."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from deformable_detr_refine import DeformableDetrRefineConfig, DeformableDetrRefineForObjectDetection

from .report import Report, Session

# Of the detector that tests use too: milliseconds an image on a CPU.
TINY = {
    "backbone": "test_resnet",
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_queries": 20,
}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def milliseconds(function: Callable[[], object], device: str, seconds: float = 0.5, cold: bool = False) -> float:
    """The median of calls within about so many seconds; `cold`: with the GPU's cache emptied before each."""
    function()
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    calls = max(3, min(200, int(seconds / max(time.perf_counter() - start, 1e-5))))
    if device == "cpu":
        times = []
        for _ in range(3):
            start = time.perf_counter()
            function()
            times.append((time.perf_counter() - start) * 1e3)
        return statistics.median(times)
    rubbish = torch.empty(2**28 if cold else 1, dtype=torch.int8, device=device)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(calls)]
    for begin, end in events:
        rubbish.zero_()
        begin.record()
        function()
        end.record()
    synchronize(device)
    return statistics.median(begin.elapsed_time(end) for begin, end in events)


def copy_bandwidth(device: str, size: int = 2**30) -> float:
    """Bytes read and written per second by a copy on the device."""
    source = torch.empty(size if device == "cuda" else 2**22, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / milliseconds(lambda: target.copy_(source), device, 0.3) * 1e3


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether products and convolutions of fp32 may round their inputs to TF32 within the block."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def autocast(device: str, dtype: torch.dtype) -> Any:
    return nullcontext() if dtype == torch.float32 else torch.autocast(device, dtype)


def profile(report: Report, title: str, function: Callable[[], object], device: str, rows: int = 15) -> None:
    """A table of what takes the device's time in one call."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    function()
    synchronize(device)
    with profiler(activities=activities) as found:
        function()
        synchronize(device)
    key = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    events = [(getattr(event, key), event) for event in found.key_averages()]
    whole = sum(time for time, _ in events)
    launches = sum(event.count for _, event in events if "LaunchKernel" in event.key)
    report.table(
        f"{title}: {whole / 1e3:.2f} ms of the device, {launches} launches.", "kernel or operation", "ms", "calls"
    )
    for spent, event in sorted(events, key=lambda pair: -pair[0])[:rows]:
        report.row(event.key.replace("|", "/")[:90], spent / 1e3, event.count)


def detector(session: Session, **changes: Any) -> DeformableDetrRefineForObjectDetection:
    """R-50, two stages, 80 classes, drawn at random; a tiny one on the CPU."""
    torch.manual_seed(0)
    config = DeformableDetrRefineConfig(num_labels=80, **{**(TINY if session.tiny else {}), **changes})
    return DeformableDetrRefineForObjectDetection(config).to(session.device)


def pixels(session: Session, batch: int) -> Tensor:
    """(batch, 3, 800, 1333); nothing is padded."""
    size = (64, 96) if session.tiny else (800, 1333)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, *size, generator=generator).to(session.device)


def labels(batch: int) -> list[dict[str, Tensor]]:
    """Ten boxes an image, cxcywh normalised by the image, on the CPU as a loader gives them."""
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "class_labels": torch.randint(0, 80, (10,), generator=generator),
            "boxes": torch.rand(10, 4, generator=generator) * 0.3 + 0.2,
        }
        for _ in range(batch)
    ]
