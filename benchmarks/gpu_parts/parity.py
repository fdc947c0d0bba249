"""A step on the device against the same on the CPU, MMDetection's goldens, and fp16 with a scaler."""

import math
import sys
from functools import partial
from pathlib import Path

import torch

from .measure import NO_DROPOUT, TINY, detector, labels, tf32
from .report import Report, Session

TESTS = Path(__file__).parents[2] / "tests"
VARIANTS = {"two stages": {}, "refined": {"two_stage": False}, "plain": {"two_stage": False, "with_box_refine": False}}
STEPS = 30


def run(session: Session, report: Report) -> None:
    with tf32(False):
        report.table("A training step on the device and on the CPU, fp32", "", "loss", "loss on the CPU", "gradients")
        for name, changes in VARIANTS.items():
            report.attempt(f"parity, {name}", partial(_parity, session, report, name, changes))
        report.attempt("goldens", partial(_goldens, session, report))
    report.attempt("fp16 with a scaler", partial(_scaler, session, report))


def _step(model, device: str) -> tuple[float, torch.Tensor]:
    """The loss and all gradients, flat, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 128, 160, generator=generator).to(device)
    loss = model(x, labels=labels(2)).loss
    loss.backward()
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return loss.item(), torch.cat(grads).double().cpu()


def _parity(session: Session, report: Report, name: str, changes: dict) -> None:
    model = detector(session, **TINY, **NO_DROPOUT, **changes).train()
    other = detector(session, **TINY, **NO_DROPOUT, **changes).train().to("cpu")
    other.load_state_dict(model.state_dict())
    (loss, grads), (expected, expected_grads) = _step(model, session.device), _step(other, "cpu")
    apart = ((grads - expected_grads).norm() / expected_grads.norm()).item()
    report.row(name, f"{loss:.7g}", f"{expected:.7g}", apart)
    if not abs(loss - expected) <= 1e-4 * expected:
        report.wrong(f"{name}: the loss is {loss:.7g} on the device and {expected:.7g} on the CPU.")
    if not apart <= 1e-2:
        report.wrong(f"{name}: the gradients are off by {apart:.1e} of their norm.")


def _goldens(session: Session, report: Report) -> None:
    if not (TESTS / "goldens").is_dir():
        print("Without the goldens, which a checkout's tests/ holds.")
        return
    sys.path.insert(0, str(TESTS))
    from support import goldens_mmdet as goldens

    report.table("Against what MMDetection computed", "", "logits off by", "boxes off by", "loss off by, relative")
    for size, variant in [("tiny", v) for v in goldens.VARIANTS] + (
        [] if session.tiny else [("r50", "refine_twostage")]
    ):
        cells = _golden(session, goldens, size, variant)
        report.row(f"{size}, {variant}", *cells)
        for cell, what, allowed in zip(cells, ("logits", "boxes", "loss"), (1e-3, 1e-4, 1e-4), strict=True):
            if not cell <= allowed:
                report.wrong(f"Golden {size}, {variant}: {what} off by {cell:.1e}.")


def _golden(session: Session, goldens, size: str, variant: str) -> tuple[float, float, float]:
    expected = goldens.golden_arrays(f"{size}_{variant}_detect")
    model = goldens.golden_model(size, variant, **goldens.NO_DROPOUT).to(session.device)
    batch = {name: t.to(session.device) for name, t in goldens.golden_batch(f"{size}_inputs", 2).items()}
    with torch.no_grad():
        output = model(**batch, output_hidden_states=True)
    # Near-equal scores may swap two proposals: queries are put into the order of the goldens' initial references.
    references = torch.from_numpy(expected["init_reference"])
    order = (references[:, :, None] - output.initial_reference_points.cpu()[:, None]).abs().sum(-1).argmin(-1)
    logits_off = boxes_off = 0.0
    for image in range(2):
        for name, ours in (("logits", output.intermediate_logits), ("boxes", output.intermediate_pred_boxes)):
            theirs = torch.from_numpy(expected[name][:, image])
            off = (ours[:, image].cpu()[:, order[image]] - theirs).abs().max().item()
            logits_off, boxes_off = (
                (max(logits_off, off), boxes_off) if name == "logits" else (logits_off, max(boxes_off, off))
            )
    images = 3 if size == "tiny" else 2
    expected = goldens.golden_arrays(f"{size}_{variant}_train")
    batch = goldens.golden_batch("tiny_inputs" if size == "tiny" else "r50_train_inputs", images)
    batch = {name: tensor.to(session.device) for name, tensor in batch.items()}
    loss = model.train()(**batch, labels=goldens.golden_labels(expected, images)).loss.item()
    theirs = float(expected["loss_total"])
    return logits_off, boxes_off, abs(loss - theirs) / theirs


def _scaler(session: Session, report: Report) -> None:
    """Steps in fp16 from a scale that is too large: the first ones overflow and must be left out, not stop the run."""
    model = detector(session, **TINY, **NO_DROPOUT).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler(session.device, init_scale=2.0**24)
    x, targets = torch.randn(2, 3, 128, 160, device=session.device), labels(2)
    losses, skipped = [], 0
    for _ in range(3 if session.tiny else STEPS):
        optimizer.zero_grad()
        with torch.autocast(session.device, torch.float16):
            loss = model(x, labels=targets).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        before = scaler.get_scale()
        scaler.update()
        skipped += scaler.get_scale() < before
        losses.append(loss.item())
    report.table("fp16 with a scaler", "", "")
    report.row("loss, first and last", f"{losses[0]:.5g}, {losses[-1]:.5g}")
    report.row("steps left out", skipped)
    report.row("scale at the end", scaler.get_scale())
    if not all(map(math.isfinite, losses)) or (not session.tiny and (losses[-1] >= losses[0] or skipped > 20)):
        report.wrong(f"fp16: the loss went from {losses[0]:.5g} to {losses[-1]:.5g}, {skipped} steps were left out.")
