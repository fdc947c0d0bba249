"""Compiles the operator's kernels for all that the other parts ask of it, at once: Triton keeps them on disk."""

import multiprocessing
import os
import time
from collections.abc import Callable

import torch

from .operator_inputs import CASES, inputs
from .report import Report, Session


def run(session: Session, report: Report) -> None:
    # Forked before anything here has touched the GPU, a process each: Triton's own part holds Python's lock.
    fork = multiprocessing.get_context("fork")
    queue = fork.SimpleQueue()
    tasks = [(name, dtype) for name in CASES for dtype in session.types]
    waiting, running, failed = list(tasks), [], set(tasks)
    report.table(f"{len(tasks)} inputs, forward and backward, compiled", "", "seconds")
    start = time.perf_counter()
    while waiting or running:
        while waiting and len(running) < len(os.sched_getaffinity(0)):
            process = fork.Process(target=_compile, args=(session, *waiting.pop(0), queue.put))
            process.start()
            running.append(process)
        running[0].join(0.05)
        running = [process for process in running if process.is_alive()]
    while not queue.empty():
        name, dtype, seconds = queue.get()
        failed.discard((name, dtype))
        report.row(f"{name}, {dtype}", seconds)
    report.row("all together", time.perf_counter() - start)
    for name, dtype in sorted(failed, key=str):
        report.wrong(f"{name}, {dtype}: its kernels do not run, see the log.")


def _compile(session: Session, name: str, dtype: torch.dtype, tell: Callable) -> None:
    from deformable_detr_refine.modeling.ops import deformable_attention

    start = time.perf_counter()
    value, shapes, locations, weights = inputs(name, dtype, session.device, small=True)
    output = deformable_attention(value, shapes, locations, weights)
    torch.autograd.grad(output, (value, locations, weights), output)
    if session.device == "cuda":
        torch.cuda.synchronize()
    tell((name, dtype, time.perf_counter() - start))
