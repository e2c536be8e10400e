"""A new project is green at first sight, and its first run is quiet."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import PACKAGE, STARTER, Project, free_port, run_command

PYTHON = sys.executable


@pytest.fixture(params=["yes", "no"], ids=["example", "no-example"])
def project(bake: Callable[..., Path], request: pytest.FixtureRequest) -> Project:
    """A new project: with a package name that sorts before and after others."""
    name = "A Project" if request.param == "yes" else "Zoo"
    return Project(bake(project_name=name, include_example=request.param))


@pytest.mark.slow
def test_its_own_tests_pass(project: Project) -> None:
    done = project.command(PYTHON, "-m", "pytest", "-q", PYTHONPATH="")

    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
    assert not project.store.exists()


SETTINGS = f"""
tracking_uri: http://127.0.0.1:{free_port()}
experiment: ours
separator: /
track: never
log_params: false
credentials: mlflow
"""


@pytest.mark.slow
def test_its_own_tests_pass_whatever_is_set(project: Project) -> None:
    """A server that is down, other settings, credentials for it, an environment that says more."""
    project.write("conf/base/mlflow.yml", SETTINGS)
    project.write("conf/local/credentials.yml", "mlflow: {MLFLOW_TRACKING_TOKEN: a secret}\n")

    done = project.command(
        *(PYTHON, "-m", "pytest", "-q"),
        PYTHONPATH="",
        MLFLOW_RUN_ID="0" * 32,
        MLFLOW_TRACKING_URI="http://127.0.0.1:1",
        MLFLOW_EXPERIMENT_NAME="another",
        KEDRO_ENV="local",
    )

    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_ruff_has_nothing_to_say(project: Project) -> None:
    project.command(PYTHON, "-m", "ruff", "check")
    project.command(PYTHON, "-m", "ruff", "format", "--check")


@pytest.mark.slow
def test_mypy_has_nothing_to_say(project: Project) -> None:
    project.command(PYTHON, "-m", "mypy", "--strict", "src", PYTHONPATH="")


@pytest.mark.slow
def test_pre_commit_has_nothing_to_say(project: Project) -> None:
    project.command("git", "init", "--quiet")
    project.command("git", "add", "--all")

    project.command(PYTHON, "-m", "pre_commit", "run", "--all-files")


@pytest.mark.slow
def test_pre_commit_has_nothing_to_say_of_the_starter(tmp_path: Path) -> None:
    starter = Path(shutil.copytree(STARTER, tmp_path / "starter", ignore=_ignored))
    run_command("git", "init", "--quiet", cwd=starter)
    run_command("git", "add", "--all", cwd=starter)

    run_command(PYTHON, "-m", "pre_commit", "run", "--all-files", cwd=starter)


def _ignored(folder: str, names: list[str]) -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--directory", "-z"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    kept = {path.partition("/")[0] for path in listed.stdout.split("\0")}
    return set(names) - kept


@pytest.mark.slow
def test_the_first_run_is_quiet(bake: Callable[..., Path]) -> None:
    project = Project(bake())

    done = project.kedro("run")

    printed = done.stdout + done.stderr
    assert "WARN" not in printed.upper()
    assert "ERROR" not in printed.upper()
    # MLflow says that it makes its tables, once.
    assert "alembic" not in printed


def test_a_project_without_a_pipeline_says_so(bake: Callable[..., Path]) -> None:
    project = Project(bake(include_example="no"))

    done = project.attempt(PYTHON, "-m", "kedro", "run")

    assert done.returncode != 0
    assert "contains no nodes" in done.stdout + done.stderr
    assert not project.store.exists()


@pytest.mark.bundled
def test_the_bundled_part_is_the_same_text_in_every_project(bake: Callable[..., Path]) -> None:
    project = Project(bake(project_name="Another", separator="/", include_example="no"))

    baked = project.path / "src" / "another"
    paths = sorted(PACKAGE.glob("tracking/**/*.py"))
    assert len(paths) > 20
    for path in paths:
        assert (baked / path.relative_to(PACKAGE)).read_text() == path.read_text()
    assert len(list(baked.glob("tracking/**/*.py"))) == len(paths)
