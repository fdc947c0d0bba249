"""The C library for every platform that wheels are built for, by zig, and its aarch64 build run against plain loops."""

import os
import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.packages import ROOT
from support.scripts import load_script

from deformable_detr_refine.modeling import c_library

# By zig's name: the builds, and which bytes at which offset say the format and the processor (PE's header may shift).
ELF, MACH_O, PE = b"\x7fELF\x02\x01", b"\xcf\xfa\xed\xfe", b"MZ"
TARGETS = {
    "x86_64-linux-gnu.2.17": (["baseline", "avx2"], ELF, b"\x3e\x00", range(18, 19)),
    "aarch64-linux-gnu.2.17": (["baseline"], ELF, b"\xb7\x00", range(18, 19)),
    "x86_64-macos": (["baseline", "avx2"], MACH_O, b"\x07\x00\x00\x01", range(4, 5)),
    "aarch64-macos": (["baseline"], MACH_O, b"\x0c\x00\x00\x01", range(4, 5)),
    "x86_64-windows-gnu": (["baseline", "avx2"], PE, b"PE\x00\x00\x64\x86", range(64, 512)),
}
DRIVER = Path(__file__).with_name("c_library_check.c")
QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
needs_zig = pytest.mark.skipif(not find_spec("ziglang"), reason="no zig, which compiles for other platforms")
needs_qemu = pytest.mark.skipif(not QEMU, reason="no qemu-aarch64, which runs the build: apt install qemu-user-static")


@pytest.fixture(scope="module")
def build_backend():
    return load_script("build_backend/c_library.py")


def compile_with_zig(target: str, *words: str | Path) -> None:
    """What zig compiles beside our sources is kept in build/zig."""
    command = [sys.executable, "-m", "ziglang", "cc", "-target", target, *map(str, words)]
    environment = {"ZIG_GLOBAL_CACHE_DIR": str(ROOT / "build" / "zig"), **os.environ}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


@needs_zig
@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_the_library_compiles(target, build_backend, tmp_path):
    builds, start, processor, offsets = TARGETS[target]
    for build in builds:
        library, flags = tmp_path / build, [*build_backend.FLAGS, *build_backend.ZIG_BUILDS[build]]
        flags += build_backend.ZIG_ON_WINDOWS if start == PE else []
        compile_with_zig(target, *flags, "-o", library, *build_backend.SOURCES)
        content = library.read_bytes()
        assert content.startswith(start) and any(content.startswith(processor, offset) for offset in offsets)
        for function in ("deformable_attention_interface", "deformable_attention_has_avx2", *c_library.FUNCTIONS):
            assert f"{function}\0".encode() in content, f"{function} is not exported"
        if target.startswith(f"{platform.machine()}-{sys.platform}"):
            usual = c_library.library()[0]
            assert usual is None or usual.deformable_attention_has_avx2() == (
                c_library.open_library(library).deformable_attention_has_avx2()
            )


def check_of(program: Path, *runner: str) -> None:
    """Run the driver: every function of the library is checked, and none differs."""
    done = subprocess.run([*runner, str(program), "200"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {line.split(":")[0] for line in done.stdout.splitlines()} == set(c_library.FUNCTIONS)


@needs_zig
@needs_qemu
@pytest.mark.slow
def test_the_aarch64_build_computes_what_plain_loops_do(build_backend, tmp_path):
    flags = [flag for flag in build_backend.FLAGS if flag != "-shared"] + build_backend.ZIG_BUILDS["baseline"]
    sources = [DRIVER, *build_backend.SOURCES]
    compile_with_zig("aarch64-linux-musl", *flags, "-static", "-o", tmp_path / "check", *sources)
    check_of(tmp_path / "check", QEMU)


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler here")
def test_this_machines_build_computes_what_plain_loops_do(build_backend, tmp_path):
    flags = ["-O1" if flag == "-O3" else flag for flag in build_backend.FLAGS if flag != "-shared"]
    command = ["cc", *flags, "-o", tmp_path / "check", DRIVER, *build_backend.SOURCES, "-lm"]
    subprocess.run(command, check=True, timeout=600)
    check_of(tmp_path / "check")
