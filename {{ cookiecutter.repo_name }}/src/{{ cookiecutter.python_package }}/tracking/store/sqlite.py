"""An SQLite store: made whole or not at all, checked before MLflow changes it."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..names import OUTBOX_TABLE
from ..scanning.uris import sqlite_uri
from .errors import TrackingError

if TYPE_CHECKING:
    import sqlite3

OWNER_ONLY = 0o600
# For how many seconds another process may create the store, and may hold it locked.
CREATE_SECONDS, BUSY_SECONDS = 120.0, 2.0
# MLflow migrates version by version: if the version has not changed for so many seconds, no other
# process is migrating the store.
MIGRATION_QUIET_SECONDS = 3.0


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
    if not has_tables(path):
        _make(path)
        return None
    version = _version(path)
    if version == _versions()[0]:
        return None
    deadline = time.monotonic() + MIGRATION_QUIET_SECONDS
    while time.monotonic() < deadline:  # another process may be at it: `mlflow ui`, say
        time.sleep(0.1)
        before, version = version, _version(path)
        if version == _versions()[0]:
            return None
        if version != before:
            deadline = time.monotonic() + MIGRATION_QUIET_SECONDS
    return _mismatch(path, version)


def _mismatch(path: Path, version: str | None) -> str:
    import mlflow

    if version is None:
        return "it has other tables than MLflow's, or half of them; move the file away"
    if version in _versions():
        return (
            f"its tables ({version}) are of an older MLflow than this one ({mlflow.__version__});"
            f" save a copy and run `mlflow db upgrade {shlex.quote(sqlite_uri(path))}`"
        )
    return (
        f"its tables ({version}) are of a newer MLflow than this one ({mlflow.__version__});"
        " run `pip install --upgrade mlflow`"
    )


def has_tables(path: Path) -> bool:
    """Whether the file has tables of MLflow's, or of anybody else but the outbox."""
    if not path.exists():
        return False
    ours = f"name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name != '{OUTBOX_TABLE}'"
    with closing(_open(path)) as database:
        found = database.execute(f"SELECT count(*) FROM sqlite_master WHERE {ours}").fetchone()
        return bool(found[0])


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


def _open(path: Path, seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    import sqlite3

    return sqlite3.connect(path, timeout=seconds, isolation_level=None)


def _make(path: Path) -> None:
    """Make the tables elsewhere, and copy them in one transaction: all of them or none."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with locked(path):
        if has_tables(path):  # another process was faster
            return
        for left in path.parent.glob(f".{path.name}-new*"):  # of a process that was killed
            left.unlink()
        new = path.with_name(f".{path.name}-new")
        create_private(new)
        store = SqlAlchemyStore(sqlite_uri(new), "mlruns")
        store.engine.dispose()
        create_private(path)
        with closing(_open(path, CREATE_SECONDS)) as database:
            _copy_tables(new, database)
        new.unlink()


def create_private(path: Path, like: Path | None = None) -> None:
    """Create a file for its owner alone, or for those who may use ``like``, if that is there.

    Whatever the umask is. SQLite's own files beside it, such as ``-journal``, get its mode
    (https://www.sqlite.org/src/file/src/os_unix.c, findCreateFileMode).
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(OSError):  # it is there; or SQLite will say what is wrong
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, OWNER_ONLY))
        path.chmod(like.stat().st_mode & 0o777 if like and like.exists() else OWNER_ONLY)


def _copy_tables(source: Path, target: sqlite3.Connection) -> None:
    target.execute("ATTACH ? AS source", (str(source),))
    target.execute("BEGIN IMMEDIATE")
    objects = target.execute(
        "SELECT type, name, sql FROM source.sqlite_master"
        " WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        " ORDER BY type != 'table'"
    ).fetchall()
    for kind, name, sql in objects:
        target.execute(sql)
        if kind == "table":
            # The columns without the generated ones.
            found = target.execute(f'PRAGMA source.table_info("{name}")').fetchall()
            columns = ", ".join(f'"{column[1]}"' for column in found)
            rows = f'SELECT {columns} FROM source."{name}"'
            target.execute(f'INSERT INTO main."{name}" ({columns}) {rows}')
    target.execute("COMMIT")


@contextmanager
def locked(path: Path, busy: str = "") -> Iterator[None]:
    """One process at a time, on any system: the lock is SQLite's own, and ends with its process.

    Another process is waited for; with ``busy``, which is then the error, for 2 s only.
    """
    lock = path.with_name(f".{path.name}-lock")
    create_private(lock, like=path)
    with closing(_open(lock, BUSY_SECONDS if busy else CREATE_SECONDS)) as database:
        try:
            database.execute("BEGIN EXCLUSIVE")
        except Exception:
            if busy:
                raise TrackingError(busy) from None
            raise
        yield
        database.execute("ROLLBACK")
