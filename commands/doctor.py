"""`ddetr doctor`: what is installed, what the machine has, which operator backend runs and why, and a self-test."""

import argparse
import json
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from .arguments import add_json
from .main import DISTRIBUTION

DESCRIPTION = """\
Prints versions, processor, accelerator, the backends of the attention operator with the one that runs and why, and
which extras are installed. Then computes the operator with every backend that runs here and compares it with the
reference. The exit status is 1 when one differs by more than rounding, or when models would refuse to run because
DDETR_BACKEND asks for a backend that does not exist or does not run here. Without PyTorch it says that .onnx files run.

example:
  ddetr doctor
  ddetr doctor --json > report.json
"""
PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "numpy",
    "scipy",
    "pillow",
    "huggingface_hub",
    "safetensors",
)
# fp32 sums of 16 products of numbers around 1: what is beyond this is no rounding.
TOLERANCE = 1e-5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser, "print one JSON document")


def run(args: argparse.Namespace) -> int:
    report = examine()
    print(json.dumps(report, indent=2) if args.json else _text(report))
    runs = not report["backends"] or any(row["chosen"] for row in report["backends"])
    return 0 if runs and all(test["passed"] for test in report["self_test"]) else 1


def examine() -> dict[str, Any]:
    """Everything that `ddetr doctor` prints, as one JSON document."""
    from deformable_detr_refine.machine import choose_device, usable_cores
    from deformable_detr_refine.modeling.without_torch import MISSING

    report = {
        "versions": {DISTRIBUTION: version(DISTRIBUTION), "python": platform.python_version()}
        | {name: _installed(name) for name in PACKAGES},
        "system": platform.platform(),
        "cpu": {"model": cpu_model(), "cores": usable_cores(), "threads": None},
        "accelerator": None,
        "device": None,
        "backends": [],
        "why": f"{MISSING[0]} is missing: .onnx files run, nothing else" if MISSING else None,
        "extras": {extra: {name: _installed(name) for name in names} for extra, names in _extras().items()},
        "self_test": [],
    }
    if MISSING:
        return report

    import torch

    from deformable_detr_refine.modeling.ops import backend_report

    device = choose_device("auto")
    backends = backend_report(device)
    report["cpu"]["threads"] = torch.get_num_threads()
    return report | {
        "accelerator": accelerator_of(device),
        "device": str(device),
        "backends": backends,
        "why": _why(backends, str(device)),
        "self_test": _self_test(device),
    }


def _why(backends: list[dict[str, Any]], device: str) -> str:
    requested = os.environ.get("DDETR_BACKEND") or None
    if requested is None:
        return f"the first in this order that runs on {device}; DDETR_BACKEND is not set"
    state = {row["backend"]: row["available"] for row in backends}.get(requested)
    if state is None:
        return f"DDETR_BACKEND={requested} names no backend: models will refuse to run until it is unset"
    if not state:
        return f"DDETR_BACKEND={requested} asks for a backend that does not run here: models will refuse to run"
    return f"DDETR_BACKEND={requested} asks for it"


def _self_test(device: Any) -> list[dict[str, Any]]:
    """Each backend that runs here against the reference, on seeded random input with locations outside too."""
    import torch

    from deformable_detr_refine.modeling.ops import backend_report, deformable_attention, use_backend

    random = torch.Generator().manual_seed(0)
    shapes = [(7, 5), (4, 3)]
    tokens = sum(h * w for h, w in shapes)
    value = torch.randn(2, tokens, 4, 8, generator=random)
    locations = torch.rand(2, 11, 4, len(shapes), 2, 2, generator=random) * 1.4 - 0.2
    weights = torch.rand(2, 11, 4, len(shapes), 2, generator=random)
    inputs = value.to(device), shapes, locations.to(device), weights.to(device)
    with use_backend("reference"):
        expected = deformable_attention(*inputs)
    results = []
    for name in (
        row["backend"] for row in backend_report(device) if row["available"] and row["backend"] != "reference"
    ):
        with use_backend(name):
            difference = (deformable_attention(*inputs) - expected).abs().max().item()
        results.append({"backend": name, "max_difference": difference, "passed": difference <= TOLERANCE})
    return results


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _extras() -> dict[str, list[str]]:
    """The packages of each extra, as the installed package names them."""
    extras: dict[str, list[str]] = {}
    for requirement in requires(DISTRIBUTION) or []:
        if match := re.match(r"([\w.-]+).*extra == ['\"]([\w.-]+)['\"]", requirement):
            extras.setdefault(match[2], []).append(match[1])
    return extras


def cpu_model() -> str:
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        named = None
    return named[1].strip() if named else platform.processor() or platform.machine()


def accelerator_of(device: Any) -> dict[str, Any] | None:
    import torch

    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return {"type": device.type, "name": None, "memory_gib": None}
    properties = torch.cuda.get_device_properties(device)
    return {"type": device.type, "name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}


def _text(report: dict[str, Any]) -> str:
    lines = ["Versions"]
    lines += [f"  {name:<24}{value or 'not installed'}" for name, value in report["versions"].items()]
    cpu, accelerator = report["cpu"], report["accelerator"]
    lines += ["Machine", f"  {'system':<24}{report['system']}"]
    lines += [f"  {'processor':<24}{cpu['model']}, {cpu['cores']} cores"]
    lines[-1] += f", torch uses {cpu['threads']} threads" if cpu["threads"] else ""
    told = "none" if accelerator is None else " ".join(str(v) for v in accelerator.values() if v is not None)
    lines += [f"  {'accelerator':<24}{told}" + (" GiB" if accelerator and accelerator["memory_gib"] else "")]
    lines += ["Attention operator" + (f" on {report['device']}" if report["device"] else "")]
    for row in report["backends"]:
        state = "runs" if row["chosen"] else "available" if row["available"] else "not available"
        lines.append(f"  {row['backend']:<24}{state}" + (f": {row['reason']}" if row["reason"] else ""))
    lines.append(f"  {'why':<24}{report['why']}")
    lines += ["Self-test against the reference"]
    for test in report["self_test"]:
        verdict = "ok" if test["passed"] else "WRONG"
        lines.append(f"  {test['backend']:<24}{verdict}, largest difference {test['max_difference']:.1e}")
    lines += ["Extras (pip install 'deformable-detr-refine[NAME]')"]
    for extra, packages in report["extras"].items():
        missing = [name for name, value in packages.items() if value is None]
        lines.append(f"  {extra:<24}" + ("installed" if not missing else f"missing: {', '.join(missing)}"))
    return "\n".join(lines)
