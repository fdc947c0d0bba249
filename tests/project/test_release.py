"""What is checked before a release: each thing that a version is written in, and each wheel."""

import pytest
from support.packages import PROJECT, ROOT
from support.scripts import load_script

FILES = {
    "pyproject.toml": '[project]\nversion = "1.2.0"\nurls = {Repository = "https://example.org"}\n',
    "CITATION.cff": "cff-version: 1.2.0\nversion: 1.2.0\nreferences:\n  - version: 3.1.0\n",
    "CHANGELOG.md": "# Changelog\n\n## 1.2.0 (2026-01-31)\n\n- New.\n\n## 1.1.0 (2025-12-31)\n",
}


@pytest.fixture
def check_release():
    return load_script(".github/check_release.py")


@pytest.fixture
def repository(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_release_in_order(check_release, repository):
    assert check_release.disagreements(repository, "v1.2.0") == []


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("pyproject.toml", "Repository", "Paper", "pyproject.toml has no Repository in [project.urls]."),
        ("CITATION.cff", "version: 1.2.0\nref", "version: 1.1.0\nref", "CITATION.cff does not have version 1.2.0."),
        ("CHANGELOG.md", "(2026-01-31)", "(not released yet)", "begin with '## 1.2.0 (YYYY-MM-DD)'."),
        ("CHANGELOG.md", "## 1.2.0 (2026-01-31)\n", "", "begin with '## 1.2.0 (YYYY-MM-DD)'."),
    ],
)
def test_what_is_not_in_order_is_said(check_release, repository, file, old, new, sentence):
    assert old in FILES[file]
    (repository / file).write_text(FILES[file].replace(old, new))
    (problem,) = check_release.disagreements(repository, "v1.2.0")
    assert problem.endswith(sentence)


def test_a_tag_of_another_version(check_release, repository):
    assert check_release.disagreements(repository, "v1.3.0") == [
        "The tag is v1.3.0, but pyproject.toml has version 1.2.0."
    ]


def test_this_repository_has_one_version(check_release):
    problems = check_release.disagreements(ROOT, f"v{PROJECT['project']['version']}")
    assert not [problem for problem in problems if "tag" in problem or "CITATION" in problem]
