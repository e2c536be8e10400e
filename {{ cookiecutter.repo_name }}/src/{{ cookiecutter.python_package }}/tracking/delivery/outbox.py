"""``Outbox``: where requests wait on disk while their store is unavailable."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..names import OUTBOX_FILE, OUTBOX_TABLE
from ..points import Point
from ..redaction import without_credentials
from ..scanning.uris import sqlite_uri
from ..store.errors import TrackingError
from ..store.mlflow_store import MlflowStore, store_at
from ..store.sqlite import create_private, has_tables

if TYPE_CHECKING:
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

# For how many seconds other processes may hold the file locked.
OUTBOX_BUSY_SECONDS = 30.0
# How many requests are read at once.
READ_AT_ONCE = 200

_TABLE = f"""
CREATE TABLE IF NOT EXISTS {OUTBOX_TABLE} (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    store TEXT NOT NULL,
    run_id TEXT NOT NULL,
    request TEXT NOT NULL
)"""


@dataclass(frozen=True)
class RunEnd:
    """How a run ended: FINISHED, FAILED or KILLED, when (ms since the epoch), with which error.

    No status: the run is an external one, which stays open. ``is_mended``: it has the error of an
    earlier Kedro run, which this one has mended.
    """

    status: str
    time: int
    error: str = ""
    is_mended: bool = False


@dataclass(frozen=True)
class Request:
    """What is to be written to a run: points, parameters or its end; it waits on disk as JSON."""

    points: Sequence[Point] = ()
    params: Mapping[str, str] = field(default_factory=dict)
    end: RunEnd | None = None

    def to_json(self) -> str:
        """The request as text; NaN and infinities as Python's json module writes them."""
        return json.dumps([self.points, self.params, self.end and astuple(self.end)])

    @classmethod
    def from_json(cls, text: str) -> Request:
        """The request of such a text."""
        points, params, end = json.loads(text)
        return cls([Point(*point) for point in points], params, end and RunEnd(*end))


@dataclass(frozen=True)
class Outbox:
    """What waits in a file for one target store. Plain values: it can be pickled.

    A request is there when ``add`` returns, whatever then happens to the process or the machine:
    SQLite syncs the file at each commit (https://www.sqlite.org/pragma.html#pragma_synchronous).
    The same file has the runs that began while their store was unavailable (``spool_store``).
    """

    path: Path
    target_uri: str = field(repr=False)

    def to(self, target_uri: str) -> Outbox:
        """The same file, for another target store."""
        return replace(self, target_uri=target_uri)

    def add(self, run_id: str, request: Request) -> int | None:
        """Keep a request for a run of the target store; returns its id."""
        if not self.path.exists():
            create_private(self.path)
        row = without_credentials(self.target_uri), run_id, request.to_json()
        insert = f"INSERT INTO {OUTBOX_TABLE} (store, run_id, request) VALUES (?, ?, ?)"
        with self._database() as database:
            try:
                return database.execute(insert, row).lastrowid
            except sqlite3.OperationalError as error:
                if "no such table" not in str(error):
                    raise
                database.execute(_TABLE)
                return database.execute(insert, row).lastrowid

    def waiting(self, run_id: str, after: int = 0) -> list[tuple[int, Request]]:
        """The oldest requests for a run, at most ``READ_AT_ONCE`` of them, with their ids."""
        where = "WHERE store = ? AND run_id = ? AND id > ? ORDER BY id LIMIT ?"
        given = without_credentials(self.target_uri), run_id, after, READ_AT_ONCE
        rows, _ = self._execute(f"SELECT id, request FROM {OUTBOX_TABLE} {where}", given)
        return [(row_id, Request.from_json(text)) for row_id, text in rows]

    def all_waiting(self, run_id: str) -> Iterator[Request]:
        """All requests for a run, the oldest first."""
        last = 0
        while rows := self.waiting(run_id, last):
            yield from (request for _, request in rows)
            last = rows[-1][0]

    def runs(self) -> list[tuple[str, str]]:
        """The runs for which something waits, as (store, run id), the oldest first."""
        columns = f"store, run_id FROM {OUTBOX_TABLE} GROUP BY store, run_id ORDER BY min(id)"
        return self._execute(f"SELECT {columns}")[0]

    def remove(self, ids: Collection[int]) -> None:
        """Forget requests, which the target store has confirmed."""
        # At most READ_AT_ONCE at a time; SQLite 3.32 and later take 32,766 variables.
        marks = ", ".join("?" * len(ids))
        self._execute(f"DELETE FROM {OUTBOX_TABLE} WHERE id IN ({marks})", tuple(ids))

    def discard(self, run_id: str) -> int:
        """Forget all that waits for a run; returns how many requests that were."""
        return self._execute(f"DELETE FROM {OUTBOX_TABLE} WHERE run_id = ?", (run_id,))[1]

    def _execute(
        self, statement: str, given: tuple[object, ...] = ()
    ) -> tuple[list[tuple[Any, Any]], int]:
        """The rows that a statement finds, and how many it changes; none where nothing waits."""
        if not self.path.exists():  # SQLite would make the file
            return [], 0
        with self._database() as database:
            try:
                cursor = database.execute(statement, given)
                return cursor.fetchall(), cursor.rowcount
            except sqlite3.OperationalError as error:
                if "no such table" not in str(error):
                    raise
                return [], 0

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=OUTBOX_BUSY_SECONDS)) as database, database:
            yield database


