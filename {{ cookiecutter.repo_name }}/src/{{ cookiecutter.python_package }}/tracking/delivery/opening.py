"""Resolves and opens the MLflow run of a Kedro run: in its store or, in an outage, the outbox."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..config import MlflowConfig
from ..names import Tag
from ..process.liveness import is_gone, joint_tags
from ..process.state import process_state
from ..redaction import redact, without_credentials
from ..store.client import require_mlflow
from ..store.errors import (
    WAYS_OUT,
    StoreUnavailableError,
    TrackingError,
    as_tracking_error,
    reason,
)
from ..store.mlflow_store import MlflowStore, store_at
from ..store.sqlite import create_private
from .breaker import breaker_of
from .outbox import Outbox, spool_store, spooled_runs
from .resolved import Resolved
from .route import Destination

if TYPE_CHECKING:
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

# For how many seconds, all in all, a store may not answer the start of a run; the second, while the
# store answers other threads of this process: to check a password may take it 5 s a request.
START_SECONDS, BUSY_SECONDS = 8.0, 60.0
# How many RUNNING runs, the newest of an experiment, are looked at for dead ones.
MOST_RUNNING = 50


@dataclass(frozen=True)
class NewRun:
    """What an MLflow run is made with."""

    experiment: str
    name: str
    tags: Mapping[str, str]
    tags_of_user: Mapping[str, str] = field(default_factory=dict)  # also for an external run


def open_destination(  # noqa: PLR0913
    config: MlflowConfig,
    resolved: Resolved,
    outbox: Outbox | None,
    new: NewRun | None,
    catalog_runs: Collection[str],
    *,
    user: object,
) -> tuple[Destination, Run] | tuple[None, None]:
    """Open the resolved run in its store; in an outage, with ``on_outage: spool``, in the outbox.

    A run that the catalog names and that is not there is an error. ``new`` is None if no run is
    needed. Unless an error is raised, the process is set for the store, in the name of ``user``.
    """
    store = store_at(resolved.tracking_uri)
    try:
        with tracking(store, config.credentials, user):
            _adopt_catalogs(store_at(config.tracking_uri), catalog_runs)
            if new is None:
                return None, None
            if resolved.run_id:
                run = _adopt(store, resolved.run_id, resolved.named_by)
                if new.tags_of_user:
                    store.log_params_and_tags(resolved.run_id, tags=new.tags_of_user)
                may_repeat = Tag.SHARED in run.data.tags
                return Destination(store.uri, resolved.run_id, outbox, True, may_repeat), run
            run = create(new, store, resolved, _waiting_runs(outbox))
            breaker_of(store.uri).record_success()  # `open` sends a tracking server no request
            return Destination(store.uri, run.info.run_id, outbox), run
    except StoreUnavailableError as error:
        if config.on_outage != "spool" or outbox is None:
            raise
        logger.warning(
            f"The MLflow store {redact(error.uri)} can't be reached ({error.reason}). The run is"
            f" written to {outbox.path}, for `kedro metrics sync`."
        )
        breaker_of(error.uri).record_failure(error)
        return _open_in_outbox(config, resolved, outbox, new, user)


def _open_in_outbox(
    config: MlflowConfig, resolved: Resolved, outbox: Outbox, new: NewRun | None, user: object
) -> tuple[Destination, Run] | tuple[None, None]:
    create_private(outbox.path)
    spool = spool_store(outbox.path)
    with tracking(spool, config.credentials, user, "; make it writable"):
        if new is None:
            return None, None
        target = {Tag.TARGET_STORE: without_credentials(resolved.tracking_uri)}
        if resolved.run_id:
            target |= {Tag.TARGET_RUN: resolved.run_id, Tag.EXTERNAL: "yes"}
            logger.warning(
                f"The steps that the MLflow run {resolved.run_id} has are not known now: points"
                " without a step are counted from 0."
            )
        # In the outbox the run is this process's own, to be ended, also if its target is external.
        run = create(replace(new, tags={**new.tags, **target}), spool)
        return Destination(spool.uri, run.info.run_id), run


def find_experiment(config: MlflowConfig) -> str:
    """The id of the project's experiment; the store and the experiment are made, if need be."""
    store = store_at(config.tracking_uri)
    with start_deadline(store):
        store.open()
        return store.experiment_id(config.experiment)


@contextmanager
def start_deadline(store: MlflowStore) -> Iterator[None]:
    """All requests within have some seconds together, once MLflow is imported."""
    require_mlflow(store.uri)
    with store.deadline(START_SECONDS, BUSY_SECONDS):
        yield


