"""What the documentation shows is true: its Python runs, its commands run or at least parse, what it names is there."""

import argparse
import ast
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from support.doc_blocks import PAGES, ROOT, blocks, inline, name

from ddetr.main import VERBS, add_verb, main

pytest.importorskip("datasets", reason="pip install deformable-detr-refine[train]")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LAUNCHERS = ("python", "torchrun", "accelerate")
# Programs of others, whose arguments nothing here can check.
OTHERS = ("curl", "echo", "hf", "mlflow", "source", "az", "label-studio-converter")
# Flags of others that the text names.
OTHERS_FLAGS = {"--auto-scale-lr", "--env-manager", "--nproc-per-node", "--worker-class"}
ROOMS = "configs|samples|training|inference|benchmarks|serving|docs|tests|modeling|data|commands|conversion|evaluation"


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A stranger's folder: the checkout's files and, as the README assumes, a model folder and a photo of their own."""
    for entry in ROOT.iterdir():
        if entry.name in ("samples", "configs", "training", "tests", "benchmarks", "pyproject.toml"):
            (tmp_path / entry.name).symlink_to(entry)
    shutil.copytree(ROOT / "samples" / "blood-cells", tmp_path / "detector")
    shutil.copy(ROOT / "samples" / "images" / "BloodImage_00053.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name)
def test_python_blocks_run(page, checkout):
    namespace: dict = {"__name__": "documentation"}
    for block in blocks(page, "python"):
        code = compile("\n" * block.line + block.text, str(page), "exec")
        if block.mark is None:
            exec(code, namespace)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")], ids=name)
def test_commands_are_ones_that_there_are(page):
    for block in blocks(page, "sh"):
        for words in block.commands():
            check_command(words, block.where)


@pytest.mark.parametrize("page", [page for page in PAGES if "docs" in page.parts and blocks(page, "sh")], ids=name)
def test_commands_run(page, checkout):
    run_blocks(block for block in blocks(page, "sh") if block.mark is None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.mark == "slow" for block in blocks(page, "sh"))], ids=name
)
def test_slow_commands_run(page, checkout):
    shutil.rmtree(checkout / "detector")  # the guides write it themselves
    run_blocks(block for block in blocks(page, "sh") if block.mark != "not run")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_flags_and_extras_in_sentences_are_ones_that_there_are(page):
    for text in inline(page):
        words = text.split()
        if words[0] == "ddetr" and len(words) > 1 and words[1] not in ("VERB", "..."):
            assert words[1] in VERBS or words[1].startswith("--"), f"{name(page)}: {text}"
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]+", text):
            assert flag in known_flags(), f"{name(page)}: there is no {flag} ({text})"
        for extras in re.findall(r"(?:\"\.|deformable-detr-refine)\[([\w,]+)\]", text):
            assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"]), f"{name(page)}: {text}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_are_there(page):
    text = page.read_text(encoding="utf-8")
    for path in set(re.findall(rf"(?<![\w./-])(?:{ROOMS})/[\w./-]*\w\.(?:py|md|yaml|json|c|jpg|sh|svg)\b", text)):
        assert "NAME" in path or (ROOT / path).exists() or (page.parent / path).exists(), f"{name(page)} names {path}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = page.parent / path if path else page
        assert target.exists(), f"{name(page)}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in headings}


def test_quoted_errors_are_what_the_code_says():
    said = templates()
    quoted = blocks(ROOT / "docs" / "guides" / "troubleshooting.md", "text")
    assert len(quoted) > 30
    for block in quoted:
        text = re.sub("…+", "…", " ".join(block.text.split())).removeprefix("… ").removeprefix("…")
        assert any(text in template for template in said), f"{block.where}: nothing says {block.text!r}"


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.relative_to(ROOT / "docs").as_posix() in text


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert (citation["title"], citation["version"]) == (PROJECT["name"], PROJECT["version"])
    assert citation["license"] == PROJECT["license"]


def run_blocks(chosen) -> None:
    for block in chosen:
        for words in block.commands():
            if words[0] == "ddetr":
                assert main(words[1:]) == 0, f"{block.where}: {' '.join(words)}"
            elif words[0] == "python":
                subprocess.run([sys.executable, *words[1:]], check=True, timeout=600)
            else:
                assert words[0] in ("pip", "make"), f"{block.where}: {words[0]} is run by no test; mark the block"


def check_command(words: list[str], where: str) -> None:
    """Holds a command against the real parsers; what is not ours, as far as it can be known here."""
    program, *rest = words
    if program.removeprefix(".venv-serve/bin/") == "ddetr":
        if rest[0] == "train":
            check_settings(rest[1:], where)
        else:
            try:
                parser_of(rest[0]).parse_args(rest)
            except SystemExit as error:
                assert error.code == 0, f"{where}: {' '.join(words)}"
    elif program in LAUNCHERS:
        program = next((i for i, word in enumerate(rest) if word.endswith(".py") or word == "-m"), None)
        assert program is not None, f"{where}: {' '.join(words)} starts nothing"
        if rest[program] != "-m":
            assert (ROOT / rest[program]).is_file(), f"{where}: there is no {rest[program]}"
        if rest[program].endswith("training/train.py"):
            check_settings(rest[program + 1 :], where)
    elif program == "pip":
        extras = re.findall(r"\.\[([\w,]+)\]", " ".join(rest))
        assert {extra for found in extras for extra in found.split(",")} <= set(PROJECT["optional-dependencies"]), where
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets), f"{where}: {' '.join(words)}"
    else:
        assert program in OTHERS, f"{where}: {program}"


def check_settings(words: list[str], where: str) -> None:
    if words and not words[0].startswith("--"):
        assert (ROOT / words[0]).is_file() or words[0] == "CONFIG.yaml", f"{where}: there is no {words[0]}"
    for word in words:
        assert not word.startswith("--") or word in settings(), f"{where}: there is no setting {word}"


@cache
def parser_of(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ddetr")
    add_verb(parser.add_subparsers(), verb)
    return parser


@cache
def settings() -> frozenset[str]:
    """Of `ddetr train`, and its own few words."""
    from deformable_detr_refine.training.settings import parser

    return frozenset(flags(parser())) | {"--help", "--help-all", "--replay"}


@cache
def known_flags() -> frozenset[str]:
    return frozenset(flag for verb in VERBS for flag in flags(parser_of(verb))) | settings() | OTHERS_FLAGS


def flags(parser: argparse.ArgumentParser) -> set[str]:
    found = {option for action in parser._actions for option in action.option_strings}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {option for sub in action.choices.values() for option in flags(sub)}
    return found


@cache
def templates() -> frozenset[str]:
    """Every string of the packages, with … for what is filled in."""
    found = set()
    for room in ("deformable_detr_refine", *ROOMS.split("|")):
        for file in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                    found.add(re.sub("…+", "…", " ".join("".join(parts).split())))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(" ".join(node.value.split()))
    return frozenset(found)


def test_the_reference_of_the_command_line_has_every_verb():
    hook = runpy.run_path(str(ROOT / "docs" / "hooks" / "command_help.py"))
    page = hook["on_page_markdown"](hook["MARK"], None, None, None)
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == list(VERBS)
    assert page.count("usage: ddetr ") == len(VERBS)
    index, *lines = page.splitlines()
    assert re.findall(r"\(#(\w+)\)", index) == list(VERBS)
    assert max(map(len, lines)) <= 120  # more would need scrolling sideways
