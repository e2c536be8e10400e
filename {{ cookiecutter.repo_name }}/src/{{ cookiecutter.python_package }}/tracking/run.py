"""The MLflow run of a Kedro run: resolve which it is, open it, close it with its true status."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import MlflowConfig
from .delivery.delivery import Delivery, delivery_to
from .delivery.opening import Resolved, open_destination
from .delivery.outbox import Outbox
from .delivery.route import Destination, RunEnd
from .names import MAX_TAG_LENGTH, OUTBOX_FILE, PARAMS_PER_REQUEST
from .process.liveness import process_tags
from .process.mlflow_globals import activate, active_run
from .process.state import process_state
from .provenance import kedro_tags, new_parameters, pipeline_name, printable, source_tags
from .redaction import Secrets, redact
from .store.errors import reason
from .store.keys import distinct
from .store.sqlite import sqlite_path

if TYPE_CHECKING:
    from mlflow import ActiveRun
    from mlflow.entities import Run

logger = logging.getLogger(__name__)


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


def open_run(
    config: MlflowConfig,
    run_params: Mapping[str, Any],
    catalog_runs: Collection[str],
    needs_run: bool,
) -> TrackedRun:
    """Open the MLflow run of a Kedro run; in the outbox, if its store is unavailable.

    Args:
        config: The project's.
        run_params: Kedro's, as its hooks get them.
        catalog_runs: The ids of the MLflow runs that the catalog names.
        needs_run: Whether an MLflow run is needed beside those.
    """
    active = active_run()
    if active and process_state().has_opened(active[1]):  # of an interrupted Kedro run
        active = None
    resolved = resolve(config.tracking_uri, run_params, os.environ, active)
    path = Path(run_params["project_path"])
    process = process_tags()
    name = config.run_name or pipeline_name(run_params)
    outbox = Outbox(
        path / OUTBOX_FILE, resolved.tracking_uri, config.experiment, name, tuple(process.items())
    )
    tags = kedro_tags(run_params, config.redactor) | source_tags(path) | process
    destination, entity = open_destination(
        config, resolved, outbox, tags if needs_run else None, catalog_runs
    )
    run = TrackedRun(config.redactor, outbox, destination, entity)
    run.begin()
    return run


class TrackedRun:
    """What a Kedro run has in MLflow, from the first hook to the last: one run, as a rule.

    Attributes:
        destination: Where its points go; None if all its datasets have MLflow runs of their own.
        owned_run_id: The MLflow run, if it was opened for this Kedro run, and so is closed with it.
    """

    def __init__(
        self, secrets: Secrets, outbox: Outbox, destination: Destination | None, run: Run | None
    ) -> None:
        self.destination = destination
        is_new = destination is not None and not destination.is_external
        self.owned_run_id = destination.run_id if destination and is_new else None
        self._secrets = secrets
        self._outbox = outbox
        self._run = run  # as it was when it was opened
        self._delivery = delivery_to(destination) if destination else None
        self._catalog_runs: list[Delivery] = []  # to the runs that the catalog names
        self._active: ActiveRun | None = None
        self._stack: list[Any] = []
        self._closing = threading.Lock()

    def begin(self) -> None:
        """Take the run among those that are closed if the process ends; gather small saves."""
        from mlflow import ActiveRun

        if self._run and self._delivery:
            self._active = ActiveRun(self._run)
            self._delivery.open()
        process_state().open_runs.append(self)
        self.activate()

    def activate(self) -> None:
        """Make it the run of ``mlflow.log_param()`` and the like on this thread."""
        if self._active:
            stack = activate(self._active, process_state().has_opened)
            self._stack = self._stack or stack

    def destination_of(self, run_id: str) -> Destination:
        """Where the points of a run go that the catalog names."""
        uri, outbox = self._outbox.target_uri, replace(self._outbox, external=True)
        destination = Destination(uri, run_id, outbox)
        self._catalog_runs.append(delivery_to(destination))
        return destination

    def log_params(self, parameters: Mapping[str, str]) -> None:
        """Write parameters. Those that MLflow does not take are left out, with a warning."""
        from mlflow.exceptions import MlflowException

        if self._delivery is None or self._run is None:
            return
        known = {} if self.owned_run_id else self._run.data.params
        new = new_parameters(parameters, known)
        uri = self._delivery.route.destination.tracking_uri
        new = [(name, parameters[name]) for name in distinct(uri, dict(new), known)]
        for start in range(0, len(new), PARAMS_PER_REQUEST):
            try:
                self._delivery.route.log_params(dict(new[start : start + PARAMS_PER_REQUEST]))
            except MlflowException as error:
                logger.warning("MLflow did not take parameters: %s", redact(str(error)))

    def close(self, status: str, error: BaseException | None = None) -> None:
        """Write the end (FINISHED, FAILED, KILLED; once), with the error as ``kedro.error``."""
        state = process_state()
        with self._closing:  # SIGTERM may come while the run is being closed: one waits
            if self in state.open_runs:
                self._close(status, error)
        state.termination.wait_if_terminating()

    def close_quietly(self, status: str = "KILLED", error: BaseException | None = None) -> None:
        """Close the run where nothing may be raised: a failure to do so is logged."""
        try:
            self.close(status, error)
        except Exception as failure:
            logger.error("The end of the MLflow run could not be written: %s", reason(failure))

    def _close(self, status: str, error: BaseException | None) -> None:
        try:
            if self._delivery:
                self._delivery.close()
        except Exception as failure:
            if status == "FINISHED":
                self._end("FAILED", failure)
                raise
            logger.error("Points were not written to MLflow: %s", reason(failure))
        self._end(status, error)

    def _end(self, status: str, error: BaseException | None) -> None:
        text = "" if error is None else f"{type(error).__name__}: {error}"
        text = printable(self._secrets.redact(text))[:MAX_TAG_LENGTH]
        end = RunEnd(status, time.time_ns() // 1_000_000, text)
        try:
            if self._delivery:
                self._delivery.route.end(end)
            for delivery in self._catalog_runs:
                delivery.route.end_part(end)
            self._report(status)
        except Exception:
            self._deregister()
            raise
        else:  # no `finally`: after Ctrl-C it stays among the open runs, for the exit handler
            self._deregister()

    def _report(self, status: str) -> None:
        for delivery in filter(None, (self._delivery, *self._catalog_runs)):
            destination = delivery.route.destination
            if delivery.route.part:
                waits = f"a part of it waits in {OUTBOX_FILE}, for `kedro metrics sync`"
                logger.warning("The MLflow run %s is %s; %s.", destination.run_id, status, waits)
            elif destination is self.destination and self.owned_run_id and self._run:
                charts = _charts(destination, self._run.info.experiment_id)
                logger.info("The MLflow run %s is %s.%s", destination.run_id, status, charts)

    def _deregister(self) -> None:
        state = process_state()
        self._stack[:] = [run for run in self._stack if run is not self._active]
        state.open_runs.remove(self)
        for delivery in self._catalog_runs:
            state.deliveries.pop(delivery.route.destination, None)
        state.end_tracking()


def _charts(run: Destination, experiment: str) -> str:
    """Where a run's charts are, in a sentence; nothing where that is not known."""
    page = f"#/experiments/{experiment}/runs/{run.run_id}/model-metrics"
    if run.tracking_uri.startswith("http"):
        return f" Its charts: {redact(run.tracking_uri).rstrip('/')}/{page}"
    if path := sqlite_path(run.tracking_uri):
        store = path.name if path.parent == Path.cwd() else path.as_posix()
        option = "" if store == "mlflow.db" else f" --backend-store-uri sqlite:///{store}"
        return f" Its charts, with `mlflow ui{option}`: http://127.0.0.1:5000/{page}"
    return ""
