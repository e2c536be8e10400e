"""The one MLflow run of a Kedro run: settle which it is, and close it with the truth."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import signals
from .client import (
    PARAMS_PER_REQUEST,
    connect,
    end_run,
    experiment_id,
    importing,
    make_run,
    reach,
)
from .config import MlflowConfig
from .errors import StoreAwayError, TrackingError, explained, reason
from .liveness import ERROR, close_dead, process_tags
from .patience import AT_START, patiently
from .provenance import MAX_TAG_LENGTH, kedro_tags, pipeline_name, safe, source_tags
from .redaction import public, redact
from .spool import FILE, GIVEN, HOME, HOME_RUN, Spool, leave_alone, waiting
from .sqlite import prepare, sqlite_path
from .store import (
    MlflowRun,
    active_run,
    active_runs,
    forget,
    gather,
    set_environment,
    use_store,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Param, Run

logger = logging.getLogger(__name__)

_open_runs: list[TrackedRun] = []  # of this process


class TrackedRun:
    """What a Kedro run has in MLflow, from the first hook to the last: one run, as a rule.

    Attributes:
        run: Where points go; None if all metrics datasets have MLflow runs of their own.
        home: The store of the datasets that have runs of their own: a run whose id is filled in.
        opened: Whether this Kedro run opened its MLflow run, and so closes it.
        own: The runs that datasets have of their own.
    """

    def __init__(
        self, entity: Run | None, home: MlflowRun, run: MlflowRun | None, *, opened: bool = False
    ) -> None:
        from mlflow import ActiveRun

        self.run = run
        self.home = home
        self.opened = opened
        self.own: set[MlflowRun] = set()
        self._active = ActiveRun(entity) if entity else None
        self._pid = os.getpid()
        self._closing = threading.Lock()
        self._writer = gather(run) if run else None
        self._stack = active_runs()
        _open_runs.append(self)
        self.activate()

    def activate(self) -> None:
        """Make it the run of ``mlflow.log_param()`` and the like on this thread.

        ``mlflow.start_run()`` would do so too, but with three requests, and only
        ``mlflow.end_run()``, which closes the run, would undo it.
        """
        stack = active_runs()
        if (
            self._active
            and self._active not in stack
            and all(_is_ours(run.info.run_id) for run in stack)
        ):
            stack.append(self._active)  # on top of an interrupted run's, but not of the caller's

    def log_params(self, parameters: Mapping[str, str]) -> None:
        """Write parameters. What MLflow does not take is told and left out: no run ends by it."""
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        if self.run is None or self._active is None:
            return
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
            if self in _open_runs and self._pid == os.getpid():
                self._close(status, error)
        signals.wait_if_dying()

    def _close(self, status: str, error: BaseException | None) -> None:
        try:
            if self._writer:
                self._writer.close()
        except Exception as failure:
            if status == "FINISHED":
                self._end("FAILED", failure)
                raise
            logger.error("Points were not written to MLflow: %s", reason(failure))
        self._end(status, error)

    def _end(self, status: str, error: BaseException | None) -> None:
        told = None
        if error is not None:
            told = safe(redact(f"{type(error).__name__}: {error}"))[:MAX_TAG_LENGTH]
        write = partial(_write_end, end=time.time_ns() // 1_000_000, error=told)
        try:
            if self.run:
                self.run.link.write(partial(write, status=status if self.opened else None))
            for run in self._all():
                if run.link.ask_spool(partial(write, status=status)):
                    self._tell_part(run, status)
                elif run == self.run and self.opened and self._active:
                    charts = _charts(run, self._active.info.experiment_id)
                    logger.info("The MLflow run %s is %s.%s", run.run_id, status, charts)
        except Exception:
            self._leave()
            raise
        else:  # no `finally`: after Ctrl-C it stays among the open runs, for the exit handler
            self._leave()

    def _tell_part(self, run: MlflowRun, status: str) -> None:
        logger.warning(
            "The MLflow run %s is %s; a part of it waits in %s, for `kedro metrics sync`.",
            run.run_id,
            status,
            FILE,
        )

    def _all(self) -> list[MlflowRun]:
        return [*([self.run] if self.run else []), *self.own]

    def _leave(self) -> None:
        self._stack[:] = [run for run in self._stack if run is not self._active]
        _open_runs.remove(self)
        for run in self._all():
            forget(run)
        _process.leave()


def _charts(run: MlflowRun, experiment: str) -> str:
    """Where a run's charts are, in a sentence; nothing where that is not known."""
    page = f"#/experiments/{experiment}/runs/{run.run_id}/model-metrics"
    if run.tracking_uri.startswith("http"):
        return f" Its charts: {redact(run.tracking_uri).rstrip('/')}/{page}"
    if path := sqlite_path(run.tracking_uri):
        here = path.parent == Path.cwd()
        store = path.name if here else path.as_posix()
        option = "" if store == "mlflow.db" else f" --backend-store-uri sqlite:///{store}"
        return f" Its charts, with `mlflow ui{option}`: http://127.0.0.1:5000/{page}"
    return ""


def _log_params(client: MlflowClient, run_id: str, params: list[Param]) -> None:
    client.log_batch(run_id, params=params, synchronous=True)


