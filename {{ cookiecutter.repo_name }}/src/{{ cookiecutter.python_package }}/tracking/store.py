"""An MLflow run as plain strings, to write to and read from; MLflow's own global state."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any

from .points import Points
from .writer import Writer

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    from .spool import Link, Spool

# One request of MLflow's log_batch takes at most so many
# (https://mlflow.org/docs/latest/api_reference/rest-api.html#log-batch).
METRICS_PER_REQUEST = 1000
READERS = 8  # requests at once, where each key's history is one


@dataclass(frozen=True)
class MlflowRun:
    """An MLflow run, named by plain strings: it means the same in every thread and process.

    Attributes:
        tracking_uri: The store.
        run_id: The run's id in it.
        spool: Where points wait while the store is away; without one, that is an error.
    """

    tracking_uri: str = field(repr=False)
    run_id: str
    spool: Spool | None = None

    def log(self, metrics: Mapping[str, Points], steps: Mapping[str, Sequence[int]]) -> None:
        """Write points, by key, at these steps; at once, or with others if they are few.

        Raises:
            Exception: What MLflow raised, for these points or for earlier ones.
        """
        points = _entities(metrics, steps)
        few = sum(map(len, steps.values())) < METRICS_PER_REQUEST
        writer = _writers.get(self)
        batch = list(islice(points, METRICS_PER_REQUEST))
        if writer and few and writer.put(batch):
            return
        from .client import uncollected

        self._flush()
        is_remote = self.tracking_uri.startswith("http")
        while batch:
            # A row takes MLflow's SQL stores some thirty objects: the collector took a fifth of
            # the time. A server makes them elsewhere, and may keep us waiting.
            with nullcontext() if is_remote else uncollected():
                self.send(batch)
            batch = list(islice(points, METRICS_PER_REQUEST))

    def send(self, metrics: list[Metric]) -> None:
        """Write points in one request."""
        # MlflowClient.log_batch would make each of the entities anew.
        self.link.write(
            lambda client, run_id: client._tracking_client.store.log_batch(run_id, metrics, [], [])
        )

    @property
    def link(self) -> Link:
        """The way to the run's store; one a process."""
        from .spool import Link  # and all that a store takes: kedro's other commands do without

        return _links.get(self) or _links.setdefault(
            self, Link(self.tracking_uri, self.run_id, self.spool)
        )

    def _flush(self) -> None:
        if writer := _writers.get(self):
            writer.flush()

    def last_steps(self) -> dict[str, int]:
        """The highest step of every key that the run has; in an outage, of those spooled."""
        self._flush()
        found: dict[str, int] = {}
        link = self.link
        for answer in (link.ask_if_there(_last_steps), link.ask_spool(_last_steps)):
            for key, step in (answer or {}).items():
                found[key] = max(step, found.get(key, step))
        return found

    def histories(self, start: str) -> dict[str, list[tuple[int, float]]]:
        """All points of all keys that begin so, as (step, value), oldest first.

        Raises:
            Exception: What MLflow raised; it is away, say.
        """
        self._flush()
        found = self.link.ask(lambda client, run_id: _histories(client, run_id, start))
        spooled = self.link.ask_spool(lambda client, run_id: _histories(client, run_id, start))
        for key, points in (spooled or {}).items():  # some may be in both, after a lost answer
            found[key] = sorted({*found.get(key, ()), *points})
        return {key: [(step, value) for _, step, value in found[key]] for key in sorted(found)}

    def exists(self) -> bool:
        """Whether the store has this run."""
        from mlflow.exceptions import MlflowException

        try:
            self.link.ask(lambda client, run_id: client.get_run(run_id))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True


def _last_steps(client: MlflowClient, run_id: str) -> dict[str, int]:
    return {metric.key: metric.step for metric in client.get_run(run_id).data._metric_objs}


# By key, its points as (timestamp, step, value): so sorted, MLflow gives them.
History = dict[str, list[tuple[int, int, float]]]


def _histories(client: MlflowClient, run_id: str, start: str) -> History:
    from concurrent.futures import ThreadPoolExecutor

    store = client._tracking_client.store
    if hasattr(store, "ManagedSessionMaker"):
        found = _query(store, run_id, start)
        if not found:
            client.get_run(run_id)  # raises if there is none
        return found
    keys = [key for key in _last_steps(client, run_id) if key.startswith(start)]

    def read(key: str) -> list[tuple[int, int, float]]:
        points = client.get_metric_history(run_id, key)
        return [(point.timestamp, point.step, point.value) for point in points]

    with ThreadPoolExecutor(READERS) as readers:  # MLflow's REST API has one key a request
        return dict(zip(keys, readers.map(read, keys), strict=True))


def _query(store: Any, run_id: str, start: str) -> History:
    """The same from an SQL store, in one query and without MLflow's object for each row."""
    from mlflow.store.tracking.dbmodels.models import SqlMetric as Row

    found: History = {}
    with store.ManagedSessionMaker() as session:
        query = (
            session.query(Row.key, Row.timestamp, Row.step, Row.value, Row.is_nan)
            .filter(Row.run_uuid == run_id, Row.key.startswith(start, autoescape=True))
            .order_by(Row.key, Row.timestamp, Row.step, Row.value)
        )
        for key, timestamp, step, value, is_nan in query.yield_per(METRICS_PER_REQUEST):
            if key.startswith(start):  # SQLite's LIKE takes capitals for small letters
                point = (timestamp, step, math.nan if is_nan else value)
                found.setdefault(key, []).append(point)
    return found


# By run that this process tracks: small saves are gathered. A forked process has none of it.
_writers: dict[MlflowRun, Writer] = {}
_links: dict[MlflowRun, Link] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_writers.clear)
    os.register_at_fork(after_in_child=_links.clear)


def _entities(
    metrics: Mapping[str, Points], steps: Mapping[str, Sequence[int]]
) -> Iterator[Metric]:
    from mlflow.entities import Metric
    from mlflow.tracking.fluent import get_active_model_id

    model = get_active_model_id()  # as mlflow.log_metric() does
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
                yield Metric(key, value, now if stamp is None else stamp, step, model_id=model)


def gather(run: MlflowRun) -> Writer:
    """Gather the small saves to a run in this process, until the writer is closed."""

    def no_more() -> None:
        if _writers.get(run) is writer:  # and not that of another Kedro run with the same run
            del _writers[run]

    _writers[run] = writer = Writer(run.send, METRICS_PER_REQUEST, no_more)
    return writer


def forget(run: MlflowRun) -> None:
    """The Kedro run is over; what is kept for its MLflow run may go."""
    _links.pop(run, None)


def active_run() -> MlflowRun | None:
    """The run that this thread has made active with ``mlflow.start_run()``."""
    if "mlflow" not in sys.modules:  # nothing can be active
        return None
    import mlflow  # waits where another thread is still importing it

    run = mlflow.active_run()
    return MlflowRun(mlflow.get_tracking_uri(), run.info.run_id) if run else None


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
