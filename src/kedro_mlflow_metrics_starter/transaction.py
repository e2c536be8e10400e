"""Writes several files of a project: all of them or, if the process is killed, none or soon all.

The new files are written to a folder of their own in the project, whose renaming is the moment from
which on the change is made: from then on the files are moved to their places, each by a rename. If
the process is killed meanwhile a second one, the guard, moves the rest; if that is gone, too (the
machine was switched off), the next call of the command does.

Only the standard library: the guard runs this file by its path.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

STAGED = ".kedro-mlflow-metrics.new"  # not yet made; may be deleted
JOURNAL = ".kedro-mlflow-metrics"  # made; what of it is still here has to be moved


class UnfinishedError(Exception):
    """What could not be moved to its place, and why; it waits, and what comes after it."""


def write(root: Path, files: Mapping[str, bytes]) -> None:
    """Write these files, in this order; a folder that is new arrives as a whole.

    Raises:
        OSError: Nothing was written.
        UnfinishedError: Part of it was written.
    """
    with _guard(root):
        try:
            _stage(root, files)
            os.replace(root / STAGED, root / JOURNAL)
        except BaseException:
            shutil.rmtree(root / STAGED, ignore_errors=True)
            raise
        finish(root)


def is_interrupted(root: Path) -> bool:
    """Whether a process that was writing files was killed, and its guard, too."""
    return (root / JOURNAL / "moves.json").is_file()


def finish(root: Path) -> None:
    """Move to their places what is still waiting; delete what was never finished.

    Raises:
        UnfinishedError: A file was changed by others meanwhile, or can't be written; it and those
            after it are left as they are.
    """
    journal = root / JOURNAL
    if is_interrupted(root):
        for number, (target, before) in enumerate(json.loads((journal / "moves.json").read_text())):
            try:
                _move(journal / str(number), root / target, before)
            except OSError as error:
                raise UnfinishedError(f"{target} can't be written ({error.strerror})") from None
        with suppress(OSError):  # another process that finishes, too, was first
            os.replace(journal, root / STAGED)
    shutil.rmtree(journal, ignore_errors=True)
    shutil.rmtree(root / STAGED, ignore_errors=True)


def _stage(root: Path, files: Mapping[str, bytes]) -> None:
    staged = root / STAGED
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    (staged / ".gitignore").write_text("*\n")
    moves = []
    for number, target in enumerate(_targets(root, files)):
        for name, content in files.items():
            place = PurePosixPath(name)
            if target in (place, *place.parents):
                _write(staged / str(number) / place.relative_to(target), content)
        if (root / target).exists():
            shutil.copymode(root / target, staged / str(number))
        if not os.access(_first_existing(root / target), os.W_OK):
            raise PermissionError(f"{root / target} can't be written")
        moves.append((target.as_posix(), _digest(root / target)))
    _write(staged / "moves.json", json.dumps(moves).encode())


def _targets(root: Path, files: Iterable[str]) -> list[PurePosixPath]:
    """What is moved: files, and the topmost of each file's folders that is new."""
    targets: dict[PurePosixPath, None] = {}
    for name in files:
        place = PurePosixPath(name)
        new = [folder for folder in place.parents if not (root / folder).exists()]
        targets[new[-1] if new else place] = None
    return list(targets)


def _first_existing(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _digest(path: Path) -> str | None:
    with suppress(OSError):  # none, or a folder
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return None


def _move(waiting: Path, target: Path, before: str | None) -> None:
    if not waiting.exists():
        return
    if _digest(target) != before or (before is None and target.exists()):
        if not waiting.exists():  # another process has moved it just now
            return
        raise UnfinishedError(f"{target} was changed since")
    with suppress(FileNotFoundError):  # another process was first
        os.replace(waiting, target)


@contextmanager
def _guard(root: Path) -> Iterator[None]:
    """With a process beside this one that finishes if this one is killed."""
    guard = subprocess.Popen(
        [sys.executable, "-I", __file__, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # what ends a terminal's processes does not end it
    )
    try:
        yield
    finally:
        guard.communicate()


if __name__ == "__main__":
    sys.stdin.read()  # until the other process has closed it, or is gone
    finish(Path(sys.argv[1]))
