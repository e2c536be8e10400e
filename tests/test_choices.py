"""Every combination of what can be chosen makes a whole project."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from faults import Server
from helpers import ALL_COMBINATIONS, STARTER, Project, runs_of
from test_generation import DEFAULTS, contents, expected, files, unrendered

PYTHON = sys.executable
SERVER = "http://127.0.0.1:5000"
CHOICES = {
    "tracking": ["bundled", "package"],
    "include_example": ["yes", "no"],
    "ci": ["none", "github"],
    "distributed": ["none", "dask"],
    "separator": [".", "/"],
    "tracking_uri": ["", SERVER],
}
FREE = {"project_name", "repo_name", "python_package", "experiment", "kedro_version"}
ALL = [dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())]

SLOW = ALL if ALL_COMBINATIONS else [ALL[0], ALL[5], ALL[-6], ALL[-1]]
FAST = ALL if ALL_COMBINATIONS else [*ALL[: len(ALL) // 2 : 3], ALL[len(ALL) // 2], ALL[-1]]


def label(answers: dict[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in answers.items())


def test_these_are_all_choices() -> None:
    assert {key for key in DEFAULTS if not key.startswith("_")} == CHOICES.keys() | FREE
    assert set(DEFAULTS["__prompts__"]) == CHOICES.keys() | FREE


def test_each_choice_is_tried() -> None:
    for key, values in CHOICES.items():
        assert {answers[key] for answers in SLOW} == set(values)
        assert {answers[key] for answers in FAST} == set(values)


def test_the_readme_and_the_file_of_answers_have_all_of_them() -> None:
    answers = yaml.safe_load((STARTER / "docs/answers.yml").read_text())
    readme = (STARTER / "README.md").read_text()

    assert answers.keys() == (CHOICES.keys() | FREE) - {"kedro_version"}
    assert all(f"| `{key}` |" in readme for key in answers)
    for key, values in CHOICES.items():
        assert answers[key] in values


@pytest.mark.parametrize("answers", FAST, ids=label)
def test_the_files_are_these_and_in_style(
    bake: Callable[..., Path], answers: dict[str, str]
) -> None:
    project = bake(**answers)

    example, ci = answers["include_example"] == "yes", answers["ci"] == "github"
    bundled = answers["tracking"] == "bundled"
    assert files(project) == expected("lab", example=example, ci=ci, bundled=bundled)
    assert unrendered(project) == []
    for file in ("requirements.txt", "pyproject.toml"):
        has_dask = "distributed>=" in (project / file).read_text()
        assert has_dask == (answers["distributed"] == "dask")
        has_package = "kedro-mlflow-metrics~=" in (project / file).read_text()
        assert has_package == (not bundled)
    for name, text in contents(project).items():
        assert bundled or b"lab.tracking" not in text, name
        assert not text or text.endswith(b"\n"), name
        assert b"STARTER_VERSION" not in text, name
        assert "tracking" in name or name.endswith(".j2") or b"PACKAGE" not in text, name
    assert json.loads((project / "templates/pipeline/cookiecutter.json").read_text()) == {
        "pipeline_name": "default",
        "kedro_version": "",
        "_tracking": "lab.tracking" if bundled else "kedro_mlflow_metrics",
    }
    Project(project).command(PYTHON, "-m", "ruff", "check")
    Project(project).command(PYTHON, "-m", "ruff", "format", "--check")


@pytest.fixture(scope="module")
def server(
    copy_store: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A tracking server for all of them."""
    folder = tmp_path_factory.mktemp("server")
    with Server(copy_store(folder / "mlflow.db"), folder) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("answers", SLOW, ids=label)
def test_its_checks_are_green_and_a_run_is_finished(
    bake: Callable[..., Path], server: Server, answers: dict[str, str]
) -> None:
    """Without the example, with a pipeline by command."""
    if answers["tracking_uri"]:
        answers = {**answers, "tracking_uri": server.url}
    project = Project(bake(**answers))
    bundled = answers["tracking"] == "bundled"
    beside = "" if bundled else str(STARTER / "tests/package")
    path = {"PYTHONPATH": os.pathsep.join([str(project.path / "src"), beside])}
    if answers["include_example"] == "no":
        project.kedro("pipeline", "create", "churn", **path)
    uri = answers["tracking_uri"] or f"sqlite:///{project.store}"
    before = len(runs_of(uri)) if answers["tracking_uri"] else 0

    project.kedro("run", **path)
    project.kedro("metrics", "check", **path)

    runs = runs_of(uri)
    assert len(runs) == before + 1
    assert runs[-1].info.status == "FINISHED"
    name = "my_model_metrics" if answers["include_example"] == "yes" else "churn_metrics"
    assert f"{name}{answers['separator']}accuracy" in runs[-1].data.metrics
    assert " passed" in project.command(PYTHON, "-m", "pytest", "-q", PYTHONPATH=beside).stdout
    if bundled:  # else mypy needs what tests/test_wheel.py installs
        project.command(PYTHON, "-m", "mypy", "src", PYTHONPATH="")
