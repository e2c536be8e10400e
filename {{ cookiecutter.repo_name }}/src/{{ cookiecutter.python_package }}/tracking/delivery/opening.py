"""Opens the MLflow run of a Kedro run: in its target store or, in an outage, in the outbox."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..config import MlflowConfig
from ..names import OUTBOX_FILE, Tag
from ..process.liveness import is_gone
from ..process.state import gc_paused_for_import, process_state
from ..redaction import redact
from ..store.client import require_mlflow
from ..store.errors import StoreUnavailableError, as_tracking_error, reason
from ..store.mlflow_store import MlflowStore, store_at
from .outbox import Outbox
from .route import Destination, breaker_of

if TYPE_CHECKING:
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

# For how many seconds a store may not answer, all in all, when a run starts.
START_SECONDS = 8.0
# How many RUNNING runs, the newest of an experiment, are looked at for dead ones.
MOST_RUNNING = 50


@dataclass(frozen=True)
class Resolved:
    """Which MLflow run a Kedro run uses: an external one, named by ``named_by``, or a new one."""

    tracking_uri: str
    run_id: str | None = None
    named_by: str = ""


def open_destination(
    config: MlflowConfig,
    resolved: Resolved,
    outbox: Outbox,
    tags: Mapping[str, str] | None,
    catalog_runs: Collection[str],
) -> tuple[Destination, Run] | tuple[None, None]:
    """Open the resolved run: in its store or, if that does not answer, in the outbox.

    A run that the catalog names and that is not there is an error. No tags: no run is needed.
    """
    store = store_at(resolved.tracking_uri)
    try:
        with _tracking(store, config.credentials):
            for run_id in catalog_runs:
                store.get_run(run_id, "the catalog")
            if tags is None:
                return None, None
            if resolved.run_id:
                run = store.get_run(resolved.run_id, resolved.named_by)
                return Destination(store.uri, resolved.run_id, replace(outbox, external=True)), run
            run = _new_run(store, outbox, tags, _spooled_targets(outbox))
            return Destination(store.uri, run.info.run_id, outbox), run
    except StoreUnavailableError as error:
        if config.on_outage != "spool":
            raise
        logger.warning(
            f"The MLflow store {redact(store.uri)} can't be reached ({error.reason}). The run is"
            f" written to {OUTBOX_FILE}, for `kedro metrics sync`."
        )
        breaker_of(store.uri).record_failure(error)
    with _tracking(outbox.store, config.credentials):
        if tags is None:
            return None, None
        belongs = replace(outbox, external=bool(resolved.run_id)).target_tags(resolved.run_id)
        run = _new_run(outbox.store, outbox, {**tags, **belongs})
        return Destination(outbox.store.uri, run.info.run_id), run


@contextmanager
def _tracking(store: MlflowStore, credentials: Mapping[str, str]) -> Iterator[None]:
    """With the store open and the process set for it; it stays so, unless something fails."""
    state = process_state()
    deadline = store.deadline(START_SECONDS)
    with as_tracking_error(store.uri), gc_paused_for_import(), deadline, ExitStack() as undo:
        require_mlflow(store.uri)
        store.open()
        state.begin_tracking(store.uri, credentials)  # the first request needs the credentials
        undo.callback(state.end_tracking)
        yield
        undo.pop_all()  # TrackedRun.close() undoes it


def _spooled_targets(outbox: Outbox) -> set[str]:
    """The target runs whose end may wait in the outbox."""
    waiting = outbox.waiting_runs()
    if waiting:
        number = len(waiting)
        logger.info("%s has %d run(s) that wait for `kedro metrics sync`.", OUTBOX_FILE, number)
    return {run.data.tags.get(Tag.TARGET_RUN, "") for run in waiting}


def _new_run(
    store: MlflowStore, outbox: Outbox, tags: Mapping[str, str], ended: Collection[str] = ()
) -> Run:
    experiment = store.experiment_id(outbox.experiment)
    try:
        _close_dead_runs(store, experiment, ended)
    except Exception as error:  # whatever it is, the run that begins is not to blame
        logger.warning("Dead MLflow runs were not looked for: %s", reason(error))
    return store.create_run(experiment, tags, outbox.run_name)


def _close_dead_runs(store: MlflowStore, experiment: str, ended: Collection[str]) -> None:
    """Close as KILLED what is RUNNING, whose process is gone, and whose end does not wait here."""
    # By status alone: a condition on a tag makes MLflow (3.17) go through that tag of all runs,
    # which took 190 ms with 22,000 of them; without one it is 3 ms more than with none.
    for run in store.running_runs(experiment, MOST_RUNNING):
        run_id = run.info.run_id
        if run_id in ended or not is_gone(run.data.tags):
            continue
        # Asked again: it may have ended well since.
        if store.get_run(run_id).info.status == "RUNNING":
            store.log_params_and_tags(run_id, tags={Tag.ERROR: "The process was killed."})
            store.end_run(run_id, "KILLED", time.time_ns() // 1_000_000)
            logger.warning("The MLflow run %s, whose process is gone, is KILLED.", run_id)
