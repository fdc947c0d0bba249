"""Inference of the R-50 detector at batch 1 and 8, in every precision, as a CUDA graph, with a profile."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deformable_detr_refine.modeling.ops import use_backend

from .measure import autocast, detector, milliseconds, pixels, profile, tf32
from .report import Report, Session

WAYS = {
    "float32": (torch.float32, False),
    "TF32": (torch.float32, True),
    "bfloat16 by autocast": (torch.bfloat16, True),
}


@torch.no_grad()
def run(session: Session, report: Report) -> None:
    model = detector(session).eval()
    for batch in (1, 8):
        x = pixels(session, batch)
        report.table(f"Batch {batch}, {x.shape[-2]} x {x.shape[-1]}", "", "ms", "images/s")
        for name, (dtype, allowed) in WAYS.items():
            with tf32(allowed), autocast(session.device, dtype):
                forward = partial(_forward, model, x)
                _time(session, report, name, batch, forward)
                if session.device == "cuda":
                    graph = report.attempt(f"CUDA graph, {name}, batch {batch}", partial(captured, model, x))
                    if graph is not None:
                        _time(session, report, f"{name}, CUDA graph", batch, graph[0])
                        _compare_graph(report, name, forward(), graph[1])
                    del graph
                if name == "TF32" and batch == 1:
                    with use_backend("reference"):
                        _time(session, report, f"{name}, grid_sample in place of the operator", batch, forward)
    x = pixels(session, 1)
    for name in ("TF32", "bfloat16 by autocast"):
        dtype, allowed = WAYS[name]
        with tf32(allowed), autocast(session.device, dtype):
            title = f"Profile of batch 1, {name}"
            report.attempt(title, partial(profile, report, title, partial(_forward, model, x), session.device))
    report.attempt("bfloat16 weights", partial(_half_weights, session, report, model))


def _forward(model: Any, x: Tensor) -> Tensor:
    return model(x).logits


def _time(session: Session, report: Report, name: str, batch: int, function: Callable[[], object]) -> None:
    spent = report.attempt(f"{name}, batch {batch}", partial(milliseconds, function, session.device, 0.7))
    if spent is not None:
        report.row(name, spent, batch / spent * 1e3)


def captured(model: Any, x: Tensor) -> tuple[Callable[[], None], Tensor]:
    """A function that replays the forward pass as a CUDA graph, and the logits that it writes."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            _forward(model, x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = _forward(model, x)
    graph.replay()
    torch.cuda.synchronize()
    return graph.replay, logits


def _compare_graph(report: Report, name: str, expected: Tensor, replayed: Tensor) -> None:
    # The order of near-equal proposals may change in 16 bits, so it is the sorted scores that are compared.
    apart = (expected.float().flatten().sort()[0] - replayed.float().flatten().sort()[0]).abs().max().item()
    if not apart <= 1e-2:
        report.wrong(f"The CUDA graph in {name} gives other scores than the plain call, off by {apart:.1e}.")


def _half_weights(session: Session, report: Report, model: Any) -> None:
    model.to(torch.bfloat16)
    report.table("Weights of bfloat16", "", "ms", "images/s")
    for batch in (1, 8):
        x = pixels(session, batch).to(torch.bfloat16)
        _time(session, report, f"batch {batch}", batch, partial(_forward, model, x))
