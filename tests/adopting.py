"""What the tests of adopting share: projects that are there, and the command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from databases import unavailable
from helpers import ALL_COMBINATIONS, KEDRO, STARTER, Project, run_command, wait_until

TOOL = (sys.executable, "-m", "kedro_mlflow_metrics_starter")
GIT = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "core.autocrlf=false")

LAST_COMMIT = "a3138bbd55f80025eb04c95704708c2ab3204810"  # of version 0.1.0


def require_history() -> None:
    """Skip a test for want of the commits of the version before; in CI that is a failure."""
    command = ["git", "cat-file", "-e", LAST_COMMIT]
    if subprocess.run(command, cwd=STARTER, check=False, capture_output=True).returncode:
        unavailable("The version before is not in this clone; clone with the whole history")


def starter_before(folder: Path) -> Path:
    """A clone of the starter at the last commit of the version before."""
    require_history()
    starter = folder / "starter"
    run_command("git", "clone", "--quiet", "--no-checkout", STARTER, starter, cwd=folder)
    run_command("git", "checkout", "--quiet", LAST_COMMIT, cwd=starter)
    return starter


def new_of(starter: Path, folder: Path) -> Path:
    """A project that a clone of the starter makes."""
    new = ("new", f"--starter={starter}", "--name=Lab", "--telemetry=no")
    run_command(KEDRO, *new, cwd=folder)
    return folder / "lab"


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


def refused(path: Path, *options: str, command: str = "adopt") -> str:
    """The sentence in which the command refuses; nothing of the project is changed."""
    before = snapshot(path)
    done = tool(command, path, *options)
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


KILLED = """
import os, signal, sys

left = int(sys.argv.pop(1))
def count(event, arguments):
    global left
    if event == "open" and "w" not in str(arguments[1]):
        return
    if event in os.environ.get("COUNTED", "open os.rename os.mkdir os.remove os.rmdir").split():
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

from kedro_mlflow_metrics_starter import cli, transaction
if os.environ.get("UNGUARDED"):
    from contextlib import nullcontext
    transaction._guard = nullcontext
sys.addaudithook(count)
cli.main()
"""


def killed_at(number: int, path: Path, command: str = "adopt", **environment: str) -> bool:
    """Be killed in a command before this write; False if it has come to its end before."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", KILLED, str(number), command, path, "--force"],
        env={"PYTHONPATH": str(STARTER / "src"), "PATH": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, -9), done.stderr
    return done.returncode == -9


# Of the writes before which a command is killed: one of three, or with `make combinations` each.
STRIDE = 1 if ALL_COMBINATIONS else 3


def assert_as_before_or_finished(
    number: int, before: Path, after: dict[str, bytes], folder: Path, command: str = "adopt"
) -> bool:
    """Be killed in a command on a copy of a project; whether it was, see ``killed_at``."""
    path = copy_of(before, folder / f"killed{number}")
    was_killed = killed_at(number, path, command)
    states = (snapshot(before), after)

    def is_whole() -> bool:
        with suppress(FileNotFoundError):  # the guard is at work
            return snapshot(path) in states and not any(path.glob(".kedro-mlflow-metrics*"))
        return False

    wait_until(is_whole)
    shutil.rmtree(path)
    return was_killed
