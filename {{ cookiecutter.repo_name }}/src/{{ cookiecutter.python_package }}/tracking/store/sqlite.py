"""An SQLite store: made whole or not at all, checked before MLflow changes it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import TrackingError
from .schema import CREATE_SECONDS, Schema, mismatch, settled

if TYPE_CHECKING:
    import sqlite3

# For how many seconds another process may hold the store locked.
BUSY_SECONDS = 2.0


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite store; None for any other store."""
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(path) if uri.startswith("sqlite:///") and path != ":memory:" else None


def make_or_check(path: Path) -> str | None:
    """Make the store, if there is none or an empty file; check the one that is there.

    Returns what is wrong with it. MLflow itself (3.17) would make missing folders, try for
    100 s, crash where several processes make the tables at once, leave half of them where it is
    interrupted, and migrate an older version's store, which others may use, unasked.
    """
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist"
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return f"there is no permission to write {path}"
    if _is_empty(path):
        _make(path)
        return None
    schema = settled(partial(_schema, path))
    if schema.is_current:
        return None
    return mismatch(schema, f"sqlite:///{path}", "move the file away")


def _is_empty(path: Path) -> bool:
    if not path.exists():
        return True
    with closing(_open(path)) as database:
        return not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _schema(path: Path) -> Schema:
    with closing(_open(path)) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = frozenset(name for (name,) in names)
        row = None
        if "alembic_version" in tables:
            row = database.execute("SELECT version_num FROM alembic_version").fetchone()
        return Schema(row[0] if row else None, tables)


def _open(path: Path, seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
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
def locked(path: Path, busy: str = "") -> Iterator[None]:
    """One process at a time, on any system: the lock is SQLite's own, and ends with its process.

    Another process is waited for; with ``busy``, which is then the error, for 2 s only.
    """
    with closing(
        _open(path.with_name(f".{path.name}-lock"), BUSY_SECONDS if busy else CREATE_SECONDS)
    ) as database:
        try:
            database.execute("BEGIN EXCLUSIVE")
        except Exception:
            if busy:
                raise TrackingError(busy) from None
            raise
        yield
        database.execute("ROLLBACK")