@contextmanager
def tracking(
    store: MlflowStore, credentials: Mapping[str, str], user: object, ways_out: str = WAYS_OUT
) -> Iterator[None]:
    """Open the store, and point MLflow's own functions at it until the run's end or an error."""
    state = process_state()
    state.termination.wait_if_terminating()
    with as_tracking_error(store.uri, ways_out):
        require_mlflow(store.uri)  # before a turn, in which the store is expected to answer
        with store.turns.take(START_SECONDS), start_deadline(store):
            with state.environment.lent(credentials):  # PGPASSWORD, say
                store.open()
            try:
                # The first request to a tracking server needs the credentials.
                state.begin_tracking(store.uri, credentials, user)
                yield  # TrackedRun.close() calls end_tracking(), also after Ctrl-C
            except Exception:
                state.end_tracking(user)
                raise


def _adopt_catalogs(store: MlflowStore, run_ids: Collection[str]) -> None:
    """Adopt the runs that the catalog names, in mlflow.yml's store, as external runs."""
    if not run_ids:
        return
    with as_tracking_error(store.uri), start_deadline(store):
        if not store.is_open:
            store.open()
        for run_id in run_ids:
            _adopt(store, run_id, "the catalog")


def _adopt(store: MlflowStore, run_id: str, named_by: str) -> Run:
    """An external run, which is not to be taken for dead while this process uses it."""
    run = store.get_run(run_id, named_by)
    breaker_of(store.uri).record_success(is_write=False)
    if run.info.status == "RUNNING" and (tags := joint_tags(run.data.tags)):
        store.log_params_and_tags(run_id, tags=tags)
    return run


def _check_parent(store: MlflowStore, resolved: Resolved, experiment: str) -> None:
    """Raise an error unless a new run of the experiment can be within this one."""
    parent = store.get_run(resolved.parent_id or "", resolved.named_by)
    # MLflow's UI shows a run within another one only where both are in one experiment.
    if parent.info.experiment_id != store.experiment_id(experiment):
        raise TrackingError(
            f"The MLflow run {resolved.parent_id!r}, which {resolved.named_by} names, is not in the"
            f" experiment {experiment!r}; give the id of a run in it, or set its experiment in"
            " mlflow.yml."
        )


def _waiting_runs(outbox: Outbox | None) -> set[str]:
    """The runs of which something, perhaps their end, waits in the outbox."""
    if outbox is None or not outbox.path.exists():
        return set()
    try:
        waiting = {run_id for _, run_id in outbox.runs()}
        begun = spooled_runs(outbox.path)
    except Exception as error:
        logger.warning("%s can't be read: %s", outbox.path, reason(error))
        return set()
    if number := len(waiting) + len(begun):
        logger.info("%s has %d run(s) that wait for `kedro metrics sync`.", outbox.path, number)
    return waiting


def create(
    new: NewRun,
    store: MlflowStore,
    resolved: Resolved | None = None,
    waiting: Collection[str] = (),
) -> Run:
    """Make the run, if its parent is there; close dead ones, of which nothing is ``waiting``."""
    if resolved and resolved.parent_id:
        _check_parent(store, resolved, new.experiment)
    experiment = store.experiment_id(new.experiment)
    try:
        _close_dead_runs(store, experiment, waiting)
    except Exception as error:  # not the fault of the run that begins, which goes on
        logger.warning("Dead MLflow runs were not looked for: %s", reason(error))
    return store.create_run(experiment, new.tags, new.name)


def _close_dead_runs(store: MlflowStore, experiment: str, waiting: Collection[str]) -> None:
    """Close as KILLED what is RUNNING, whose process is gone, and of which nothing waits here."""
    # By status alone: a condition on a tag makes MLflow (3.17) go through that tag of all runs,
    # which took 190 ms with 22,000 runs; a search by status takes 3 ms more than with no runs.
    found = store.search_runs("attributes.status = 'RUNNING'", experiment, MOST_RUNNING)
    running = {run.info.run_id: run for run in found}
    for run_id, run in running.items():
        around = _kedros(run, running)
        if around.info.run_id in waiting or not is_gone(around.data.tags):
            continue
        now = store.get_run(run_id)  # the run may have ended well since, or be in use again
        if now.info.status == "RUNNING" and is_gone(_kedros(now, running).data.tags):
            store.log_params_and_tags(run_id, tags={Tag.ERROR: "The process was killed."})
            store.end_run(run_id, "KILLED")
            logger.warning("The MLflow run %s, whose process is gone, is KILLED.", run_id)


def _kedros(run: Run, running: Mapping[str, Run]) -> Run:
    """The run, or that of a Kedro run around it: a nested run of a node's own has no process."""
    parent = running.get(run.data.tags.get(Tag.PARENT_RUN, ""))
    return run if Tag.PROCESS in run.data.tags or parent is None else _kedros(parent, running)
