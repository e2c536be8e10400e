"""MLflow's tracking store: runs in it, named by plain strings, and what can be wrong with it."""

from __future__ import annotations

import gc
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .points import Points
from .provenance import redact
from .writer import Writer

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

# One request of MLflow's log_batch takes at most so many
# (https://mlflow.org/docs/latest/api_reference/rest-api.html#log-batch).
METRICS_PER_REQUEST = 1000

_imported_in = os.getpid()


class TrackingError(click.ClickException):
    """MLflow's store or run can't be used. The message says why and what to do.

    Click's exception: on the command line it is that one sentence, not a traceback.
    """


@dataclass(frozen=True)
class MlflowRun:
    """An MLflow run, named by plain strings: it means the same in every thread and process.

    Attributes:
        tracking_uri: The store.
        run_id: The run's id in it.
    """

    tracking_uri: str
    run_id: str

    def log(self, metrics: Mapping[str, Points], steps: Mapping[str, Sequence[int]]) -> None:
        """Write points, by key, at these steps; at once, or with others if they are few.

        Raises:
            Exception: What MLflow raised, for these points or for earlier ones.
        """
        points = _entities(metrics, steps)
        few = sum(map(len, steps.values())) < METRICS_PER_REQUEST
        writer = _writers.get(self)
        if writer and few:
            writer.put(list(points))
            return
        self._flush()
        while batch := list(islice(points, METRICS_PER_REQUEST)):
            self.send(batch)

    def send(self, metrics: list[Metric]) -> None:
        """Write points in one request."""
        connect(self.tracking_uri).log_batch(self.run_id, metrics=metrics, synchronous=True)

    def _flush(self) -> None:
        if writer := _writers.get(self):
            writer.flush()

    def last_steps(self) -> dict[str, int]:
        """The highest step of every key that the run has."""
        self._flush()
        metrics = connect(self.tracking_uri).get_run(self.run_id).data._metric_objs
        return {metric.key: metric.step for metric in metrics}

    def histories(self, start: str) -> dict[str, list[tuple[int, float]]]:
        """All points of all keys that begin so, as (step, value), oldest first."""
        self._flush()
        client = connect(self.tracking_uri)
        if hasattr(client._tracking_client.store, "ManagedSessionMaker"):
            return self._query(client._tracking_client.store, start)
        keys = sorted(key for key in self.last_steps() if key.startswith(start))
        return {
            key: [(p.step, p.value) for p in client.get_metric_history(self.run_id, key)]
            for key in keys
        }

    def _query(self, store: Any, start: str) -> dict[str, list[tuple[int, float]]]:
        """The same from an SQL store, in one query and without MLflow's object for each row."""
        from mlflow.store.tracking.dbmodels.models import SqlMetric as Row

        found: dict[str, list[tuple[int, float]]] = {}
        with store.ManagedSessionMaker() as session:
            query = (
                session.query(Row.key, Row.step, Row.value, Row.is_nan)
                .filter(Row.run_uuid == self.run_id, Row.key.startswith(start, autoescape=True))
                .order_by(Row.key, Row.timestamp, Row.step, Row.value)
            )
            for key, step, value, is_nan in query.yield_per(METRICS_PER_REQUEST):
                if key.startswith(start):  # SQLite's LIKE takes capitals for small letters
                    found.setdefault(key, []).append((step, math.nan if is_nan else value))
        return found

    def exists(self) -> bool:
        """Whether the store has this run."""
        from mlflow.exceptions import MlflowException

        try:
            connect(self.tracking_uri).get_run(self.run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True


# By run that this process tracks: small saves are gathered. A forked process has none of it.
_writers: dict[MlflowRun, Writer] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_writers.clear)


def _entities(
    metrics: Mapping[str, Points], steps: Mapping[str, Sequence[int]]
) -> Iterator[Metric]:
    from mlflow.entities import Metric

    # One timestamp a save: MLflow's SQL stores drop a point that they have, so a repeated
    # request repeats nothing.
    now = time.time_ns() // 1_000_000
    for key, points in metrics.items():
        for start in range(0, len(points.values), METRICS_PER_REQUEST):
            part = slice(start, start + METRICS_PER_REQUEST)
            values = points.values[part]
            stamps = points.timestamps[part] if points.timestamps else repeat(None, len(values))
            # An array gives Python's floats for one request at a time.
            values = values.tolist() if hasattr(values, "tolist") else values
            for value, step, stamp in zip(values, steps[key][part], stamps, strict=True):
                yield Metric(key, value, now if stamp is None else stamp, step)


