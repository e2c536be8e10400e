"""Resolves and opens the MLflow run of a Kedro run: in its store or, in an outage, the outbox."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..config import MlflowConfig
from ..names import OUTBOX_FILE, Tag
from ..process.liveness import is_gone, machine
from ..process.state import gc_paused_for_import, process_state
from ..redaction import redact
from ..store.errors import StoreUnavailableError, as_tracking_error, reason
from ..store.mlflow_store import MlflowStore, store_at
from .outbox import Outbox
from .route import Destination, breaker_of

if TYPE_CHECKING:
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

# For how many seconds a store may not answer, all in all, when a run starts.
START_SECONDS = 8.0


@dataclass(frozen=True)
class Resolved:
    """Which MLflow run a Kedro run uses: an external one, named by ``named_by``, or a new one."""

    tracking_uri: str
    run_id: str | None = None
    named_by: str = ""


def resolve(
    tracking_uri: str,
    run_params: Mapping[str, Any],
    environment: Mapping[str, str],
    active: tuple[str, str] | None,
) -> Resolved:
    """Decide which MLflow run a Kedro run uses.

    In this order: ``mlflow_run_id`` among the runtime parameters, the environment's
    ``MLFLOW_RUN_ID``, the run (store, id) that the caller has made active, else a new one.
    """
    if run_id := (run_params.get("runtime_params") or {}).get("mlflow_run_id"):
        return Resolved(tracking_uri, str(run_id), "the runtime parameter mlflow_run_id")
    if run_id := environment.get("MLFLOW_RUN_ID"):
        return Resolved(tracking_uri, run_id, "the environment's MLFLOW_RUN_ID")
    return Resolved(*active, "the active run") if active else Resolved(tracking_uri)


def open_destination(  # noqa: PLR0913
    config: MlflowConfig,
    resolved: Resolved,
    outbox: Outbox,
    tags: Mapping[str, str] | None,
    catalog_runs: Collection[str],
    *,
    user: object,
) -> tuple[Destination, Run] | tuple[None, None]:
    """Open the resolved run: in its store or, if that does not answer, in the outbox.

    A run that the catalog names and that is not there is an error. No tags: no run is needed.
    Unless an error is raised, the process is set for the store, in the name of ``user``.
    """
    store = store_at(resolved.tracking_uri)
    try:
        with _tracking(store, config.credentials, user):
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
    with _tracking(outbox.store, config.credentials, user):
        if tags is None:
            return None, None
        belongs = replace(outbox, external=bool(resolved.run_id)).target_tags(resolved.run_id)
        run = _new_run(outbox.store, outbox, {**tags, **belongs})
        return Destination(outbox.store.uri, run.info.run_id), run


def find_experiment(config: MlflowConfig) -> str:
    """The id of the project's experiment; the store and the experiment are made, if need be."""
    store = store_at(config.tracking_uri)
    with store.deadline(START_SECONDS):
        store.open()
        return store.experiment_id(config.experiment)


@contextmanager
def _tracking(store: MlflowStore, credentials: Mapping[str, str], user: object) -> Iterator[None]:
    """With the store open and the process set for it; it stays so, unless something fails."""
    state = process_state()
    deadline = store.deadline(START_SECONDS)
    with as_tracking_error(store.uri), gc_paused_for_import(), deadline:
        store.open()
        try:
            # The first request needs the credentials.
            state.begin_tracking(store.uri, credentials, user)
            yield  # TrackedRun.close() undoes it, also after Ctrl-C
        except Exception:
            state.end_tracking(user)
            raise


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
    return store.create_run(experiment, tags, outbox.run_name, is_new=True)


def _close_dead_runs(store: MlflowStore, experiment: str, ended: Collection[str]) -> None:
    """Close as KILLED what is RUNNING, whose process is gone, and whose end does not wait here."""
    search = f"attributes.status = 'RUNNING' and tags.`{Tag.MACHINE}` = '{machine()}'"
    for run in store.search_runs(search, experiment):
        run_id = run.info.run_id
        if run_id in ended or not is_gone(run.data.tags):
            continue
        # Asked again: it may have ended well since.
        if store.get_run(run_id).info.status == "RUNNING":
            store.log_params_and_tags(run_id, tags={Tag.ERROR: "The process was killed."})
            store.end_run(run_id, "KILLED", time.time_ns() // 1_000_000)
            logger.warning("The MLflow run %s, whose process is gone, is KILLED.", run_id)
