"""The one MLflow run of a Kedro run: settle which it is, and close it with the truth."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import signals
from .client import connect, experiment_id, importing, make_run, reach
from .config import MlflowConfig
from .errors import StoreAwayError, TrackingError, explained, reason
from .liveness import ERROR, close_dead, process_tags
from .patience import AT_START, patiently
from .provenance import MAX_TAG_LENGTH, kedro_tags, pipeline_name, safe, source_tags
from .redaction import public, redact
from .spool import FILE, GIVEN, HOME, HOME_RUN, Spool
from .sqlite import prepare, sqlite_path
from .store import MlflowRun, active_run, active_runs, gather, set_environment, use_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Param, Run

logger = logging.getLogger(__name__)

PARAMS_PER_REQUEST = 100  # MLflow's limit; MlflowClient.log_batch does not split parameters


class TrackedRun:
    """The MLflow run of one Kedro run, from the first hook to the last.

    Attributes:
        run: Where points go.
        opened: Whether this Kedro run opened it, and so closes it.
    """

    def __init__(self, entity: Run, place: MlflowRun, *, opened: bool) -> None:
        from mlflow import ActiveRun

        self.run = place
        self.opened = opened
        self._active = ActiveRun(entity)
        self._process = os.getpid()
        self._closing = threading.Lock()
        self._writer = gather(self.run)
        self._stack = active_runs()
        _open_runs.append(self)
        self.activate()

    def activate(self) -> None:
        """Make it the run of ``mlflow.log_param()`` and the like on this thread.

        ``mlflow.start_run()`` would do so too, but with three requests, and only
        ``mlflow.end_run()``, which closes the run, would undo it.
        """
        stack = active_runs()
        if self._active not in stack and all(_is_ours(run.info.run_id) for run in stack):
            stack.append(self._active)  # on top of an interrupted run's, but not of the caller's

    def log_params(self, parameters: Mapping[str, str]) -> None:
        """Write parameters. What MLflow does not take is told and left out: no run ends by it."""
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        known = {} if self.opened else self._active.data.params
        for key in parameters.keys() & known.keys():
            if parameters[key] != known[key]:
                logger.warning(
                    "The parameter %r of the MLflow run stays %r; MLflow does not change it to %r.",
                    key,
                    known[key],
                    parameters[key],
                )
        new = (Param(key, value) for key, value in parameters.items() if key not in known)
        while batch := list(islice(new, PARAMS_PER_REQUEST)):
            try:
                self.run.link.write(partial(_log_params, params=batch))
            except MlflowException as error:
                logger.warning("MLflow did not take parameters: %s", redact(str(error)))

    def close(self, status: str = "KILLED", error: BaseException | None = None) -> None:
        """Write the end. The first call counts, and only in the process that began the run.

        Args:
            status: FINISHED, FAILED or KILLED.
            error: What ended the run; its text becomes the tag ``kedro.error``.
        """
        with self._closing:  # SIGTERM may come while the run is being closed: one waits
            if self in _open_runs and self._process == os.getpid():
                self._close(status, error)
        signals.wait_if_dying()

    def _close(self, status: str, error: BaseException | None) -> None:
        try:
            self._writer.close()
        except Exception as failure:
            if status == "FINISHED":
                self._end("FAILED", failure)
                raise
            logger.error("Points were not written to MLflow: %s", redact(str(failure)))
        self._end(status, error)

    def _end(self, status: str, error: BaseException | None) -> None:
        told = None
        if error is not None:
            told = safe(redact(f"{type(error).__name__}: {error}"))[:MAX_TAG_LENGTH]
        now = time.time_ns() // 1_000_000
        try:
            link = self.run.link
            link.write(
                partial(_write_end, status=status if self.opened else None, end=now, error=told)
            )
            if link.ask_spool(partial(_write_end, status=status, end=now, error=told)):
                logger.warning("A part of the MLflow run waits for `kedro metrics sync`: %s.", FILE)
            if self.opened:
                logger.info("The MLflow run %s is %s.%s", self.run.run_id, status, self._where())
        finally:
            self._stack[:] = [run for run in self._stack if run is not self._active]
            _open_runs.remove(self)
            _process.leave()

    def _where(self) -> str:
        """Where its charts are."""
        info = self._active.info
        page = f"#/experiments/{info.experiment_id}/runs/{info.run_id}/model-metrics"
        if self.run.tracking_uri.startswith("http"):
            return f" Its charts: {redact(self.run.tracking_uri).rstrip('/')}/{page}"
        if path := sqlite_path(self.run.tracking_uri):
            ui = "mlflow ui"
            if path.name != "mlflow.db":
                ui += f" --backend-store-uri sqlite:///{path.name}"
            return f" Its charts, with `{ui}`: http://127.0.0.1:5000/{page}"
        return ""


def _log_params(client: MlflowClient, run_id: str, params: list[Param]) -> None:
    client.log_batch(run_id, params=params, synchronous=True)


def _write_end(
    client: MlflowClient, run_id: str, status: str | None, end: int, error: str | None
) -> bool:
    """Write why a run ended, and then that it did; ``set_terminated()`` would print its URL."""
    from mlflow.entities import RunStatus

    if error:
        client.set_tag(run_id, ERROR, error)
    if status:
        store = client._tracking_client.store
        store.update_run_info(run_id, RunStatus.from_string(status), end, None)
    return True


class _Process:
    """What belongs to the process and not to a run: set for the first run, undone after the last.

    MLflow's own functions know one store, and its client takes credentials from the environment.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs = 0
        self._store = ""
        self._undo = ExitStack()

    def enter(self, config: MlflowConfig) -> None:
        with self._lock:
            if self._runs == 0:
                self._set(config)
            elif self._store != config.tracking_uri:
                logger.warning(
                    "Two MLflow stores are in use at the same time in this process. The metrics"
                    " datasets write to their own; a node's own MLflow calls, to the first."
                )
            self._runs += 1

    def leave(self) -> None:
        with self._lock:
            self._runs -= 1
            if self._runs == 0:
                self._undo.close()

    def _set(self, config: MlflowConfig) -> None:
        before = {name: os.environ.get(name) for name in config.credentials}
        os.environ.update(config.credentials)
        self._undo.callback(set_environment, before)
        self._undo.callback(use_store, use_store(config.tracking_uri))
        self._store = config.tracking_uri
        signals.on_termination(close_all)
        self._undo.callback(signals.stop)
        # Registered after MLflow's own exit handler, which calls an active run FINISHED, so
        # called before it.
        atexit.register(close_all)
        self._undo.callback(atexit.unregister, close_all)