def gather(run: MlflowRun) -> Writer:
    """Gather the small saves to a run in this process, until the writer is closed."""
    _writers[run] = writer = Writer(run.send, METRICS_PER_REQUEST, lambda: _writers.pop(run, None))
    return writer


def active_run() -> MlflowRun | None:
    """The run that this thread has made active with ``mlflow.start_run()``."""
    if "mlflow" not in sys.modules:  # nothing can be active
        return None
    import mlflow  # waits where another thread is still importing it

    run = mlflow.active_run()
    return MlflowRun(mlflow.get_tracking_uri(), run.info.run_id) if run else None


def connect(tracking_uri: str) -> MlflowClient:
    """MLflow's client of a store; one a process."""
    return _connect(tracking_uri, os.getpid())


@lru_cache
def _connect(tracking_uri: str, process: int) -> MlflowClient:
    with importing():
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=tracking_uri)
    engine = getattr(client._tracking_client.store, "engine", None)
    if process != _imported_in and engine is not None:
        # A forked process has inherited the parent's connections; they are not its own
        # (https://docs.sqlalchemy.org/en/20/core/pooling.html#using-connection-pools-with-multiprocessing-or-os-fork).
        engine.dispose(close=False)
    return client


@contextmanager
def importing() -> Iterator[None]:
    """While MLflow and its store are imported: Python's garbage collector waits.

    They are 360,000 objects that stay, and the collector goes through them again and again: it
    took 0.2 s of the 1.3 s of these imports (Python 3.11, MLflow 3.17). Freezing and unfreezing
    calls all that is there old, unseen; each alone would pay later, or keep garbage for ever.
    """
    if not gc.isenabled() or gc.get_freeze_count():  # somebody else has plans
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
        gc.unfreeze()
    finally:
        gc.enable()


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn what goes wrong with a store into one sentence with its URI."""
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        reason = redact(str(error).strip().partition("\n")[0]).rstrip(".")
        raise TrackingError(
            f"The MLflow store {redact(uri)} can't be used: {reason};"
            " mend that, or set another 'tracking_uri' in conf/base/mlflow.yml."
        ) from error


def check_sqlite(uri: str) -> None:
    """Tell before MLflow does: it makes folders that are not there, and tries for 100 s.

    Raises:
        TrackingError: The store is an SQLite file that can't be opened or written.
    """
    import sqlite3  # every Kedro command imports this module

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
            with closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA schema_version")
        except sqlite3.Error as error:
            if "locked" not in str(error):
                problem = str(error)  # "file is not a database", "unable to open database file"
    if problem:
        raise TrackingError(
            f"The MLflow store {redact(uri)} can't be opened: {problem};"
            " mend that, or set another 'tracking_uri' in conf/base/mlflow.yml."
        )


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite store; None for any other store."""
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(path) if uri.startswith("sqlite:///") and path != ":memory:" else None


_defaults: set[str] = set()  # what was set here, and not by the user


def default_store(tracking_uri: str) -> None:
    """Point MLflow's own functions at a store, unless the user has pointed them somewhere."""
    import mlflow

    if not mlflow.is_tracking_uri_set() or mlflow.get_tracking_uri() in _defaults:
        use_store(tracking_uri)
        _defaults.add(tracking_uri)


def use_store(tracking_uri: str | None) -> str | None:
    """Point MLflow's own functions at a store; returns the one they were pointed at before.

    The environment stays as it is: ``mlflow.set_tracking_uri()`` writes to it, and the next
    project in this process would take that for the user's wish.
    """
    import mlflow

    variable = os.environ.get("MLFLOW_TRACKING_URI")
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(tracking_uri)  # type: ignore[arg-type]  # None: as if never set
    set_environment({"MLFLOW_TRACKING_URI": variable})
    return None if before == variable else before


def set_environment(variables: Mapping[str, str | None]) -> None:
    """Set environment variables; None removes one."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def active_runs() -> list[Any]:
    """This thread's stack of active runs; MLflow has no public way to put a run on it."""
    from mlflow.tracking import fluent

    stack: list[Any] = fluent._active_run_stack.get()
    return stack
