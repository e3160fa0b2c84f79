"""What the files for contributors name exists: paths, names in modules, commands and versions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from stream_lstm import __version__
from stream_lstm.cli.main import app

ROOT = Path(__file__).parents[1]
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
TEXTS = [CONTRIBUTING, ROOT / ".github" / "SECURITY.md", ROOT / ".github/pull_request_template.md"]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

PLACE = r"(?:stream_lstm|tests|bench|\.github|\.ci)/[\w./-]*|\w+\.(?:md|toml|lock)"


def text_of(path: Path) -> str:
    return " ".join(path.read_text(encoding="utf-8").split())


def quoted(path: Path) -> list[str]:
    return re.findall(r"`([^`]+)`", text_of(path))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_path_exists(path: Path) -> None:
    named = {name for name in quoted(path) if re.fullmatch(PLACE, name)}
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_name_is_in_the_module_that_follows_it() -> None:
    places = re.findall(
        r"((?:`\w+`(?:, | and )?)+) (?:in|below it in) `([\w/]+\.py)`", text_of(CONTRIBUTING)
    )
    assert len(places) > 10
    for names, module in places:
        source = (ROOT / module).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^(?:def |class )?{name}\b", source, re.MULTILINE), (name, module)


def test_the_commands_exist() -> None:
    known = {*get_command(app).commands, "help"}  # type: ignore[attr-defined]
    for path in (*TEXTS, *(ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")):
        named = re.findall(r"stream-lstm ([a-z][a-z-]*)", path.read_text(encoding="utf-8"))
        assert set(named) <= known, path


def test_the_fast_tests_come_first_and_their_mark_exists() -> None:
    lines = CONTRIBUTING.read_text(encoding="utf-8").splitlines()
    assert lines.index('pytest -m "not slow"') < lines.index("pytest")
    marks = PROJECT["tool"]["pytest"]["ini_options"]["markers"]
    assert any(mark.startswith("slow:") for mark in marks)


def test_the_workflow_runs_every_python_that_the_project_names() -> None:
    job = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["test"]
    matrix = job["strategy"]["matrix"]
    classifiers = PROJECT["project"]["classifiers"]
    named = [line.split(" :: ")[2] for line in classifiers if "Python :: 3." in line]
    assert matrix["python"] == named
    assert named[0] == PROJECT["project"]["requires-python"].removeprefix(">=")
    assert [os.split("-")[0] for os in matrix["os"]] == ["ubuntu", "macos", "windows"]
    assert [one["locked"] for one in matrix["include"]] == ["1"]
    fast = """${{ runner.os != 'Linux' && '-m "not slow"' || '' }}"""
    assert job["steps"][-1]["run"] == f"bash .ci/run {fast}"


def test_the_templates_can_be_read() -> None:
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        fields = form.get("body", [])
        assert len({field["id"] for field in fields}) == len(fields)
        assert fields or form["contact_links"], path


def test_the_lock_file_names_the_public_index_alone() -> None:
    """A path or a private host would stop everybody else's installation."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    sources = [package["source"] for package in lock["package"]]
    assert {"editable": "."} in sources
    assert {tuple(source) for source in sources} == {("editable",), ("registry",)}
    assert {source.get("registry") for source in sources} == {None, "https://pypi.org/simple"}
    files = [
        file
        for package in lock["package"]
        for file in (*package.get("wheels", ()), *filter(None, [package.get("sdist")]))
    ]
    assert len(files) > 100
    assert all(file["url"].startswith("https://files.pythonhosted.org/") for file in files)
    assert all(file["hash"].startswith("sha256:") for file in files)


def test_the_lock_file_has_every_dependency() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    (own,) = (package for package in lock["package"] if package["name"] == "stream-lstm")
    project = PROJECT["project"]
    asked = [(line, "") for line in project["dependencies"]]
    for extra, lines in project["optional-dependencies"].items():
        asked += [(line, f"extra == '{extra}'") for line in lines]
    locked = {
        (one["name"] + one["specifier"], one.get("marker", ""))
        for one in own["metadata"]["requires-dist"]
    }
    parts = [(line.partition("; "), marker) for line, marker in asked]
    assert locked == {(name, marker or own_marker) for (name, _, own_marker), marker in parts}


def test_the_changelog_has_a_section_for_this_version() -> None:
    sections = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## [")[1:]
    (own,) = (text for text in sections if text.startswith(f"{__version__}] - "))
    assert len(own.rstrip().splitlines()) <= 40
