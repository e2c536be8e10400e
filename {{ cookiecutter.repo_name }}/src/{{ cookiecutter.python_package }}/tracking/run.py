"""The MLflow run of a Kedro run: open it, close it with its true status."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import MlflowConfig
from .delivery.delivery import Delivery, delivery_to
from .delivery.nested import attempt_all, end_created, end_nested
from .delivery.opening import NewRun, open_destination
from .delivery.outbox import Outbox, Request, RunEnd, choose_outbox, tell_what_waits
from .delivery.resolved import Resolved, resolve
from .delivery.route import HASTY_SECONDS, Destination
from .names import MAX_TAG_LENGTH, PARAMS_PER_REQUEST, Tag
from .process.active_runs import ActiveOnThreads, is_executed, set_last_active
from .process.liveness import process_tags
from .process.membership import Membership
from .process.mlflow_globals import active_run, user_environment
from .process.state import process_state
from .provenance import new_parameters, printable, run_name, run_tags, user_tags
from .redaction import redact
from .reports.report import RunReport
from .store.errors import StoreRefusedError, error_text, reason
from .store.keys import distinct

if TYPE_CHECKING:
    from mlflow.entities import Run

    from .reports.rules import Rule

logger = logging.getLogger(__name__)


def open_run(
    config: MlflowConfig,
    run_params: Mapping[str, Any],
    catalog_id: int,
    catalog_runs: Collection[str],
    needs_run: bool,
) -> TrackedRun:
    """Open the MLflow run of a Kedro run; in an outage, with ``on_outage: spool``, in the outbox.

    The TrackedRun is in ``ProcessState.open_runs`` before that: Ctrl-C may come at any point.

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
    run = TrackedRun(config, choose_outbox(config.outbox, path, resolved.tracking_uri), catalog_id)
    state.open_runs.append(run)
    name, of_user = run_name(config, run_params), user_tags(config)
    tags = run_tags(config, run_params, path) | of_user | process_tags()
    tags[Tag.IDEMPOTENCY_KEY] = run.key  # the same in the store and in the outbox
    if resolved.parent_id:
        tags[Tag.PARENT_RUN] = resolved.parent_id
    new = NewRun(config.experiment, name, tags, of_user)
    run.open(resolved, new if needs_run else None, catalog_runs)
    return run


