"""A training step of the R-50 detector: its time, what it waits for the device, memory, and a profile."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch

from deformable_detr_refine.modeling.ops import use_backend

from .measure import autocast, detector, labels, milliseconds, pixels, profile, tf32
from .report import Report, Session

WAYS = {"float32": (torch.float32, False), "TF32": (torch.float32, True), "bfloat16": (torch.bfloat16, True)}
BATCH = 2
# For all matches down, and up again.
WAITS = 2


def run(session: Session, report: Report) -> None:
    report.table(f"Forward, loss, backward and AdamW, batch {BATCH}", "", "ms", "peak memory, GB", "waits")
    for name, (dtype, allowed) in WAYS.items():
        with tf32(allowed):
            _measure(session, report, name, training_step(session, dtype))
            if name == "bfloat16":
                with use_backend("reference"):
                    other = "bfloat16, grid_sample in place of the operator"
                    _measure(session, report, other, training_step(session, dtype), None)
    with tf32(True):
        step = training_step(session, torch.bfloat16)
        report.attempt("profile", partial(profile, report, "Profile of a step in bfloat16", step, session.device))


def training_step(session: Session, dtype: torch.dtype, compiled: Callable | None = None) -> Callable[[], float]:
    """A function that makes a step and gives its loss, which it does not wait for."""
    model = detector(session).train()
    call = compiled(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    x, targets = pixels(session, BATCH), labels(BATCH)
    # As many boxes as the Trainer counts before the step.
    boxes = torch.full((), float(sum(len(target["boxes"]) for target in targets)), device=session.device)

    def step():
        optimizer.zero_grad()
        with autocast(session.device, dtype):
            loss = call(x, labels=targets, num_items_in_batch=boxes).loss
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _measure(session: Session, report: Report, name: str, step: Callable, most_waits: int | None = WAITS) -> None:
    cuda = session.device == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    spent = report.attempt(name, partial(milliseconds, step, session.device, 1.5))
    if spent is None:
        return
    peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0
    found = _waits(step) if cuda else []
    report.row(name, spent, peak, len(found))
    for place in found:
        print(f"{name} waits: {place}")
    if most_waits is not None and len(found) > most_waits:
        report.wrong(f"{name}: a step waits {len(found)} times for the device, not {most_waits}; the log says where.")


def _waits(step: Callable) -> list[str]:
    """Where a step waits for the device, as PyTorch warns."""
    with warnings.catch_warnings(record=True) as caught, nullcontext():
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [f"{w.filename}:{w.lineno} {w.message}" for w in caught if "synchroniz" in str(w.message)]
