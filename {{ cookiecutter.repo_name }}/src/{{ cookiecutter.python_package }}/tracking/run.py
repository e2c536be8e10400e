"""The one MLflow run of a Kedro run: settle which it is, and close it with the truth."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import signals
from .config import MlflowConfig
from .points import clean
from .provenance import MAX_TAG_LENGTH, kedro_tags, pipeline_name, redact, source_tags
from .store import (
    MlflowRun,
    TrackingError,
    active_run,
    active_runs,
    check_sqlite,
    connect,
    explained,
    gather,
    importing,
    set_environment,
    sqlite_path,
    use_store,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

PARAMS_PER_REQUEST = 100  # MLflow's limit; MlflowClient.log_batch does not split parameters


class TrackedRun:
    """The MLflow run of one Kedro run, from the first hook to the last.

    Attributes:
        run: Where points go.
        opened: Whether this Kedro run opened it, and so closes it.
    """

    def __init__(self, entity: Run, config: MlflowConfig, *, opened: bool) -> None:
        from mlflow import ActiveRun

        self.run = MlflowRun(config.tracking_uri, entity.info.run_id)
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

        client = connect(self.run.tracking_uri)
        known = {} if self.opened else client.get_run(self.run.run_id).data.params
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
                client.log_batch(self.run.run_id, params=batch, synchronous=True)
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
        try:
            client = connect(self.run.tracking_uri)
            if self.opened:
                client.set_terminated(self.run.run_id, status)
                logger.info("The MLflow run %s is %s.%s", self.run.run_id, status, self._where())
            if error is not None:
                told = redact(f"{type(error).__name__}: {error}")[:MAX_TAG_LENGTH]
                told = told.encode(errors="replace").decode()  # odd bytes of a file's name
                client.set_tag(self.run.run_id, "kedro.error", told)
        finally:
            self._stack[:] = [run for run in self._stack if run is not self._active]
            _open_runs.remove(self)
            _process.leave()

    def _where(self) -> str:
        """Where its charts are; a tracking server tells that itself."""
        if not sqlite_path(self.run.tracking_uri):
            return ""
        info = self._active.info
        page = f"#/experiments/{info.experiment_id}/runs/{info.run_id}/model-metrics"
        return f" Its charts, with `mlflow ui`: http://127.0.0.1:5000/{page}"


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
    with explained(config.tracking_uri), importing(), ExitStack() as undo:
        check_sqlite(config.tracking_uri)
        _process.enter(config)  # the first request needs the credentials already
        undo.callback(_process.leave)
        entity = (
            _existing(str(given), origin, config)
            if given
            else _new(config, run_params, project_path)
        )
        run = TrackedRun(entity, config, opened=not given)
        undo.pop_all()  # it is undone when the run is closed
        return run


def _existing(run_id: str, origin: str, config: MlflowConfig) -> Run:
    from mlflow.exceptions import MlflowException

    store = redact(config.tracking_uri)
    try:
        entity = connect(config.tracking_uri).get_run(run_id)
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


def _new(config: MlflowConfig, run_params: Mapping[str, Any], project_path: Path) -> Run:
    client = connect(config.tracking_uri)
    name = config.run_name or pipeline_name(run_params)
    return client.create_run(
        _experiment_id(client, config),
        tags=kedro_tags(run_params) | source_tags(project_path),
        run_name=name,
    )


def _experiment_id(client: MlflowClient, config: MlflowConfig) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        try:
            return client.create_experiment(config.experiment, _artifacts(config))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return _experiment_id(client, config)  # another process was faster
    if experiment.lifecycle_stage == "deleted":
        raise TrackingError(
            f"The MLflow experiment {config.experiment!r} is deleted; restore it with"
            f" `mlflow experiments restore --experiment-id {experiment.experiment_id}`,"
            " or set another 'experiment' in mlflow.yml."
        )
    return experiment.experiment_id


def _artifacts(config: MlflowConfig) -> str | None:
    """Beside an SQLite store; MLflow's own default is a folder where the command was typed."""
    path = sqlite_path(config.tracking_uri)
    return (path.parent / "mlartifacts" / clean(config.experiment)).as_uri() if path else None