def outbox_candidates(given: str | None, project_path: Path) -> list[Path]:
    """The files in which the outbox may be: the configured one, or in the project, or at home.

    A container often has a project that can't be written; then the outbox is in the user's folder
    for such things (https://specifications.freedesktop.org/basedir-spec/latest/).
    """
    if given:
        return [project_path / os.path.expanduser(given) / OUTBOX_FILE]
    found = [project_path / OUTBOX_FILE]
    digest = hashlib.sha256(str(project_path).encode()).hexdigest()[:8]
    with suppress(RuntimeError):  # a user without a home
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        found.append(state / "kedro-metrics" / f"{project_path.name}-{digest}" / OUTBOX_FILE)
    return found


def choose_outbox(given: str | None, project_path: Path, target_uri: str) -> Outbox | None:
    """The outbox of a run; None, with a warning, if no place for it can be written."""
    paths = outbox_candidates(given, project_path)
    for path in paths:
        folder = next(parent for parent in path.parents if parent.exists())
        if os.access(path if path.exists() else folder, os.W_OK):
            if path != paths[0]:
                logger.info("%s can't be written; the outbox is %s.", paths[0], path)
            return Outbox(path, target_uri)
    logger.warning(
        f"{' and '.join(map(str, paths))} can't be written: an outage of the MLflow store would end"
        " the run. Set 'outbox' in mlflow.yml to a folder that can be written."
    )
    return None


def existing_outboxes(given: str | None, project_path: Path, target_uri: str) -> list[Outbox]:
    """The outboxes of earlier runs."""
    paths = outbox_candidates(given, project_path)
    return [Outbox(path, target_uri) for path in paths if path.exists()]


def tell_what_waits(outbox: Outbox, run_id: str, status: str, what: str, is_error: bool) -> None:
    """Log what waits at a run's end; or raise a TrackingError, where that is one."""
    where = f"{what} in {outbox.path}"
    if is_error:
        raise TrackingError(
            f"The MLflow run {run_id} is {status}, but {where}; 'require_delivery' in mlflow.yml"
            " makes that an error. Run `kedro metrics sync` when the store answers, before the"
            " file is gone."
        )
    logger.warning("The MLflow run %s is %s; %s, for `kedro metrics sync`.", run_id, status, where)


def spool_store(path: Path) -> MlflowStore:
    """The outbox's file as an MLflow store: it has the runs that began without their store."""
    return store_at(sqlite_uri(path))


def spooled_runs(path: Path) -> list[Run]:
    """The runs that began in the outbox, if there are any."""
    if not has_tables(path):
        return []
    store = spool_store(path)
    store.open()
    return store.search_runs()
