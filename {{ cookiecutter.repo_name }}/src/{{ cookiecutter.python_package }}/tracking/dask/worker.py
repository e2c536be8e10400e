"""What a worker of a Dask cluster does: executes a node, as part of the MLflow run."""

from __future__ import annotations

import ctypes
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks.manager import (
    _create_hook_manager,
    _register_hooks,
    _register_hooks_entry_points,
)
from kedro.framework.project import configure_project, settings

from ..dataset import MlflowMetricsDataset
from ..process import active_runs
from ..process.state import process_state
from ..redaction import Secrets, register, secrets_of_environment

if TYPE_CHECKING:
    from kedro.pipeline.node import Node
    from kedro.runner.task import Task
    from pluggy import PluginManager

    from ..delivery.binding import Binding
    from ..delivery.route import Destination


WATCH_SECONDS = 0.5


@dataclass(frozen=True)
class Share:
    """What many workers take part in: a store, and an MLflow run of it. It is sent to them."""

    tracking_uri: str = field(repr=False)
    run: Mapping[str, Any] | None  # mlflow.entities.RunInfo, by field; None: only the catalog's
    credentials: Mapping[str, str] = field(repr=False)
    secrets: Secrets = field(repr=False)  # what no log of a worker's shows
    last_steps: Mapping[Destination, Mapping[str, int]]  # that external runs had before, by key


class CancelledTaskError(BaseException):
    """Raised amid a node whose Kedro run has ended."""


def execute(task: Task, package: str, share: Share | None) -> Node:
    """Execute a node, with the project's hooks, on this thread of a worker."""
    task.hook_manager = _hook_manager(package)
    try:
        with _cancellable(), _taking_part(task, package, share):
            return task.execute()
    except CancelledTaskError:
        raise RuntimeError("The Kedro run has ended.") from None


@contextmanager
def _cancellable() -> Iterator[None]:
    """Raise an error in this thread, within the block, when the task is cancelled.

    Dask cancels the tasks of a client that wants them no more, or is gone, but does not interrupt
    what a thread has begun (https://distributed.dask.org/en/stable/worker-state.html).
    """
    worker: Any = import_module("distributed").get_worker()
    key, thread, ended = worker.get_current_task(), threading.get_ident(), threading.Event()

    def watch() -> None:
        while not ended.wait(WATCH_SECONDS):
            state = getattr(worker.state.tasks.get(key), "state", "cancelled")
            if state == "cancelled":  # raised in the node's thread, at its next instruction
                error = ctypes.py_object(CancelledTaskError)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), error)
                return

    watcher = threading.Thread(target=watch, name="mlflow-dask-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


@cache
def _hook_manager(package: str) -> PluginManager:
    """The project's hooks, made once a process: Kedro (1.7) would make them for each task."""
    configure_project(package)
    manager = _create_hook_manager()
    _register_hooks(manager, settings.HOOKS)
    _register_hooks_entry_points(manager, settings.DISABLE_HOOKS_FOR_PLUGINS)
    return manager


@contextmanager
def _taking_part(task: Task, package: str, share: Share | None) -> Iterator[None]:
    """Within the block the node's metrics, and its own MLflow calls, go to the run."""
    if share is None:
        yield
        return
    state, user = process_state(), object()
    with ExitStack() as undo:
        state.begin_tracking(share.tracking_uri, share.credentials, user)
        undo.callback(state.end_tracking, user)
        register(package, share.secrets)
        register("environment", Secrets(secrets_of_environment()))
        _activate(share.run, undo)
        attempt_id = uuid.uuid4().hex
        for name in task.node.outputs:
            dataset = task.catalog.get(name)
            if isinstance(dataset, MlflowMetricsDataset) and dataset.binding:
                _open(dataset, dataset.binding, share, attempt_id, undo)
        yield


def _activate(info: Mapping[str, Any] | None, undo: ExitStack) -> None:
    """Make a run the active one of this thread; without one, end what the node opens."""
    from mlflow import ActiveRun, end_run
    from mlflow.entities import Run, RunData, RunInfo

    if info is None:
        undo.callback(end_run)
        return
    process_state().begin_experiment(info["experiment_id"])
    undo.callback(active_runs.clear_thread)
    active_runs.clear_thread(ActiveRun(Run(RunInfo(**info), RunData())))


def _open(
    dataset: MlflowMetricsDataset, binding: Binding, share: Share, attempt_id: str, undo: ExitStack
) -> None:
    """Batch small saves of a dataset until the node has ended.

    Dask executes the node of a lost worker again. So there is a delivery for each try, which counts
    steps from the same as the first one, and leaves out what is there.
    """
    from ..delivery.delivery import delivery_to

    if binding.destination is None:
        return
    destination = replace(binding.destination, may_repeat=True, attempt_id=attempt_id)
    dataset.bind(replace(binding, destination=destination))
    delivery = delivery_to(destination).open()
    undo.callback(delivery.close)
    last_steps = share.last_steps.get(binding.destination, {})
    delivery.steps.begin_after(last_steps, by_others=False)
