"""Counts the instructions of the operator's GPU kernels, without a GPU, and prints a Markdown table.

    python benchmarks/gpu_code.py > benchmarks/GPU_CODE.md

The kernels are compiled as for an encoder of 4 levels, 4 points, 8 heads of 32 channels, and disassembled. An
instruction in a loop over the points counts once for each. A sample is what one query reads at one point of one level
for one head; instructions are those that a warp (AMD: a wavefront of 64) issues, over the samples that it works on.
Barriers are those of a program for each point of a level.
"""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

from deformable_detr_refine.modeling import ops_triton

TARGETS = {"sm_80": 80, "sm_90": 90, "sm_100": 100, "gfx942": "gfx942"}
LEVELS, POINTS, HEADS, CHANNELS = 4, 4, 8, 32


class Target:
    """What Triton asks a driver before it compiles."""

    def __init__(self, generation: int | str) -> None:
        self.generation = generation

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("hip", "gfx942", 64) if self.generation == "gfx942" else GPUTarget("cuda", self.generation, 32)

    def get_current_device(self):
        return self.generation

    def get_current_stream(self, device):
        return 0


class Line(NamedTuple):
    """One instruction: where it stands, what it is, and where it jumps to, if it does."""

    place: int
    name: str
    target: int | None


def compiled(generation: int | str, dtype: torch.dtype) -> list[tuple[Any, int]]:
    """Each kernel as the package launches it, and the samples that a warp works on."""
    kernels = []
    function: Any = triton.runtime.JITFunction
    target: Any = Target(generation)
    run = function.run

    def compile_only(kernel, grid, warmup, **arguments):
        code = run(kernel, grid=grid, warmup=True, **arguments)
        warps = arguments["num_warps"]
        kernels.append((code, 8 * arguments["ROWS"] * LEVELS * POINTS / warps))

    function.run = compile_only
    triton.runtime.driver.set_active(target)
    try:
        shapes = [(16, 20), (8, 10), (4, 5), (2, 3)]
        tokens = sum(h * w for h, w in shapes)
        value = torch.empty(1, tokens, HEADS, CHANNELS, dtype=dtype)
        locations = torch.empty(1, tokens, HEADS, LEVELS, POINTS, 2)
        ops_triton.triton_forward(value, shapes, locations, locations[..., 0])
        ops_triton.triton_backward(value.flatten(2), value, shapes, locations, locations[..., 0])
    finally:
        function.run = run
    return kernels


def nvidia(code: Any) -> tuple[list[Line], str, int]:
    """Instructions, registers, and bytes a thread spilled."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code.asm["cubin"])
        file.flush()
        text, usage = (
            subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("-sass", "-res-usage")
        )
    lines = []
    for place, words in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", text):
        words = re.sub(r"^@!?U?P\w+\s+", "", words)
        name = words.split()[0]
        jump = re.search(r"0x([0-9a-f]+)", words) if name.startswith("BRA") else None
        if name != "NOP":
            lines.append(Line(int(place, 16), name, int(jump[1], 16) if jump else None))
    spilled = sum(map(int, re.findall(r"(?:STACK|LOCAL):(\d+)", usage)))
    return lines, re.findall(r"REG:(\d+)", usage)[-1], spilled


def amd(code: Any) -> tuple[list[Line], str, int]:
    text = code.asm["amdgcn"]
    lines, labels, jumps = [], {}, []
    for line in text.splitlines():
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = len(lines)
        elif found := re.match(r"\t([sv]_\w+|global_\w+|buffer_\w+|ds_\w+|flat_\w+|scratch_\w+)\b(.*)", line):
            jumps.append(found[2].strip().split()[0] if "branch" in found[1] else None)
            lines.append(found[1])
    # What follows the end is padding.
    end = lines.index("s_endpgm") + 1
    lines = [Line(i, name, labels.get(jump)) for i, (name, jump) in enumerate(zip(lines, jumps, strict=True))][:end]
    registers = re.search(r"\.vgpr_count:\s+(\d+)", text)
    spilled = re.search(r"\.private_segment_fixed_size:\s+(\d+)", text)
    return lines, registers[1] if registers else "", int(spilled[1]) if spilled else 0


def executed(lines: list[Line]) -> list[tuple[Line, int]]:
    """How often each instruction is executed: a loop's as often as there are points."""
    loops = [(line.target, line.place) for line in lines if line.target is not None and line.target < line.place]
    return [(line, POINTS if any(a <= line.place <= b for a, b in loops) else 1) for line in lines]


MEMORY = "(global|buffer|flat)"
KINDS = {"instructions": "", "reads": f"LDG|{MEMORY}_load", "additions": f"RED|ATOM|{MEMORY}_atomic"}


def main() -> None:
    columns = ["target", "value", "kernel", *(f"{kind} a sample" for kind in KINDS)]
    columns += ["barriers", "registers", "bytes spilled"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for target, generation in TARGETS.items():
        for dtype in (torch.float32, torch.bfloat16):
            for code, samples in compiled(generation, dtype):
                lines, registers, spilled = (amd if target == "gfx942" else nvidia)(code)
                cells = [target, str(dtype).removeprefix("torch."), code.name.strip("_").removesuffix("_kernel")]
                cells += [f"{count(lines, pattern) / samples:.2f}" for pattern in KINDS.values()]
                cells += [f"{count(lines, 'BAR|s_barrier') / LEVELS / POINTS:g}", registers, str(spilled)]
                print(f"| {' | '.join(cells)} |", flush=True)


def count(lines: list[Line], pattern: str) -> int:
    return sum(often for line, often in executed(lines) if re.match(pattern, line.name))


if __name__ == "__main__":
    main()
