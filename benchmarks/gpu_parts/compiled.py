"""torch.compile: inference and a training step, how long the first call takes, and what it gains."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from .measure import autocast, detector, milliseconds, pixels, synchronize, tf32
from .report import Report, Session
from .training import training_step

NAME = "bfloat16 by autocast, batch"


def run(session: Session, report: Report) -> None:
    # On the CPU only the tracing is tried: Inductor's C++ takes minutes.
    backend = "inductor" if session.device == "cuda" else "eager"
    report.table("torch.compile", "", "first call, s", "ms", "ms without")
    with tf32(True):
        with torch.no_grad(), autocast(session.device, torch.bfloat16):
            report.attempt("inference", partial(_inference, session, report, backend))
        if not session.tiny:  # the loss takes Dynamo a minute
            torch.compiler.reset()
            report.attempt("training", partial(_training, session, report, backend))


def _inference(session: Session, report: Report, backend: str) -> None:
    model = detector(session).eval()
    one: Any = torch.compile(model, backend=backend, fullgraph=True)
    for batch in (1,) if session.tiny else (1, 8):
        x = pixels(session, batch)
        expected, first = model(x).logits, _first_call(lambda x=x: one(x).logits, session)
        apart = (one(x).logits.float().flatten().sort()[0] - expected.float().flatten().sort()[0]).abs().max().item()
        if not apart <= 5e-2:
            report.wrong(f"The compiled model gives other scores at batch {batch}, off by {apart:.1e}.")
        times = [milliseconds(lambda call=call, x=x: call(x), session.device, 0.5) for call in (one, model)]
        report.row(f"inference in {NAME} {batch}", first, *times)


def _training(session: Session, report: Report, backend: str) -> None:
    plain = training_step(session, torch.bfloat16)
    step = training_step(session, torch.bfloat16, partial(torch.compile, backend=backend))
    first = _first_call(step, session)
    times = [milliseconds(call, session.device, 1.0) for call in (step, plain)]
    report.row(f"a training step in {NAME} 2", first, *times)


def _first_call(function: Callable[[], object], session: Session) -> float:
    start = time.perf_counter()
    function()
    synchronize(session.device)
    return time.perf_counter() - start
