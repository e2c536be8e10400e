"""An MLflow run of several Kedro runs: opened before the first, closed after the last.

For an orchestrator whose steps are Kedro runs, in other processes or on other machines: each gets
the run's id, and leaves the run open.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import kedro

from ..config import MlflowConfig
from ..names import Tag
from ..process.mlflow_globals import user_environment
from ..process.state import process_state
from ..provenance import run_name, run_tags, user_tags
from ..store.errors import NO_OUTBOX, TrackingError
from ..store.mlflow_store import MlflowStore, store_at
from .opening import NewRun, create, tracking
from .outbox import RunEnd, choose_outbox, tell_what_waits
from .resolved import Resolved, resolve
from .route import Destination, Route

if TYPE_CHECKING:
    from mlflow.entities import Run

MOST_OPEN = 1000  # of the newest runs that are RUNNING, among which one of a key is looked for


def open_shared(
    config: MlflowConfig,
    pipeline: str = "__default__",
    *,
    name: str = "",
    key: str = "",
    runtime_params: Mapping[str, Any] | None = None,
) -> str:
    """Open an MLflow run, and leave it open, whatever becomes of this process; returns its id.

    Args:
        config: The project's, see ``current_config``.
        pipeline: The pipeline of which the Kedro runs are parts.
        name: The run's name; as for a Kedro run if empty.
        key: Who opens it again with the same key, while it is running, gets the same run: an
            orchestrator may repeat its first step.
        runtime_params: May have ``mlflow_parent_run_id`` and ``mlflow_run_name``.

    Raises:
        TrackingError: The store can't be used, or has no such parent.
    """
    with _open(config) as store:
        if found := _running(store, config.experiment, key):
            return found[0]
        new, resolved = _new(config, pipeline, name, key, dict(runtime_params or {}))
        run_id = str(create(new, store, resolved).info.run_id)
        # MLflow has no request that searches and creates: another process may have been as fast.
        first = next(iter(_running(store, config.experiment, key)), run_id)
        if first != run_id:
            store.call(lambda client: client.delete_run(run_id))
        return first


def close_shared(config: MlflowConfig, run_id: str, status: str) -> Run:
    """End an MLflow run that ``open_shared`` has opened, as FINISHED, FAILED or KILLED.

    What this machine's outbox has of it is sent before. A run that FINISHED has no error any more:
    the step that failed has been repeated.

    Raises:
        TrackingError: The store can't be used, or ``open_shared`` has not opened the run.
    """
    with _open(config) as store:
        if Tag.SHARED not in store.get_run(run_id, "this command").data.tags:
            raise TrackingError(
                f"The MLflow run {run_id!r} was not opened by `kedro metrics open`, and ends with"
                " the Kedro run that has opened it; name a run that was."
            )
        outbox = choose_outbox(config.outbox, config.project_path, store.uri)
        route = Route(Destination(store.uri, run_id, outbox, is_external=True))
        # Also where the run has no error yet: one may wait in the outbox.
        end = RunEnd(status, time.time_ns() // 1_000_000, is_mended=status == "FINISHED")
        route.end(end)
        if outbox and (number := route.count_waiting()) is not None:
            what = f"{number} points of it wait"
            tell_what_waits(outbox, run_id, status, what, config.require_delivery)
        return store.get_run(run_id)


@contextmanager
def _open(config: MlflowConfig) -> Iterator[MlflowStore]:
    store, user = store_at(config.tracking_uri), object()
    with tracking(store, config.credentials, user, NO_OUTBOX):
        yield store
    process_state().end_tracking(user)


def _running(store: MlflowStore, experiment: str, key: str) -> list[str]:
    """The ids of the runs that were opened with this key, the oldest first."""
    if not key:
        return []
    # By status alone: see _close_dead_runs.
    search, within = "attributes.status = 'RUNNING'", store.experiment_id(experiment)
    runs = [
        run.info
        for run in store.search_runs(search, within, MOST_OPEN)
        if run.data.tags.get(Tag.SHARED) == key
    ]
    return [info.run_id for info in sorted(runs, key=lambda info: (info.start_time, info.run_id))]


def _new(
    config: MlflowConfig, pipeline: str, name: str, key: str, runtime_params: dict[str, Any]
) -> tuple[NewRun, Resolved]:
    """What the run is made with. No process is named: the one that opens it ends at once."""
    runtime_params.pop("mlflow_run_id", None)
    environment = {k: v for k, v in user_environment().items() if k != "MLFLOW_RUN_ID"}
    run_params = {
        "pipeline_names": [pipeline],
        "kedro_version": kedro.__version__,
        "runtime_params": runtime_params,
    }
    tags = run_tags(config, run_params, config.project_path) | user_tags(config)
    del tags[Tag.RUNNER], tags[Tag.KEDRO_RUN_ID]  # each Kedro run has its own
    tags[Tag.IDEMPOTENCY_KEY] = uuid.uuid4().hex
    tags[Tag.SHARED] = key or tags[Tag.IDEMPOTENCY_KEY]
    resolved = resolve(config.tracking_uri, run_params, environment, None)
    if resolved.parent_id:
        tags[Tag.PARENT_RUN] = resolved.parent_id
    return NewRun(config.experiment, name or run_name(config, run_params), tags), resolved
