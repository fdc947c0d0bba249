"""The workflows cannot run here. What can be held: they parse, and each of their steps names what there is."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from support.packages import PROJECT, ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PRE_COMMIT = ROOT / ".pre-commit-config.yaml"
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
DEV = PROJECT["project"]["optional-dependencies"]["dev"]


def jobs_of(file: Path) -> dict:
    return yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]


JOBS = {f"{file.stem}-{name}": (file, job) for file in WORKFLOWS for name, job in jobs_of(file).items()}
every_job = pytest.mark.parametrize(("file", "job"), JOBS.values(), ids=JOBS)


def test_there_are_workflows_for_tests_docs_and_releases():
    assert [file.stem for file in WORKFLOWS] == ["docs", "release", "tests"]


@every_job
def test_each_command_is_one_that_there_is(file, job):
    installed = set()
    for command in (line for step in job["steps"] for line in step.get("run", "").splitlines()):
        program, *words = shlex.split(command)
        if program == "make":
            assert set(words) <= TARGETS, command
        elif program == "python" and words[0] == "-m":
            assert words[1] in installed or find_spec(words[1]), command
            if "install" in words:
                installed |= {word.split(">")[0] for word in words}
                extra = re.fullmatch(r"\.\[(\w+)\]", words[-1])
                assert words[-1][0] != "." or extra[1] in PROJECT["project"]["optional-dependencies"], command
        elif program == "python":
            assert (ROOT / words[0]).is_file(), command
        else:
            assert program in {requirement.split(">")[0] for requirement in DEV}, command


@every_job
def test_jobs_name_what_there_is_and_may_only_read(file, job):
    workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    needs = job.get("needs", [])
    assert set([needs] if isinstance(needs, str) else needs) <= set(workflow["jobs"])
    for step in job["steps"]:
        assert re.fullmatch(r"(actions|pypa)/[\w-]+@(release/)?v\d+", step.get("uses", "actions/none@v0"))
    matrix = job.get("strategy", {}).get("matrix", {})
    for names in re.findall(r"\${{ matrix\.([\w.]+) }}", yaml.safe_dump(job)):
        values = matrix
        for name in names.split("."):
            values = [value[name] for value in values] if isinstance(values, list) else values[name]
        assert values
    # Who may publish runs nothing of the repository.
    if "id-token" in job.get("permissions", {}):
        assert job["environment"] and not any("run" in step or "checkout" in step["uses"] for step in job["steps"])


def test_the_lowest_python_is_tried():
    versions = JOBS["tests-quick"][1]["strategy"]["matrix"]["versions"]
    assert PROJECT["project"]["requires-python"] == f">={versions[0]['python']}"
    assert f"Programming Language :: Python :: {versions[0]['python']}" in PROJECT["project"]["classifiers"]


def test_pre_commit_has_the_tools_of_make_lint():
    hooks = [hook for repo in yaml.safe_load(PRE_COMMIT.read_text(encoding="utf-8"))["repos"] for hook in repo["hooks"]]
    lint = re.findall(r"\$\(BIN\)/(ruff \w+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    of_ruff = [hook for hook in hooks if hook["entry"].startswith("ruff ")]
    assert {" ".join(hook["entry"].split()[:2]) for hook in of_ruff} == set(lint)
    assert all(set(hook["additional_dependencies"]) <= set(DEV) for hook in of_ruff)