class TrackedRun:
    """What a Kedro run has in MLflow, from the first hook to the last: one run, as a rule.

    Attributes:
        catalog_id: The id of the Kedro run's catalog; None if the catalog is gone.
        destination: Where its points go; None if all its datasets have MLflow runs of their own.
        owned_run_id: The MLflow run, if it was opened for this Kedro run, and so is closed with it.
    """

    def __init__(self, config: MlflowConfig, outbox: Outbox | None, catalog_id: int) -> None:
        self.catalog_id: int | None = catalog_id
        self.destination: Destination | None = None
        self.owned_run_id: str | None = None
        self.key = uuid.uuid4().hex  # by which its MLflow run can be found
        self._config = config
        self._outbox = outbox
        self.run: Run | None = None  # the MLflow run, as it was when opened
        self._delivery: Delivery | None = None
        self._catalog_runs: dict[str, Delivery] = {}  # to the runs that the catalog names, by id
        self._active: ActiveOnThreads | None = None
        self.report: RunReport | None = None
        self._thread = threading.current_thread()
        self._is_kedros = is_executed(catalog_id, self._thread)  # and not a script's own session
        self._closing = threading.Lock()

    def open(self, resolved: Resolved, new: NewRun | None, catalog_runs: Collection[str]) -> None:
        """Open the resolved run, make it the active one, and batch small saves."""
        destination, run = open_destination(
            self._config, resolved, self._outbox, new, catalog_runs, user=self
        )
        if destination and run:
            from mlflow import ActiveRun

            delivery = delivery_to(destination).open()
            self.owned_run_id = None if destination.is_external else destination.run_id
            self.run, self.destination, self._delivery = run, destination, delivery
            state = process_state()
            state.begin_experiment(run.info.experiment_id)
            self._active = ActiveOnThreads(ActiveRun(run), state.uses)
            self._active.take_seat()

    def begin_report(self, rules: Sequence[Rule]) -> None:
        """Show what is written to the run from now on; the rules say what is better."""
        if self.run and self._delivery:
            self.report = RunReport(self._config, self.run, self._delivery, rules)

    def enter(self, node: object) -> None:
        """Make it the run of ``mlflow.log_param()`` and the like, on this thread, for a node."""
        if self._active:
            self._active.enter(node)
        if self.report:  # a generator goes on yielding after its node's ``leave``, until now
            self.report.pause()

    def leave(self) -> None:
        """Make it the active run again, after a node that has left another one open."""
        if self._active:
            self._active.leave()

    def stack_of_new_thread(self) -> list[Any]:
        """MLflow's stack of active runs for a thread that has none."""
        return self._active.take_seat([]).stack if self._active else []

    def is_interrupted(self) -> bool:
        """Whether Kedro no longer executes this run: Ctrl-C calls no hook."""
        return self._is_kedros and not is_executed(self.catalog_id, self._thread)

    def membership(self) -> Membership | None:
        """What makes a worker process take part in the run."""
        if self.destination is None or self.run is None:
            return None
        return Membership(self.destination.tracking_uri, dict(self.run.info), os.getpid())

    def destination_of(self, run_id: str) -> Destination:
        """Where the points of a run go that the catalog names."""
        if run_id not in self._catalog_runs:
            uri = self._config.tracking_uri
            named = Destination(uri, run_id, self._outbox and self._outbox.to(uri), True)
            self._catalog_runs[run_id] = delivery_to(named).open()
        return self._catalog_runs[run_id].destination

    def log_params(self, parameters: Mapping[str, str]) -> None:
        """Write parameters. A request that MLflow refuses is left out whole, with a warning."""
        from mlflow.exceptions import MlflowException

        if self._delivery is None or self.run is None:
            return
        known = {} if self.owned_run_id else self.run.data.params
        new = new_parameters(parameters, known, self._config.redactor)
        uri = self._delivery.destination.tracking_uri
        new = [(name, parameters[name]) for name in distinct(uri, dict(new), known)]
        for start in range(0, len(new), PARAMS_PER_REQUEST):
            try:
                part = dict(new[start : start + PARAMS_PER_REQUEST])
                self._delivery.route.write(Request(params=part))
            except (MlflowException, StoreRefusedError) as error:
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
        if self._delivery is None and status == "KILLED":  # the signal may have come amid open()
            end_created(self._outbox, self._config.tracking_uri, self.key)
        if self.report:
            self.report.finish(hasty=status == "KILLED")
        try:
            attempt_all(delivery.close for delivery in self._deliveries())
        except Exception as failure:
            if status == "FINISHED":
                self._end("FAILED", failure)
                raise
            logger.error("Points were not written to MLflow: %s", reason(failure))
        self._end(status, error)

    def _deliveries(self) -> list[Delivery]:
        return [*filter(None, [self._delivery]), *self._catalog_runs.values()]

    def _end(self, status: str, error: BaseException | None) -> None:
        text = printable(self._config.redactor.redact(error_text(error), MAX_TAG_LENGTH))
        before = self.run.data.tags if self.run else {}  # an external run may have failed before
        is_mended = status == "FINISHED" and Tag.ERROR in before and Tag.SHARED not in before
        written = status if self.owned_run_id else ""
        end = RunEnd(written, time.time_ns() // 1_000_000, text, is_mended)
        own = end if written or text or is_mended else None
        until = time.monotonic() + HASTY_SECONDS if status == "KILLED" else None  # told to end
        ends = [partial(each.route.end, None, until) for each in self._catalog_runs.values()]
        if self._delivery:
            ends.insert(0, partial(self._delivery.route.end, own, until))
        if self._active and (parent := self.destination):
            left, info, nested = self._active.end(), self._active.run.info, RunEnd(status, end.time)
            ends.append(partial(end_nested, left, info, parent, nested, until))
        try:
            attempt_all(ends)
            waiting = {each: each.route.count_waiting() for each in self._deliveries()}
        except Exception:
            self._deregister()
            raise
        self._deregister()  # no `finally`: after Ctrl-C the run stays open, for the exit handler
        self._report(status, waiting)

    def _report(self, status: str, waiting: Mapping[Delivery, int | None]) -> None:
        for delivery, number in waiting.items():
            what = "" if number is None else f"{number} points of it wait"
            is_new = delivery is self._delivery and self.run and self.owned_run_id
            if is_new and self.run and Tag.TARGET_STORE in self.run.data.tags:
                what = "it waits"
            if delivery is self._delivery and self.report:
                self.report.show(status if is_new else "left open", has_page=not what)
            if what and self._outbox:
                is_error = self._config.require_delivery and status == "FINISHED"
                tell_what_waits(self._outbox, delivery.destination.run_id, status, what, is_error)

    def _deregister(self) -> None:
        state = process_state()
        if self._active:
            self._active.end()
            if self._thread is threading.current_thread():
                set_last_active(self._active.run.info.run_id)
        state.open_runs.remove(self)
        state.end_tracking(self)
