"""The ends of several things at once: of runs beside the one of a Kedro run, above all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from ..names import Tag
from ..process.active_runs import LeftRun, end_system_metrics
from ..process.state import process_state
from ..store.database import LEAST_SECONDS, within
from ..store.errors import StoreUnavailableError, reason
from ..store.mlflow_store import RETRY_SECONDS, MlflowStore, store_at
from .outbox import Outbox, Request, RunEnd, spool_store
from .route import PROBE_SECONDS, Destination, Route

if TYPE_CHECKING:
    from mlflow.entities import Run, RunInfo

logger = logging.getLogger(__name__)

# The tags by which a run is seen to be one of a Kedro run, or of `kedro metrics open`.
_OF_OTHERS = {Tag.PROCESS, Tag.SHARED}


def end_nested(
    runs: Sequence[LeftRun],
    info: RunInfo,
    destination: Destination,
    end: RunEnd,
    until: float | None,
) -> None:
    """End the runs that were begun within a run and are not ended, as the run itself.

    One that can't be ended is no failure of the run around it. Worker processes can't tell what
    they have left, so the store is asked. It has some seconds for all of it, ``until`` at the
    latest (see ``Route.end``), and none if it is known not to answer.
    """
    deadline = until or time.monotonic() + RETRY_SECONDS
    with store_at(destination.tracking_uri).deadline(deadline - time.monotonic()):
        if info.run_id in process_state().runs_with_workers:
            runs = [*runs, *_running_within(destination, info.experiment_id)]
        for run in {run.run_id: run for run in runs}.values():
            try:
                _end(run, destination, end, deadline)
            except Exception as error:
                what = f"The nested MLflow run {run.run_id} could not be ended"
                logger.warning("%s: %s", what, reason(error))


def _end(run: LeftRun, parent: Destination, end: RunEnd, deadline: float) -> None:
    """End a run, if it has not been ended; in an outage, in the outbox of its parent's store."""
    with suppress(TimeoutError):  # waits for MLflow's requests, with MLflow's timeouts
        within(deadline - time.monotonic(), partial(end_system_metrics, run.run_id))
    route = Route(Destination(run.tracking_uri, run.run_id))
    try:
        with store_at(run.tracking_uri).deadline(max(deadline - time.monotonic(), LEAST_SECONDS)):
            if route.ask(MlflowStore.get_run).info.status == "RUNNING":
                route.end(end, deadline)
    except StoreUnavailableError:
        if parent.outbox is None or run.tracking_uri != parent.tracking_uri:
            raise
        parent.outbox.add(run.run_id, Request(end=end))


def _running_within(parent: Destination, experiment: str) -> list[LeftRun]:
    """The running runs that nodes have begun within a run, or within one of these.

    Those of other Kedro runs, and of `kedro metrics open`, are ended by who has opened them.
    """
    route = Route(Destination(parent.tracking_uri, parent.run_id))
    found: list[LeftRun] = []
    parents = [parent.run_id]
    try:
        for run_id in parents:
            search = f"tags.`{Tag.PARENT_RUN}` = '{run_id}' and attributes.status = 'RUNNING'"
            runs = route.ask(partial(_search, search=search, experiment=experiment))
            children = [run.info.run_id for run in runs if not _OF_OTHERS & run.data.tags.keys()]
            parents += children  # the loop goes on with the children's children
            found += [LeftRun(parent.tracking_uri, child) for child in children]
    except Exception as error:
        logger.warning("Nested MLflow runs were not looked for: %s", reason(error))
    return found


def _search(store: MlflowStore, _: str, search: str, experiment: str) -> list[Run]:
    return store.search_runs(search, experiment)


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


def attempt_all(steps: Iterable[Callable[[], object]]) -> None:
    """Take every step, also if one fails; then raise the first failure."""
    failures = []
    for step in steps:
        try:
            step()
        except Exception as failure:
            failures.append(failure)
    if failures:
        raise failures[0] from None