def _write_end(
    client: MlflowClient, run_id: str, status: str | None, end: int, error: str | None
) -> bool:
    """Write why a run ended, and then that it did."""
    if error:
        client.set_tag(run_id, ERROR, error)
    if status:
        end_run(client, run_id, status, end)
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
    """With MLflow's own functions and its client set as during a run: store, credentials."""
    _process.enter(config)
    try:
        yield
    finally:
        _process.leave()


def close_all() -> None:
    """Close every open run of this process as KILLED."""
    for run in list(_open_runs):
        try:
            run.close("KILLED")
        except Exception as error:  # the next one is to be closed, too
            logger.error("The end of an MLflow run could not be written: %s", reason(error))


def _is_ours(run_id: str) -> bool:
    """Whether the run was opened for a Kedro run, which may have been interrupted."""
    return any(run.run.run_id == run_id for run in _open_runs if run.run and run.opened)


@dataclass(frozen=True)
class Wish:
    """What a Kedro run needs of MLflow.

    Attributes:
        config: The project's.
        project_path: The project's folder.
        run_params: Kedro's, as its hooks get them.
        has_run: Whether it needs a run, beside those in ``own``.
        own: The ids of the runs that the catalog names.
    """

    config: MlflowConfig
    project_path: Path
    run_params: Mapping[str, Any]
    has_run: bool = True
    own: Collection[str] = ()

    @property
    def run_name(self) -> str:
        """The name of its MLflow run."""
        return self.config.run_name or pipeline_name(self.run_params)


def settle(wish: Wish) -> TrackedRun:
    """The MLflow run of a Kedro run.

    In this order: ``mlflow_run_id`` among the runtime parameters, the environment's
    ``MLFLOW_RUN_ID``, a run that the caller has made active, else a new one.

    Raises:
        TrackingError: The store can't be opened, or has no such run.
    """
    config = wish.config
    given = (wish.run_params.get("runtime_params") or {}).get("mlflow_run_id")
    origin = "the runtime parameter mlflow_run_id"
    if not given:
        given, origin = os.environ.get("MLFLOW_RUN_ID"), "the environment's MLFLOW_RUN_ID"
    if not given and (active := active_run()) and not _is_ours(active.run_id):
        given, origin = active.run_id, "the active run"
        config = replace(config, tracking_uri=active.tracking_uri)
    given = str(given or "")
    spool = Spool(
        _spool_uri(wish),
        config.tracking_uri,
        config.experiment,
        wish.run_name,
        tuple(process_tags().items()),
        given=True,
    )
    home = MlflowRun(config.tracking_uri, "", spool)
    try:
        with _at(config):
            for run_id in wish.own:
                _existing(run_id, "the catalog", home.tracking_uri)
            if not wish.has_run:
                return TrackedRun(None, home, None)
            if given:
                entity = _existing(given, origin, home.tracking_uri)
                return TrackedRun(entity, home, replace(home, run_id=given))
            entity = _new(wish, config)
            run = replace(home, run_id=entity.info.run_id, spool=replace(spool, given=False))
            return TrackedRun(entity, home, run, opened=True)
    except StoreAwayError as error:
        if config.on_outage != "spool":
            raise
        logger.warning(
            "The MLflow store %s can't be reached (%s). The run is written to %s, for"
            " `kedro metrics sync`.",
            redact(config.tracking_uri),
            error.reason,
            FILE,
        )
        leave_alone(config.tracking_uri, error)
    return _settle_in_spool(wish, home, given)


def _settle_in_spool(wish: Wish, home: MlflowRun, given: str) -> TrackedRun:
    """A run in the spool, which says where it belongs."""
    config = replace(wish.config, tracking_uri=_spool_uri(wish))
    with _at(config):
        if not wish.has_run:
            return TrackedRun(None, home, None)
        belongs = {HOME: public(home.tracking_uri)}
        if given:
            belongs |= {HOME_RUN: given, GIVEN: "yes"}
        entity = _new(wish, config, belongs)
        run = MlflowRun(config.tracking_uri, entity.info.run_id)
        return TrackedRun(entity, home, run, opened=True)


def _spool_uri(wish: Wish) -> str:
    return f"sqlite:///{(wish.project_path / FILE).as_posix()}"


@contextmanager
def _at(config: MlflowConfig) -> Iterator[None]:
    """With the store ready and the process set for it; it stays so, unless something fails."""
    uri = config.tracking_uri
    with explained(uri), importing(), ExitStack() as undo:
        prepare(uri)
        patiently(partial(reach, uri), AT_START)
        _process.enter(config)  # the first request needs the credentials already
        undo.callback(_process.leave)
        yield
        undo.pop_all()  # it is undone when the run is closed


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


def _new(wish: Wish, config: MlflowConfig, belongs: Mapping[str, str] | None = None) -> Run:
    client = connect(config.tracking_uri)
    experiment = patiently(lambda: experiment_id(client, config.experiment), AT_START)
    spooled = [] if belongs else waiting(_spool_uri(wish))
    if spooled:
        logger.info("%s has %d run(s) that wait for `kedro metrics sync`.", FILE, len(spooled))
    ended = {run.data.tags.get(HOME_RUN, "") for run in spooled}
    try:
        patiently(lambda: close_dead(client, experiment, ended), AT_START)
    except Exception as error:  # whatever it is, the run that begins is not to blame
        logger.warning("Dead MLflow runs were not looked for: %s", reason(error))
    tags = kedro_tags(wish.run_params) | source_tags(wish.project_path) | process_tags()
    return make_run(client, experiment, {**tags, **(belongs or {})}, run_name=wish.run_name)
