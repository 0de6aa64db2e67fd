"""What the maintainers' files say of the project is so: versions, and the files and tests that they name."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from mrpc_lightning import __version__

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
TESTED = ("dev", "study", "onnx")  # the extras that the tests are run with


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def lower_bounds() -> dict[str, Version]:
    """The lower bound of each direct dependency that the tests need."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = [line for name in TESTED for line in project["optional-dependencies"][name]]
    needed = [Requirement(line) for line in (*project["dependencies"], *extras)]
    return {
        requirement.name.lower(): Version(clause.version)
        for requirement in needed
        for clause in requirement.specifier
        if clause.operator == ">="
    }


def test_the_lowest_versions_that_ci_tries_are_the_lower_bounds() -> None:
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", read(".github/lowest.txt"), re.MULTILINE))
    assert len(pins) > 15
    assert {name: Version(pin) for name, pin in pins.items()} == lower_bounds()


def commands(path: Path) -> list[list[str]]:
    """The words of each line that a workflow runs."""
    steps = [step for job in yaml.safe_load(read(str(path)))["jobs"].values() for step in job["steps"]]
    lines = [line for step in steps for line in step.get("run", "").splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: str(path.name))
def test_the_files_that_a_workflow_names_are_there(path: Path) -> None:
    words = [word for line in commands(path) for word in line if "$" not in word and "://" not in word]
    named = [word for word in words if re.search(r"^(tests|configs|\.github)/|\.(py|yaml|txt)$", word)]
    bare = [word for word in named if "/" not in word]  # copied into another folder, where they are read
    assert [word for word in named if word not in bare and not (ROOT / word).exists()] == []
    assert {word for word in bare} <= {Path(word).name for word in named if "/" in word}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: str(path.name))
def test_workflows_run_the_tests_read_the_repository_only_and_end(path: Path) -> None:
    content: dict[str, Any] = yaml.safe_load(read(str(path)))
    assert content["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 90 for job in content["jobs"].values())
    assert ["python", "-m", "pytest"] in commands(path)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: str(path.name))
def test_forms_of_issues_have_what_the_forge_asks_for(path: Path) -> None:
    form = yaml.safe_load(read(str(path)))
    assert form["name"] and form["description"]
    names = [field["id"] for field in form["body"]]
    assert len(set(names)) == len(names) and all(field["attributes"]["label"] for field in form["body"])


def test_the_citation_and_the_changelog_are_of_this_version() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0" and citation["version"] == __version__
    assert f'license = "{citation["license"]}"' in read("pyproject.toml")
    assert re.search(rf"^## {re.escape(__version__)} ", read("CHANGELOG.md"), re.MULTILINE)


def test_each_promise_of_the_security_page_has_the_tests_that_it_names() -> None:
    page = read("SECURITY.md")
    named = re.findall(r"`(?:(tests/[\w/]+\.py)::)?(test_\w+?)(?:\.\.\.)?`", page)
    assert len(named) > 10
    for file, beginning in named:
        assert f"def {beginning}" in read(file or "tests/regressions/test_security.py"), beginning
    assert all((ROOT / file).is_file() for file in re.findall(r"tests/[\w/]+\.py", page))
