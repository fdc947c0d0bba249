"""The script for the day a GPU is at hand: every part works, on the CPU with tiny sizes, and none stops the others."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from support.packages import ROOT
from support.scripts import load_script


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return load_script("benchmarks/gpu_session.py")


def session(output, *words):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_session.py"), "--output", str(output), *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_every_part_works(tmp_path, script):
    done = session(tmp_path, "--device", "cpu", "--minutes", "60")
    log = (tmp_path / "log.txt").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + log
    reports = json.loads((tmp_path / "results.json").read_text())
    assert [report["part"] for report in reports] == script.NAMES
    for report in reports:
        assert report["state"] == "done" and report["tables"] and all(table["rows"] for table in report["tables"])
    assert (tmp_path / "summary.md").read_text() in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_it_says_that_there_is_no_gpu(tmp_path):
    done = session(tmp_path)
    assert done.returncode == 2 and done.stderr.endswith("so there is nothing to measure.\n")


def test_part_that_fails_or_takes_too_long_leaves_what_it_had(script, tmp_path, monkeypatch):
    def part(name, run):
        monkeypatch.setitem(sys.modules, f"gpu_parts.{name}", SimpleNamespace(run=run))

    def begin(report):
        report.table("Found", "a", "b")
        report.row("first", 0.5)

    def fails(_, report):
        begin(report)
        raise ZeroDivisionError("a sentence")

    def hangs(_, report):
        begin(report)
        time.sleep(60)

    part("fails", fails)
    part("hangs", hangs)
    part("works", lambda _, report: (begin(report), report.wrong("This is wrong.")))
    options = "cpu", tmp_path, None, None, False
    found = script._run({"works": 5.0, "fails": 5.0, "hangs": 0.2}, options, tmp_path)
    states = {report["part"]: report["state"] for report in found}
    assert states == {
        "works": "done",
        "fails": "failed: ZeroDivisionError: a sentence",
        "hangs": "stopped after its 0 s",
    }
    assert all(report["tables"][0]["rows"] == [["first", "0.5"]] for report in found)
    text = script.summary(found)
    assert "- WRONG: This is wrong." in text and text.count("| first | 0.5 |") == 3
