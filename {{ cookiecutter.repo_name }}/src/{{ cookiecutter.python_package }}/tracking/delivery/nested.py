"""Runs beside the one of a Kedro run that have to end with it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..names import Tag
from ..process.active_runs import LeftRun, end_system_metrics
from ..process.state import process_state
from ..store.errors import reason
from ..store.mlflow_store import store_at
from .outbox import Outbox, RunEnd, spool_store
from .route import PROBE_SECONDS, Destination, Route

if TYPE_CHECKING:
    from mlflow.entities import RunInfo

logger = logging.getLogger(__name__)


def end_nested(
    runs: Sequence[LeftRun], info: RunInfo, destination: Destination, status: str, end_time: int
) -> None:
    """End the runs that were begun within a run and are not ended, with its own status.

    One that can't be ended is no failure of the run around it. Worker processes can't tell what
    they have left, so the store is asked.
    """
    if info.run_id in process_state().runs_with_workers:
        runs = [*runs, *_running_within(destination, info.experiment_id)]
    for run in {run.run_id: run for run in runs}.values():
        end_system_metrics(run.run_id)
        try:
            if store_at(run.tracking_uri).get_run(run.run_id).info.status == "RUNNING":
                Route(Destination(run.tracking_uri, run.run_id)).end(RunEnd(status, end_time), True)
        except Exception as error:
            what = f"The nested MLflow run {run.run_id} could not be ended"
            logger.warning("%s: %s", what, reason(error))


def _running_within(parent: Destination, experiment: str) -> list[LeftRun]:
    """The running runs that were begun within a run, or within one of these."""
    store = store_at(parent.tracking_uri)
    found: list[LeftRun] = []
    parents = [parent.run_id]
    try:
        for run_id in parents:
            search = f"tags.`{Tag.PARENT_RUN}` = '{run_id}' and attributes.status = 'RUNNING'"
            children = [run.info.run_id for run in store.search_runs(search, experiment)]
            parents += children  # the loop goes on with them
            found += [LeftRun(store.uri, child) for child in children]
    except Exception as error:
        logger.warning("Nested MLflow runs were not looked for: %s", reason(error))
    return found


def end_created(outbox: Outbox | None, target_uri: str, key: str) -> None:
    """Close as KILLED a run that was interrupted while it was created, if it was created.

    Only a store that is open may have it; any other request would let MLflow make the tables.
    """
    stores = [store_at(target_uri), *([spool_store(outbox.path)] if outbox else [])]
    for store in filter(lambda store: store.is_open, stores):
        try:
            with store.deadline(PROBE_SECONDS):
                for run in store.search_runs(f"tags.`{Tag.IDEMPOTENCY_KEY}` = '{key}'"):
                    store.end_run(run.info.run_id, "KILLED")
        except Exception as error:
            logger.warning("An interrupted MLflow run was not looked for: %s", reason(error))
