"""Compiles the C library with the system's C compiler, else with `ziglang` from PyPI, else not at all."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

SOURCES = [
    Path(__file__).parents[1] / "modeling" / name
    for name in ("deformable_attention.c", "fused_passes.c", "onnx_operator.c")
]
# As modeling/c_library.py looks for them.
NAME = "deformable_attention_{build}" + {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
# Not -ffast-math, which would drop NaN. Without errno and traps, comparisons and conversions become vectors.
FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-fPIC", "-shared", "-fvisibility=hidden"]
ON_X86_64 = platform.machine().lower() in ("x86_64", "amd64")
BUILDS = {"baseline": [], "avx2": ["-mavx2", "-mfma"]} if ON_X86_64 else {"baseline": []}
# Without -mcpu zig compiles for the very processor it runs on.
ZIG_BUILDS = {"baseline": ["-s", "-mcpu=baseline"], "avx2": ["-s", "-mcpu=baseline+avx2+fma"]}
# Without the C library, of which nothing is needed: zig would compile mingw's first, for minutes.
ZIG_ON_WINDOWS = ["-nostdlib", "-rtlib=compiler-rt", "-Wl,--no-entry"]
# What gcc and clang build on Windows needs libraries of theirs beside it, or Microsoft's headers: there zig is taken.
COMPILERS = () if sys.platform == "win32" else ("cc", "gcc", "clang")
# What ziglang has wheels for. Asking for it elsewhere, or offline, would make the installation fail.
ZIG_RUNS_HERE = sys.platform in ("linux", "darwin", "win32") and (
    ON_X86_64 or platform.machine().lower() in ("aarch64", "arm64")
)
OFFLINE = ("PIP_NO_INDEX", "UV_NO_INDEX", "UV_OFFLINE")


def ask_for_ziglang() -> list[str]:
    """The requirement to add, when only zig can compile here."""
    offline = any(os.environ.get(name, "0").lower() not in ("", "0", "false", "no", "off") for name in OFFLINE)
    if offline or not ZIG_RUNS_HERE or system_compiler():
        return []
    return ["ziglang>=0.17"]


@cache
def system_compiler() -> list[str] | None:
    """The first of $CC and the usual ones that compiles the sources."""
    for name in (os.environ.get("CC", ""), *COMPILERS):
        command = shlex.split(name)
        if command and shutil.which(command[0]):
            with tempfile.TemporaryDirectory() as folder:
                if _compile([*command, *FLAGS, "-O0"], Path(folder, "trial")):
                    return command
    return None


def build(folder: Path) -> list[Path]:
    """Compile every build into `folder`; an empty list when nothing here can."""
    command, flags = system_compiler(), BUILDS
    if command is None and find_spec("ziglang"):
        command, flags = [sys.executable, "-m", "ziglang", "cc"], ZIG_BUILDS
        command += ZIG_ON_WINDOWS if sys.platform == "win32" else []
    if command is None:
        print("No C compiler: deformable attention will run on PyTorch alone.", file=sys.stderr)
        return []
    libraries = []
    for name in BUILDS:
        library = folder / NAME.format(build=name)
        if _compile([*command, *FLAGS, *flags[name]], library):
            libraries.append(library)
        elif name == "baseline":
            return []
    return libraries


def _compile(command: list[str], output: Path) -> bool:
    environment = {"ZIG_GLOBAL_CACHE_DIR": str(output.parent / "zig"), **os.environ}
    try:
        done = subprocess.run(
            [*command, "-o", str(output), *map(str, SOURCES)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"{command[0]}: {error}", file=sys.stderr)
        return False
    if done.returncode:
        print(f"{shlex.join(command)} failed:\n{done.stderr}", file=sys.stderr)
    return done.returncode == 0
