"""The C library gets into wheels where something can compile it, and installing never fails where nothing can."""

import shutil
import sys

import pytest
from support.scripts import load_script


@pytest.fixture
def c_library(monkeypatch):
    """build_backend/c_library.py, online and asked for the first time."""
    module = load_script("build_backend/c_library.py")
    for name in module.OFFLINE:
        monkeypatch.delenv(name, raising=False)
    return module


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)


needs_cc = pytest.mark.skipif(not shutil.which("cc") or sys.platform == "win32", reason="no usual C compiler here")


@needs_cc
def test_a_system_compiler_is_used(c_library):
    assert c_library.system_compiler() == ["cc"]
    assert c_library.ask_for_ziglang() == []


@needs_cc
def test_the_compiler_of_the_environment_comes_first(c_library, monkeypatch):
    monkeypatch.setenv("CC", "cc -Wall")
    assert c_library.system_compiler() == ["cc", "-Wall"]


def test_ziglang_is_asked_for_without_a_compiler(c_library, no_compiler):
    assert c_library.system_compiler() is None
    assert c_library.ask_for_ziglang() == (["ziglang>=0.17"] if c_library.ZIG_RUNS_HERE else [])


@pytest.mark.parametrize("name", ["PIP_NO_INDEX", "UV_OFFLINE"])
def test_nothing_is_asked_for_offline(c_library, no_compiler, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert c_library.ask_for_ziglang() == []


def test_a_compiler_that_fails_is_none(c_library, no_compiler, tmp_path, capfd):
    broken = tmp_path / "cc"  # the only one on PATH
    broken.write_text("#!/bin/sh\necho no headers >&2\nexit 1\n")
    broken.chmod(0o755)
    assert c_library.system_compiler() is None
    assert "no headers" in capfd.readouterr().err
