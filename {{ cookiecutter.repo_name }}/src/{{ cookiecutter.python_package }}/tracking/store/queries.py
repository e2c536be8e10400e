"""Requests that take more than one call of MLflow's client; each may be repeated as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from ..names import FOR_MODELS, METRICS_PER_REQUEST, Tag
from ..redaction import redact
from .errors import TrackingError, deleted_experiment

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUNS_PER_REQUEST = 50_000  # the most that MLflow allows
MOST_SEARCHED = 10_000  # of the newest runs of an experiment, for one that has certain keys
# By key, its points as (timestamp, step, value): MLflow sorts them in this order.
History = dict[str, list[tuple[int, int, float]]]
Wanted = Mapping[str, Callable[[str], bool]]  # by name, whether a key is looked for

# The newest runs of an experiment are looked through in parts: as a rule the first one is enough.
# A run may have hundreds of parameters and metrics, and a tracking server sends all of them.
FIRST_PART, LARGEST_PART = 20, 500
NEWEST_FIRST = "attributes.start_time DESC"
READERS = 8  # requests at once, where the history of each key is one
# MLflow's SQL stores keep an infinity as the largest double of its sign.
_LARGEST = math.nextafter(math.inf, 0)


def experiment_id(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """The id of the experiment; it is created if there is none; an error if it is deleted."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifacts, {Tag.EXPERIMENT_KIND: FOR_MODELS})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return experiment_id(client, name, artifacts)  # another process was faster
    if experiment.lifecycle_stage == "deleted":
        raise deleted_experiment(experiment)
    return experiment.experiment_id


def delete_tag(client: MlflowClient, run_id: str, key: str) -> None:
    """Remove a tag of a run, if the run has that tag."""
    if key in client.get_run(run_id).data.tags:  # an earlier try may have removed the tag
        try:
            client.delete_tag(run_id, key)
        except Exception:
            if key in client.get_run(run_id).data.tags:  # still there: no other process removed it
                raise


def get_run(client: MlflowClient, run_id: str, named_by: str) -> Run:
    """A run; ``named_by`` says who gave its id, for the error if it is missing or deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        missing = error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
        if not named_by or not missing:
            raise
        raise TrackingError(
            f"The MLflow store {redact(client.tracking_uri)} has no run {run_id!r}, which"
            f" {named_by} names; give the id of a run in this store, or none for a new run."
        ) from None
    if named_by and run.info.lifecycle_stage == "deleted":
        raise TrackingError(
            f"The MLflow run {run_id!r}, which {named_by} names, is deleted; restore it with"
            f" `mlflow runs restore --run-id {run_id}`, or give none for a new run."
        )
    return run


def search_runs(client: MlflowClient, search: str, experiment: str, newest: int) -> list[Run]:
    """The runs that a filter finds, in one or all experiments, the oldest or so many newest."""
    ids = [experiment] if experiment else list(_experiments(client))
    order = [f"attributes.start_time {'DESC' if newest else 'ASC'}"]
    return list(client.search_runs(ids, search, 1, newest or RUNS_PER_REQUEST, order))


def top_level_runs(  # noqa: PLR0913
    client: MlflowClient,
    search: str,
    experiment: str,
    count: int,
    order: str,
    *,
    with_metrics: bool = False,
) -> list[Run]:
    """The first so many runs that a filter finds and that are nested in no other, or fewer.

    ``with_metrics``: but for those without any, as the run around those of a sweep.
    """
    found: list[Run] = []
    token, sizes = None, chain((min(count, LARGEST_PART), FIRST_PART), repeat(LARGEST_PART))
    while len(found) < count:
        page = client.search_runs([experiment], search, 1, next(sizes), [order], token)
        found += [
            run
            for run in page
            if Tag.PARENT_RUN not in run.data.tags and (run.data.metrics or not with_metrics)
        ]
        token = page.token
        if not token:
            break
    return found[:count]


def _experiments(client: MlflowClient) -> Iterator[str]:
    """The ids of all experiments, which MLflow (3.17) gives by the thousand."""
    token, is_last = None, False
    while not is_last:
        page = client.search_experiments(page_token=token)
        yield from (experiment.experiment_id for experiment in page)
        token = page.token
        is_last = not token


def last_steps(client: MlflowClient, run_id: str) -> dict[str, int]:
    """The highest step of every key that the run has."""
    store = client._tracking_client.store
    if hasattr(store, "ManagedSessionMaker"):
        # 0.6 ms: MLflow's get_run() takes 4, for the run's tags, parameters, datasets and models.
        from mlflow.store.tracking.dbmodels.models import SqlLatestMetric as Row

        with store.ManagedSessionMaker() as session:
            query = session.query(Row.key, Row.step).filter(Row.run_uuid == run_id)
            if found := {key: step for key, step in query}:
                return found
    return {metric.key: metric.step for metric in client.get_run(run_id).data._metric_objs}


def last_points(run: Run) -> dict[str, tuple[float, int]]:
    """The value and the step of the last point of every key that the run has."""
    return {metric.key: (_restored(metric.value), metric.step) for metric in run.data._metric_objs}


def newest_with(
    client: MlflowClient, experiment: str, wanted: Wanted, finished: bool
) -> dict[str, str]:
    """By name, the newest run that has a key which is wanted, of any or one status.

    Those are left out that none of the ``MOST_SEARCHED`` newest runs of the experiment has.
    """
    found: dict[str, str] = {}
    for run_id, keys in _newest_runs(client, experiment, MOST_SEARCHED, finished):
        for name, is_wanted in wanted.items():
            if name not in found and any(map(is_wanted, keys)):
                found[name] = run_id
        if len(found) == len(wanted):
            break
    return found


def _newest_runs(
    client: MlflowClient, experiment: str, most: int, finished: bool
) -> Iterator[tuple[str, Iterable[str]]]:
    """The id and the keys of each run, the newest first. MLflow's filters find whole keys only."""
    store = client._tracking_client.store
    if hasattr(store, "ManagedSessionMaker"):
        yield from _query_newest(store, experiment, most, finished)
        return
    token, size = None, FIRST_PART
    order = [NEWEST_FIRST]
    search = "attributes.status = 'FINISHED'" if finished else ""
    while most > 0:
        runs = client.search_runs([experiment], search, 1, min(size, most), order, token)
        yield from ((run.info.run_id, run.data.metrics) for run in runs)
        most, size, token = most - len(runs), LARGEST_PART, runs.token
        if not token:
            return


