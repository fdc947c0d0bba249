"""What the machine is, and its ceilings: copies and matrix products."""

import os
import platform
import time
from importlib.metadata import version

import torch

from .measure import copy_bandwidth, milliseconds, tf32
from .report import Report, Session

PRODUCTS = {"float32": (torch.float32, False), "TF32": (torch.float32, True)} | {
    str(dtype).removeprefix("torch."): (dtype, False) for dtype in (torch.float16, torch.bfloat16)
}


def run(session: Session, report: Report) -> None:
    if session.device == "cuda" and not torch.cuda.is_available():
        report.end("no GPU", no_gpu="PyTorch sees no GPU on this machine, so there is nothing to measure.")
        raise SystemExit("no GPU")
    report.table("The machine", "", "")
    if session.device == "cuda":
        start = time.perf_counter()
        torch.zeros(1, device="cuda")
        card = torch.cuda.get_device_properties(0)
        report.row("GPU", card.name)
        report.row("capability", f"{card.major}.{card.minor}")
        report.row("processors", card.multi_processor_count)
        report.row("memory, GiB", card.total_memory / 2**30)
        report.row("PyTorch meets it in, s", time.perf_counter() - start)
        report.row("CUDA of PyTorch", torch.version.cuda)
    report.row("system", platform.platform())
    report.row("processor cores", len(os.sched_getaffinity(0)))
    packages = ("torch", "triton", "transformers", "timm", "deformable-detr-refine")
    report.row("packages", ", ".join(f"{name} {report.attempt(name, lambda n=name: version(n))}" for name in packages))
    report.attempt("backends", lambda: _backends(session, report))
    report.table("Ceilings", "", "")
    report.row("copy on the device, GB/s read and written", copy_bandwidth(session.device) / 1e9)
    side = 128 if session.tiny else 8192
    for name, (dtype, allowed) in PRODUCTS.items():
        a, b = (torch.randn(side, side, device=session.device).to(dtype) for _ in range(2))
        with tf32(allowed):
            seconds = milliseconds(lambda a=a, b=b: a @ b, session.device, 0.4) / 1e3
        report.row(f"product of {side} x {side} in {name}, TFLOP/s", 2 * side**3 / seconds / 1e12)


def _backends(session: Session, report: Report) -> None:
    from deformable_detr_refine.modeling.ops import backend_report

    for row in backend_report(session.device):
        report.row(f"backend {row['backend']}", "chosen" if row["chosen"] else row["reason"] or "runs")
        if session.device == "cuda" and row["backend"] == "triton" and row["reason"]:
            report.wrong(f"The Triton backend does not run: {row['reason']}")