_process = _Process()


@contextmanager
def borrowed(config: MlflowConfig) -> Iterator[None]:
    """With the store and the credentials of a configuration, as during a run."""
    _process.enter(config)
    try:
        yield
    finally:
        _process.leave()


_open_runs: list[TrackedRun] = []


def close_all() -> None:
    """Close every open run of this process as KILLED."""
    for run in list(_open_runs):
        run.close("KILLED")


def _is_ours(run_id: str) -> bool:
    """Whether the run was opened for a Kedro run, which may have been interrupted."""
    return any(run.run.run_id == run_id for run in _open_runs if run.opened)


def settle(config: MlflowConfig, run_params: Mapping[str, Any], project_path: Path) -> TrackedRun:
    """The MLflow run of a Kedro run.

    In this order: ``mlflow_run_id`` among the runtime parameters, the environment's
    ``MLFLOW_RUN_ID``, a run that the caller has made active, else a new one.

    Raises:
        TrackingError: The store can't be opened, or has no such run.
    """
    given = (run_params.get("runtime_params") or {}).get("mlflow_run_id")
    origin = "the runtime parameter mlflow_run_id"
    if not given:
        given, origin = os.environ.get("MLFLOW_RUN_ID"), "the environment's MLFLOW_RUN_ID"
    if not given and (active := active_run()) and not _is_ours(active.run_id):
        given, origin = active.run_id, "the active run"
        config = replace(config, tracking_uri=active.tracking_uri)
    try:
        return _settle(config, run_params, project_path, str(given or ""), origin)
    except StoreAwayError as error:
        if config.on_outage != "spool":
            raise
        logger.warning(
            "The MLflow store %s can't be reached (%s). The run is written to %s, for"
            " `kedro metrics sync`.",
            redact(config.tracking_uri),
            reason(error.__cause__ or error),
            FILE,
        )
    tags = {HOME: public(config.tracking_uri)}
    if given:
        tags |= {HOME_RUN: str(given), GIVEN: "yes"}
    config = replace(config, tracking_uri=f"sqlite:///{(project_path / FILE).as_posix()}")
    return _settle(config, run_params, project_path, "", origin, **tags)


def _settle(
    config: MlflowConfig,
    run_params: Mapping[str, Any],
    project_path: Path,
    given: str,
    origin: str,
    **tags: str,
) -> TrackedRun:
    uri = config.tracking_uri
    with explained(uri), importing(), ExitStack() as undo:
        prepare(uri)
        patiently(partial(reach, uri), AT_START)
        _process.enter(config)  # the first request needs the credentials already
        undo.callback(_process.leave)
        if given:
            entity = _existing(given, origin, uri)
        else:
            about = kedro_tags(run_params) | source_tags(project_path) | process_tags() | tags
            entity = _new(config, config.run_name or pipeline_name(run_params), about)
        place = MlflowRun(
            uri, entity.info.run_id, spool_of(config, project_path, given=bool(given))
        )
        run = TrackedRun(entity, place, opened=not given)
        undo.pop_all()  # it is undone when the run is closed
        return run


def spool_of(config: MlflowConfig, project_path: Path, *, given: bool) -> Spool | None:
    """Where points wait while the store is away; those of the spool itself have no other place."""
    uri = f"sqlite:///{(project_path / FILE).as_posix()}"
    if uri == config.tracking_uri:
        return None
    return Spool(uri, config.tracking_uri, config.experiment, tuple(process_tags().items()), given)


def _existing(run_id: str, origin: str, uri: str) -> Run:
    from mlflow.exceptions import MlflowException

    store = redact(uri)
    try:
        entity = patiently(lambda: connect(uri).get_run(run_id), AT_START)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise TrackingError(
            f"The MLflow store {store} has no run {run_id!r}, which {origin} names;"
            " give the id of a run in this store, or none for a new run."
        ) from None
    if entity.info.lifecycle_stage == "deleted":
        raise TrackingError(
            f"The MLflow run {run_id!r}, which {origin} names, is deleted; restore it with"
            f" `mlflow runs restore --run-id {run_id}`, or give none for a new run."
        )
    return entity


def _new(config: MlflowConfig, run_name: str, tags: Mapping[str, str]) -> Run:
    client = connect(config.tracking_uri)
    experiment = patiently(lambda: experiment_id(client, config.experiment), AT_START)
    try:
        patiently(lambda: close_dead(client, experiment), AT_START)
    except Exception as error:  # whatever it is, the run that begins is not to blame
        logger.warning("Dead MLflow runs were not looked for: %s", redact(str(error)))
    return make_run(client, experiment, tags, run_name=run_name)