def _query_newest(
    store: Any, experiment: str, most: int, finished: bool
) -> Iterator[tuple[str, Iterable[str]]]:
    """As ``_newest_runs``, from an SQL store, without parameters and tags."""
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlRun

    with store.ManagedSessionMaker() as session:
        query = session.query(SqlRun.run_uuid).filter(
            SqlRun.experiment_id == int(experiment), SqlRun.lifecycle_stage == "active"
        )
        query = query.filter(SqlRun.status == "FINISHED") if finished else query
        newest = query.order_by(SqlRun.start_time.desc(), SqlRun.run_uuid).limit(most)
        ids = [run_id for (run_id,) in newest]
        later = range(FIRST_PART, len(ids), LARGEST_PART)
        for part in (ids[:FIRST_PART], *(ids[first : first + LARGEST_PART] for first in later)):
            keys: dict[str, list[str]] = {run_id: [] for run_id in part}
            rows = session.query(SqlLatestMetric.run_uuid, SqlLatestMetric.key)
            for run_id, key in rows.filter(SqlLatestMetric.run_uuid.in_(list(keys))):
                keys[run_id].append(key)
            yield from keys.items()


def histories(client: MlflowClient, run_id: str, start: str) -> History:
    """All points of all keys of the run that begin with ``start``."""
    from concurrent.futures import ThreadPoolExecutor

    store = client._tracking_client.store
    if hasattr(store, "ManagedSessionMaker"):
        found = _query(store, run_id, start)
        if not found:
            client.get_run(run_id)  # raises if there is none
        return found
    keys = [key for key in last_steps(client, run_id) if key.startswith(start)]

    def read(key: str) -> list[tuple[int, int, float]]:
        points = client.get_metric_history(run_id, key)
        return [(point.timestamp, point.step, _restored(point.value)) for point in points]

    with ThreadPoolExecutor(READERS) as readers:  # MLflow's REST API has one key a request
        return dict(zip(keys, readers.map(read, keys), strict=True))


def _query(store: Any, run_id: str, start: str) -> History:
    """As ``histories``, from an SQL store: one query, without MLflow's object for each row."""
    from mlflow.store.tracking.dbmodels.models import SqlMetric as Row

    found: History = {}
    with store.ManagedSessionMaker() as session:
        query = (
            session.query(Row.key, Row.timestamp, Row.step, Row.value, Row.is_nan)
            .filter(Row.run_uuid == run_id, Row.key.startswith(start, autoescape=True))
            .order_by(Row.key, Row.timestamp, Row.step, Row.value)
        )
        for key, timestamp, step, value, is_nan in query.yield_per(METRICS_PER_REQUEST):
            if key.startswith(start):  # SQLite's LIKE ignores case
                point = (timestamp, step, math.nan if is_nan else _restored(value))
                found.setdefault(key, []).append(point)
    return found


def _restored(value: float) -> float:
    """The value as it was saved; each NaN is the same object, so that equal points are equal."""
    if math.isnan(value):
        return math.nan
    return math.copysign(math.inf, value) if abs(value) == _LARGEST else value
