"""What the tests of adopting share: projects that are there, and the command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from helpers import KEDRO, STARTER, Project, run_command

TOOL = (sys.executable, "-m", "kedro_mlflow_metrics_starter")
GIT = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "core.autocrlf=false")


def tool(
    *arguments: str | Path, cwd: Path = STARTER, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Call the command as it lies in this repository."""
    return subprocess.run(
        [*TOOL, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(STARTER / "src"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def adopt(path: Path, *options: str) -> str:
    """Bring metrics tracking to a project; returns what the command says."""
    done = tool("adopt", path, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def refused(path: Path, *options: str) -> str:
    """The sentence in which the command refuses; nothing of the project is changed."""
    before = snapshot(path)
    done = tool("adopt", path, *options)
    assert snapshot(path) == before
    assert (done.returncode, done.stdout) == (1, ""), done.stdout + done.stderr
    assert done.stderr.startswith("Refused: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def kedro_new(folder: Path, tools: str = "none") -> Path:
    """A project of Kedro's own template, with these of its tools."""
    run_command(
        *(KEDRO, "new", "--name=Shuttle Price", f"--tools={tools}", "--example=n"),
        "--telemetry=no",
        cwd=folder,
    )
    return folder / "shuttle-price"


def commit(path: Path) -> None:
    """All of the project as it is, in its git repository."""
    run_command(*GIT, "init", "--quiet", cwd=path)
    run_command(*GIT, "add", "--all", cwd=path)
    run_command(*GIT, "commit", "--quiet", "--message=All", cwd=path)


def changes(path: Path) -> tuple[list[str], list[str]]:
    """The lines that git finds deleted and added in files that were there."""
    diff = run_command(*GIT, "diff", "--unified=0", "--no-color", cwd=path).stdout
    lines = [line for line in diff.split("\n") if not line.startswith(("---", "+++"))]
    deleted = [line[1:] for line in lines if line.startswith("-")]
    return deleted, [line[1:] for line in lines if line.startswith("+")]


def snapshot(path: Path) -> dict[str, bytes]:
    """Every file of a project, git's own aside."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and ".git" not in file.parts and "__pycache__" not in file.parts
    }


def copy_of(path: Path, folder: Path) -> Path:
    """A copy of a project, to change."""
    return Path(shutil.copytree(path, folder / path.name, symlinks=True))


class Adopted(Project):
    """A project that is there, wherever its package is."""

    def __init__(self, path: Path, source: str, package: str) -> None:
        self.path, self.source, self.package = path, path / source, package
        self.where = source
        self.store, self.outbox = path / "mlflow.db", path / "mlflow-spool.db"

    def environment(self, **more: str) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": str(self.source), **more}
