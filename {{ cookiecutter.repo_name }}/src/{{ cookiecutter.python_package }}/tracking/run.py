"""The MLflow run of a Kedro run: resolve which it is, open it, close it with its true status."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import MlflowConfig
from .delivery.delivery import Delivery, delivery_to
from .delivery.opening import NewRun, Resolved, open_destination
from .delivery.outbox import Outbox, Request, RunEnd, choose_outbox
from .delivery.route import Destination
from .names import MAX_TAG_LENGTH, PARAMS_PER_REQUEST, Tag
from .process.liveness import process_tags
from .process.mlflow_globals import activate, active_run
from .process.state import process_state
from .provenance import kedro_tags, new_parameters, pipeline_name, printable, source_tags
from .redaction import redact
from .scanning.uris import charts
from .store.errors import TrackingError, as_tracking_error, reason
from .store.mlflow_store import RETRY_SECONDS, store_at

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
    outbox = choose_outbox(config.outbox, path, resolved.tracking_uri)
    tags = kedro_tags(run_params, config.env, config.redactor) | source_tags(path) | process_tags()
    tags[Tag.IDEMPOTENCY_KEY] = uuid.uuid4().hex  # the same in the store and in the outbox
    new = NewRun(config.experiment, config.run_name or pipeline_name(run_params), tags)
    destination, entity = open_destination(
        config, resolved, outbox, new if needs_run else None, catalog_runs
    )
    run = TrackedRun(config, outbox, destination, entity)
    run.begin()
    return run


class TrackedRun:
    """What a Kedro run has in MLflow, from the first hook to the last: one run, as a rule.

    Attributes:
        destination: Where its points go; None if all its datasets have MLflow runs of their own.
        owned_run_id: The MLflow run, if it was opened for this Kedro run, and so is closed with it.
    """

    def __init__(
        self,
        config: MlflowConfig,
        outbox: Outbox | None,
        destination: Destination | None,
        run: Run | None,
    ) -> None:
        self.destination = destination
        is_new = destination is not None and not destination.is_external
        self.owned_run_id = destination.run_id if destination and is_new else None
        self._config = config
        self._outbox = outbox
        self._run = run  # as it was when it was opened
        self._delivery = delivery_to(destination) if destination else None
        self._catalog_runs: dict[str, Delivery] = {}  # to the runs that the catalog names, by id
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
        if run_id not in self._catalog_runs:
            uri = self._config.tracking_uri
            destination = Destination(uri, run_id, self._outbox, is_external=True)
            self._catalog_runs[run_id] = delivery_to(destination)
            self._catalog_runs[run_id].open()
        return self._catalog_runs[run_id].destination

    def newest_with(self, starts: Collection[str]) -> dict[str, Destination]:
        """By what keys begin with, the run to read them from.

        It is this run where it has them already, else the newest of its experiment that has.
        """
        if self._run is None or self.destination is None:
            return {}
        own = {
            start for start in starts if any(k.startswith(start) for k in self._run.data.metrics)
        }
        store = store_at(self.destination.tracking_uri)
        with as_tracking_error(store.uri):
            found = store.newest_with(self._run.info.experiment_id, set(starts) - own)
        others = {start: Destination(store.uri, run_id) for start, run_id in found.items()}
        return others | dict.fromkeys(own, self.destination)

    def log_params(self, parameters: Mapping[str, str]) -> None:
        """Write parameters. Those that MLflow does not take are left out, with a warning."""
        from mlflow.exceptions import MlflowException

        if self._delivery is None or self._run is None:
            return
        new = new_parameters(parameters, {} if self.owned_run_id else self._run.data.params)
        for start in range(0, len(new), PARAMS_PER_REQUEST):
            try:
                part = dict(new[start : start + PARAMS_PER_REQUEST])
                # The store may take its time to refuse them.
                self._delivery.route.write(Request(params=part), RETRY_SECONDS)
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
            for delivery in self._deliveries():
                delivery.close()
        except Exception as failure:
            if status == "FINISHED":
                self._end("FAILED", failure)
                raise
            logger.error("Points were not written to MLflow: %s", reason(failure))
        self._end(status, error)

    def _deliveries(self) -> list[Delivery]:
        own = [self._delivery] if self._delivery else []
        return own + list(self._catalog_runs.values())

    def _end(self, status: str, error: BaseException | None) -> None:
        text = "" if error is None else f"{type(error).__name__}: {error}"
        text = printable(self._config.redactor.redact(text, MAX_TAG_LENGTH))
        before = self._run.data.tags if self._run else {}  # an external run may have failed before
        is_mended = status == "FINISHED" and Tag.ERROR in before
        written = status if self.owned_run_id else ""
        end = RunEnd(written, time.time_ns() // 1_000_000, text, is_mended)
        hasty = status == "KILLED"  # a process that was told to end waits for no store
        try:
            if self._delivery:
                self._delivery.route.end(end if written or text or is_mended else None, hasty)
            for delivery in self._catalog_runs.values():
                delivery.route.end(None, hasty)
            waiting = {each: each.route.count_waiting() for each in self._deliveries()}
        except Exception:
            self._deregister()
            raise
        else:  # no `finally`: after Ctrl-C it stays among the open runs, for the exit handler
            self._deregister()
        self._report(status, waiting)

    def _report(self, status: str, waiting: Mapping[Delivery, int | None]) -> None:
        for delivery, number in waiting.items():
            destination = delivery.destination
            if number is not None and self._outbox:
                where = f"{number} points of it wait in {self._outbox.path}"
                if self._config.require_delivery and status == "FINISHED":
                    raise TrackingError(
                        f"The MLflow run {destination.run_id} is {status}, but {where};"
                        " 'require_delivery' in mlflow.yml makes that an error. Run"
                        " `kedro metrics sync` when the store answers, before the file is gone."
                    )
                logger.warning(
                    f"The MLflow run {destination.run_id} is {status}; {where}, for"
                    " `kedro metrics sync`."
                )
            elif destination is self.destination and self.owned_run_id and self._run:
                page = charts(
                    redact(destination.tracking_uri),
                    self._run.info.experiment_id,
                    destination.run_id,
                )
                logger.info("The MLflow run %s is %s.%s", destination.run_id, status, page)

    def _deregister(self) -> None:
        state = process_state()
        self._stack[:] = [run for run in self._stack if run is not self._active]
        state.open_runs.remove(self)
        state.end_tracking()
