"""The MLflow run of a Kedro run: open it, close it with its true status."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import MlflowConfig
from .delivery.delivery import Delivery, delivery_to
from .delivery.nested import end_created, end_nested
from .delivery.opening import Resolved, open_destination, resolve
from .delivery.outbox import Outbox
from .delivery.route import Destination, RunEnd
from .names import MAX_TAG_LENGTH, OUTBOX_FILE, PARAMS_PER_REQUEST, Tag
from .process.active_runs import ActiveOnThreads, is_executed, set_last_active
from .process.liveness import process_tags
from .process.membership import Membership
from .process.mlflow_globals import active_run, user_environment
from .process.state import process_state
from .provenance import kedro_tags, new_parameters, pipeline_name, printable, source_tags
from .redaction import Secrets, redact
from .store.errors import reason
from .store.sqlite import sqlite_path

if TYPE_CHECKING:
    from mlflow.entities import Run

logger = logging.getLogger(__name__)


def open_run(
    config: MlflowConfig,
    run_params: Mapping[str, Any],
    catalog_id: int,
    catalog_runs: Collection[str],
    needs_run: bool,
) -> TrackedRun:
    """Open the MLflow run of a Kedro run; in the outbox, if its store is unavailable.

    It is among ``ProcessState.open_runs`` before anything is opened: Ctrl-C may come at any point.

    Args:
        config: The project's.
        run_params: Kedro's, as its hooks get them.
        catalog_id: The id of the Kedro run's catalog.
        catalog_runs: The ids of the MLflow runs that the catalog names.
        needs_run: Whether an MLflow run is needed beside those.
    """
    state = process_state()
    state.kill_interrupted_runs()
    active = active_run()
    if active and state.has_opened(active[1]):  # this is a Kedro run within a node of another
        active = None
    resolved = resolve(config.tracking_uri, run_params, user_environment(), active)
    path = Path(run_params["project_path"])
    process = process_tags()
    name = config.run_name or pipeline_name(run_params)
    outbox = Outbox(
        path / OUTBOX_FILE, resolved.tracking_uri, config.experiment, name, tuple(process.items())
    )
    run = TrackedRun(config.redactor, outbox, catalog_id)
    state.open_runs.append(run)
    tags = kedro_tags(run_params, config.redactor) | source_tags(path) | process
    tags[Tag.IDEMPOTENCY_KEY] = run.key
    run.open(config, resolved, tags if needs_run else None, catalog_runs)
    return run


class TrackedRun:
    """What a Kedro run has in MLflow, from the first hook to the last: one run, as a rule.

    Attributes:
        catalog_id: The id of the Kedro run's catalog; None if the catalog is gone.
        destination: Where its points go; None if all its datasets have MLflow runs of their own.
        owned_run_id: The MLflow run, if it was opened for this Kedro run, and so is closed with it.
    """

    def __init__(self, secrets: Secrets, outbox: Outbox, catalog_id: int) -> None:
        self.catalog_id: int | None = catalog_id
        self.destination: Destination | None = None
        self.owned_run_id: str | None = None
        self.key = uuid.uuid4().hex  # by which its MLflow run can be found
        self._secrets = secrets
        self._outbox = outbox
        self._run: Run | None = None  # as it was when it was opened
        self._delivery: Delivery | None = None
        self._catalog_runs: list[Delivery] = []  # to the runs that the catalog names
        self._active: ActiveOnThreads | None = None
        self._thread = threading.current_thread()
        self._is_kedros = is_executed(catalog_id, self._thread)  # and not a script's own session
        self._closing = threading.Lock()

    def open(
        self,
        config: MlflowConfig,
        resolved: Resolved,
        tags: Mapping[str, str] | None,
        catalog_runs: Collection[str],
    ) -> None:
        """Open the resolved run, make it the active one, and gather small saves."""
        from mlflow import ActiveRun

        destination, run = open_destination(
            config, resolved, self._outbox, tags, catalog_runs, user=self
        )
        if destination and run:
            delivery = delivery_to(destination)
            delivery.open()
            self._run, self.destination, self._delivery = run, destination, delivery
            self.owned_run_id = None if destination.is_external else destination.run_id
            state = process_state()
            state.begin_experiment(run.info.experiment_id)
            self._active = ActiveOnThreads(ActiveRun(run), state.has_opened, state.uses)
            self._active.take_seat()

    def enter(self, node: object) -> None:
        """Make it the run of ``mlflow.log_param()`` and the like, on this thread, for a node."""
        if self._active:
            self._active.enter(node)

    def leave(self) -> None:
        """Make it the active run again, after a node that has left another one open."""
        if self._active:
            self._active.leave()

    def stack_of_new_thread(self) -> list[Any]:
        """MLflow's stack of active runs for a thread that has none."""
        return self._active.take_seat([]).stack if self._active else []

    def is_interrupted(self) -> bool:
        """Whether Kedro executes it no more: Ctrl-C reaches no hook."""
        return self._is_kedros and not is_executed(self.catalog_id, self._thread)

    def membership(self) -> Membership | None:
        """What makes a worker process take part in the run."""
        if self.destination is None or self._run is None:
            return None
        return Membership(self.destination.tracking_uri, dict(self._run.info), os.getpid())

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
        new = new_parameters(parameters, {} if self.owned_run_id else self._run.data.params)
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
        if self._delivery is None and status == "KILLED":  # it may have been about to be opened
            end_created(self._outbox, self.key)
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
                if self._active:
                    end_nested(self._active.end(), self._active.run.info, self._delivery.route, end)
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
        if self._active:
            self._active.end()
            if self._thread is threading.current_thread():
                set_last_active(self._active.run.info.run_id)
        state.open_runs.remove(self)
        for delivery in self._catalog_runs:
            state.deliveries.pop(delivery.route.destination, None)
        state.end_tracking(self)


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
