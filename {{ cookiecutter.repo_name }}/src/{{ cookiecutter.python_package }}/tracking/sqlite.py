"""An SQLite store: made whole or not at all, checked before MLflow changes it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import TrackingError, reason
from .patience import AT_START, is_passing, patiently
from .redaction import redact

if TYPE_CHECKING:
    import sqlite3

# For how many seconds another process may take to make the store, and may hold it locked.
PATIENCE, LOCKED = 120.0, 2.0
# MLflow makes its tables version by version: one that stays for so long is a version.
STILL = 3.0


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite store; None for any other store."""
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(path) if uri.startswith("sqlite:///") and path != ":memory:" else None


def prepare(uri: str) -> None:
    """Make the store, if it is an SQLite file that is not there; check the one that is.

    MLflow would make folders that are not there, try for 100 s, crash where several processes
    make the tables, leave a half of them where one is interrupted, and turn the store of an
    older version, which somebody may be using, into one of its own.

    Raises:
        TrackingError: The store can't be opened or written, or is another MLflow version's.
        sqlite3.OperationalError: Another process holds it locked.
    """
    path = sqlite_path(uri)
    if path is None:
        return
    problem = None
    if not path.parent.is_dir():
        problem = f"the folder {path.parent} does not exist"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        problem = f"there is no permission to write {path}"
    else:
        try:
            problem = patiently(lambda: _make_or_compare(path), AT_START)
        except Exception as error:
            if is_passing(error):
                raise
            problem = reason(error)  # "file is not a database"
    if problem:
        raise TrackingError(
            f"The MLflow store {redact(uri)} can't be opened: {problem};"
            " mend that, or set another 'tracking_uri' in mlflow.yml."
        )


def _make_or_compare(path: Path) -> str | None:
    """What is wrong with the store, if anything is."""
    if _is_empty(path):
        _make(path)
        return None
    version = _version(path)
    if version == _versions()[0]:
        return None
    still = time.monotonic() + STILL
    while time.monotonic() < still:  # another process may be at it: `mlflow ui`, say
        time.sleep(0.1)
        before, version = version, _version(path)
        if version == _versions()[0]:
            return None
        if version != before:
            still = time.monotonic() + STILL
    if version is None:
        return "it has other tables than MLflow's, or half of them; move the file away"
    import mlflow

    if version in _versions():
        return (
            f"its tables ({version}) are of an older MLflow than this one ({mlflow.__version__});"
            f" save a copy and run `mlflow db upgrade sqlite:///{path}`"
        )
    return (
        f"its tables ({version}) are of a newer MLflow than this one ({mlflow.__version__});"
        " run `pip install --upgrade mlflow`"
    )


def _is_empty(path: Path) -> bool:
    if not path.exists():
        return True
    with closing(_open(path)) as database:
        return not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _version(path: Path) -> str | None:
    """The version of MLflow's tables, as its migrations call it; None where there is none."""
    import sqlite3

    with closing(_open(path)) as database:
        try:
            row = database.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            row = None
        return row[0] if row else None


def _versions() -> list[str]:
    """All versions of the tables that this MLflow knows, its own first."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    scripts = ScriptDirectory.from_config(_get_alembic_config(""))
    return [script.revision for script in scripts.walk_revisions()]


def _open(path: Path, seconds: float = LOCKED) -> sqlite3.Connection:
    import sqlite3

    return sqlite3.connect(path, timeout=seconds, isolation_level=None)


def _make(path: Path) -> None:
    """Make the store elsewhere, and put it in its place when it is whole."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with locked(path):
        if not _is_empty(path):  # another process was faster
            return
        for left in path.parent.glob(f".{path.name}-new*"):  # of a process that was killed
            left.unlink()
        new = path.with_name(f".{path.name}-new")
        store = SqlAlchemyStore(f"sqlite:///{new.as_posix()}", "mlruns")
        store.engine.dispose()
        os.replace(new, path)


@contextmanager
def locked(path: Path, seconds: float = PATIENCE) -> Iterator[None]:
    """One process at a time, on any system: the lock is SQLite's own, and ends with its process.

    Raises:
        sqlite3.OperationalError: Another process has had it for so many seconds.
    """
    lock = path.with_name(f".{path.name}-lock")
    with closing(_open(lock, seconds)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield
        database.execute("ROLLBACK")
