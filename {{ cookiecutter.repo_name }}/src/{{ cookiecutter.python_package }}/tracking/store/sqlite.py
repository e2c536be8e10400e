"""An SQLite store: made whole or not at all, checked before MLflow changes it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from ..names import OUTBOX_TABLE
from ..scanning.uris import sqlite_uri
from .errors import TrackingError
from .schema import CREATE_SECONDS, Schema, mismatch, settled, versions

if TYPE_CHECKING:
    import sqlite3

OWNER_ONLY = 0o600
# For how many seconds another process may hold the store locked.
STORE_BUSY_SECONDS = 2.0


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
    schema = settled(partial(_schema, path))
    if schema.is_current:
        return None
    return mismatch(schema, "run `kedro metrics upgrade`, which saves a copy", "move the file away")


def has_tables(path: Path) -> bool:
    """Whether the file has tables of MLflow's, or of anybody else but the outbox."""
    if not path.exists():
        return False
    ours = f"name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name != '{OUTBOX_TABLE}'"
    with closing(_open(path)) as database:
        found = database.execute(f"SELECT count(*) FROM sqlite_master WHERE {ours}").fetchone()
        return bool(found[0])


def _schema(path: Path) -> Schema:
    with closing(_open(path)) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = frozenset(name for (name,) in names)
        row = None
        if "alembic_version" in tables:
            row = database.execute("SELECT version_num FROM alembic_version").fetchone()
        return Schema(row[0] if row else None, tables)


def _open(path: Path, seconds: float = STORE_BUSY_SECONDS) -> sqlite3.Connection:
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


def upgrade(path: Path) -> Path | None:
    """Migrate an older MLflow's store; returns the copy made before, None if it is up to date.

    Raises:
        TrackingError: It is not a store of an older MLflow; or the migration failed, and the file
            is as it was.
    """
    from mlflow.store.db.utils import _upgrade_db
    from sqlalchemy import create_engine

    with locked(path, f"another process is making or upgrading {path}; try again."):
        schema = _schema(path)
        if schema.is_current:
            return None
        if not schema.is_mlflows or schema.version not in versions():
            raise TrackingError(f"{path}: {mismatch(schema, '', 'nothing was changed')}.")
        # An earlier copy stays: a power cut may have left half an upgrade in the file itself.
        names = chain([schema.version], (f"{schema.version}-{number}" for number in count(2)))
        copies = (path.with_name(f"{path.stem}-{name}{path.suffix}") for name in names)
        saved = next(copy for copy in copies if not copy.exists())
        _copy(path, saved)
        engine = create_engine(sqlite_uri(path))
        try:
            _upgrade_db(engine)
        except BaseException as error:
            engine.dispose()
            _copy(saved, path)
            if not isinstance(error, Exception):  # Ctrl-C
                raise
            raise TrackingError(
                f"{path} could not be upgraded, and is as it was: {error}"
            ) from None
        engine.dispose()
        return saved


def _copy(source: Path, target: Path) -> None:
    """Copy a database as it is now, also while a process writes to it."""
    create_private(target, like=source)
    with closing(_open(source)) as old, closing(_open(target)) as new:
        old.backup(new)


def create_private(path: Path, like: Path | None = None) -> None:
    """Create a file for its owner alone, or for those who may use ``like``, if that is there.

    Whatever the umask is. SQLite's own files beside it, such as ``-journal``, get its mode
    (https://www.sqlite.org/src/file/src/os_unix.c, findCreateFileMode).
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(OSError):  # the file exists; or SQLite will say what is wrong
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
    with closing(_open(lock, STORE_BUSY_SECONDS if busy else CREATE_SECONDS)) as database:
        try:
            database.execute("BEGIN EXCLUSIVE")
        except Exception as error:
            if busy and "locked" in str(error):
                raise TrackingError(busy) from None
            raise
        yield
        database.execute("ROLLBACK")
