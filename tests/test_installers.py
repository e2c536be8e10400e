"""A generated project with every installer, each with nothing in its home, no cache either."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import STARTER, TEMPLATE, runs_in
from test_pages import Shell

tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

INSTRUCTIONS = {"ARG", "FROM", "RUN", "COPY", "WORKDIR", "USER", "EXPOSE", "CMD"}

slow = [pytest.mark.slow, pytest.mark.timeout(1200)]


def dependencies(project: Path) -> list[str]:
    listed: list[str] = tomllib.loads((project / "pyproject.toml").read_text())["project"][
        "dependencies"
    ]
    return listed


def requirements(project: Path) -> list[str]:
    lines = (project / "requirements.txt").read_text().splitlines()
    return [line for line in (re.sub(r"(^|\s+)#.*", "", line) for line in lines) if line]


@pytest.mark.parametrize("example", ["yes", "no"])
def test_both_lists_of_dependencies_are_the_same(bake: Callable[..., Path], example: str) -> None:
    project = bake(include_example=example)

    assert dependencies(project) == requirements(project)
    assert ("scikit-learn>=1.5" in dependencies(project)) == (example == "yes")


@pytest.fixture
def shell(bake: Callable[..., Path], tmp_path: Path) -> Shell:
    """A shell in a new project; its home is empty, and uv is there."""
    shell = Shell(bake(project_name="My Project"))
    shell.environment["HOME"] = str(tmp_path / "home")
    (tmp_path / "home").mkdir()
    for name in [name for name in shell.environment if name.startswith(("UV_CACHE", "XDG_"))]:
        del shell.environment[name]
    uv = tmp_path / "bin"  # uv alone: nothing else of the tests' environment
    uv.mkdir()
    (uv / "uv").symlink_to(shutil.which("uv") or STARTER / ".venv/bin/uv")
    path = [part for part in shell.environment["PATH"].split(os.pathsep) if ".venv" not in part]
    shell.environment["PATH"] = os.pathsep.join([str(uv), *path])
    return shell


@pytest.fixture
def activated(shell: Shell) -> Shell:
    """The same with an activated environment that has pip and nothing else."""
    shell.run(f"{shlex.quote(sys.executable)} -m venv .venv")
    shell.run("source .venv/bin/activate")
    return shell


def assert_ran(project: Path, *, runs: int = 1) -> None:
    found = runs_in(project / "mlflow.db")
    assert [run.info.status for run in found] == ["FINISHED"] * runs
    assert "my_model_metrics.accuracy" in found[-1].data.metrics


class TestUv:
    pytestmark = slow

    def test_sync_run_add_and_export(self, shell: Shell) -> None:
        project = shell.folder
        shell.run(f"uv sync --python {shlex.quote(sys.executable)}")
        shell.run("uv run kedro run")
        assert_ran(project)

        shell.run("uv add pandas")
        assert any(name.startswith("pandas") for name in dependencies(project))
        shell.run("uv run python -c 'import pandas, pytest, mypy'")
        shell.run("uv run ruff check")

        header = (project / "requirements.txt").read_text().splitlines()[1]
        shell.run(header.removeprefix("# "))
        names = {name.partition("==")[0] for name in requirements(project)}
        assert {"kedro", "mlflow", "pandas"} <= names
        assert not {"pytest", "my-project"} & names

    def test_two_locks_are_the_same(self, shell: Shell) -> None:
        lock = shell.folder / "uv.lock"
        shell.run("uv lock")
        first = lock.read_bytes()
        shell.run("uv lock")
        assert lock.read_bytes() == first
        lock.unlink()
        shell.run("uv lock")
        assert lock.read_bytes() == first
        shell.run("uv lock --check")


class TestPip:
    pytestmark = slow

    def test_from_the_list_editable_and_as_a_copy(self, activated: Shell) -> None:
        """The list alone will do for a run and a wheel."""
        project = activated.folder
        activated.run("pip install -r requirements.txt")
        activated.run("kedro run")
        assert_ran(project)

        dist = project / "dist"
        activated.run("pip install build")
        activated.run("python -m build")
        with tarfile.open(dist / "my_project-0.1.tar.gz") as sdist:
            assert "my_project-0.1/src/my_project/settings.py" in sdist.getnames()
        self._check_wheel(dist)

        shutil.rmtree(dist)
        activated.run("kedro package")
        assert (dist / "conf-my_project.tar.gz").exists()
        self._check_wheel(dist)

        activated.run("pip install -e .")
        activated.run("kedro run")
        assert_ran(project, runs=2)

        activated.run("pip install .")
        activated.run("kedro run")
        assert_ran(project, runs=3)
        where = activated.run("(cd / && python -c 'import my_project; print(my_project.__file__)')")
        assert "site-packages" in where

    @staticmethod
    def _check_wheel(dist: Path) -> None:
        with zipfile.ZipFile(dist / "my_project-0.1-py3-none-any.whl") as wheel:
            names = wheel.namelist()
            metadata = wheel.read("my_project-0.1.dist-info/METADATA").decode()
        assert {name.partition("/")[0] for name in names} == {
            "my_project",
            "my_project-0.1.dist-info",
        }
        assert "my_project/tracking/store/sqlite.py" in names
        assert "Requires-Dist: scikit-learn>=1.5" in metadata


class TestDocker:
    pytestmark = slow

    def test_what_the_dockerfile_says_works(self, activated: Shell, tmp_path: Path) -> None:
        """Its instructions, one after the other, in an environment instead of an image."""
        (tmp_path / "bin" / "docker").write_text("#!/bin/sh\n")  # kedro-docker asks if it is there
        (tmp_path / "bin" / "docker").chmod(0o755)
        project = activated.folder
        tool = tmp_path / "tool"
        activated.run(f"uv venv --python {shlex.quote(sys.executable)} {tool}")
        activated.run(f"uv pip install --python {tool} kedro-docker -r requirements.txt")
        activated.run(f"{tool}/bin/kedro docker init")

        image = tmp_path / "image"
        activated.folder = image
        image.mkdir()
        for instruction, rest in self._instructions(project / "Dockerfile"):
            if instruction == "RUN" and "useradd" not in rest:
                command = rest.replace("/tmp/", f"{tmp_path}/").replace("--system ", "")
                activated.run(command)
            elif instruction == "COPY" and rest.startswith("requirements.txt"):
                shutil.copy(project / "requirements.txt", tmp_path)
            elif instruction == "COPY":
                ignored = (project / ".dockerignore").read_text().split()
                ignore = shutil.ignore_patterns(*ignored, "local", ".venv")
                shutil.copytree(project, image, ignore=ignore, dirs_exist_ok=True)
                (image / "conf/local").mkdir()  # its .gitkeep is not left out
            elif instruction == "CMD":
                activated.run(shlex.join(re.findall(r'"(.*?)"', rest)))
        assert_ran(image)

    @staticmethod
    def _instructions(dockerfile: Path) -> Iterator[tuple[str, str]]:
        text = dockerfile.read_text().replace("\\\n", " ")
        for line in text.splitlines():
            if line.strip() and not line.startswith("#"):
                word, _, rest = line.partition(" ")
                assert word in INSTRUCTIONS
                yield word, rest


def test_the_readmes_name_uv_and_pip() -> None:
    for readme in (STARTER / "README.md", TEMPLATE / "README.md"):
        text = readme.read_text()
        assert 'pip install -e ".[dev]"' in text or "pip install -e ." in text, readme
        assert "uv sync" in text, readme
