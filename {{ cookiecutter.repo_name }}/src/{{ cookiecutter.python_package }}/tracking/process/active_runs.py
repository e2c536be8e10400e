"""An MLflow run as the one of MLflow's own functions, on every thread that executes its nodes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import ActiveRun

# Code that can be suspended: a suspended frame has no caller.
_SUSPENDABLE = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR
# How often another thread's frames are read, at most, while the outermost one is suspended.
_MOST_LOOKS = 1000


def kedro_objects(frame: FrameType | None) -> Iterator[int]:
    """The ids of catalogs, and of other objects, with which Kedro is at work in these frames.

    The innermost come first. Kedro's dataset hooks get no catalog, and with ``is_async`` it saves
    on threads on which it calls no hook (kedro/runner/task.py, 1.0 to 1.7); but it has the catalog
    in the frames below: as ``catalog`` in session, runner and task, as ``self`` in the catalog.
    """
    return _kedro_objects(with_callers(frame))


def _kedro_objects(frames: Iterable[FrameType]) -> Iterator[int]:
    for frame in frames:
        if frame.f_globals.get("__name__", "").startswith("kedro."):
            names = frame.f_locals
            yield from (id(names[name]) for name in ("catalog", "self") if name in names)


def with_callers(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and its callers, from the inside out."""
    while frame:
        yield frame
        frame = frame.f_back


def is_executed(catalog_id: int | None, thread: threading.Thread) -> bool:
    """Whether Kedro is at work with a catalog on a thread.

    Another thread goes on while its frames are followed, and its context managers are generators:
    where one has yielded meanwhile the frames end too early, and tell nothing.
    """
    if thread is threading.current_thread():
        return catalog_id in [*kedro_objects(sys._getframe())]
    for _ in range(_MOST_LOOKS):
        if thread.ident not in (innermost := sys._current_frames()):
            return thread.is_alive()  # its frames are not to be had: a greenlet
        frames = [*with_callers(innermost[thread.ident])]
        if catalog_id in [*_kedro_objects(frames)]:
            return True
        if not frames[-1].f_code.co_flags & _SUSPENDABLE:
            return False
    return True  # as far as is known


@dataclass(frozen=True)
class LeftRun:
    """A run that a node, or a hook, has begun within another one and not ended."""

    tracking_uri: str
    run_id: str


@dataclass
class Seat:
    """The place of an active run on one thread: MLflow's stack of active runs there."""

    stack: list[Any]
    outer: list[Any]  # what was on the stack before the run
    before_nodes: list[Any] | None = None  # what was there before the first node
    node: object = None  # of which something was executed last


class ActiveOnThreads:
    """One MLflow run, as the active one of any number of threads.

    ``mlflow.start_run()`` would take three requests, and only ``mlflow.end_run()``, which ends
    the run, would undo it.
    """

    def __init__(self, run: ActiveRun, is_used: Callable[[str], bool]) -> None:
        """An active run, on no thread yet.

        Args:
            run: MLflow's.
            is_used: Whether a Kedro run uses the run with this id, and will end it.
        """
        self.run = run
        self._is_used = is_used
        self._seats: dict[int, Seat] = {}  # by the id of the stack, which the seat keeps alive
        self._left: list[LeftRun] = []

    def take_seat(self, stack: list[Any] | None = None) -> Seat:
        """Make the run the active one of this thread, or of the thread that has this stack."""
        stack = _stack() if stack is None else stack
        seat = self._seats.setdefault(id(stack), Seat(stack, list(stack)))
        if self.run.info.run_id not in [run.info.run_id for run in stack]:  # by the caller, say
            stack.append(self.run)
        return seat

    def enter(self, node: object) -> None:
        """Before a node's code is executed on this thread: leave no other node's run active."""
        seat = self.take_seat()
        if seat.before_nodes is None:
            seat.before_nodes = list(seat.stack)
        elif node is not seat.node:
            self._clear(seat)
        seat.node = node

    def leave(self) -> None:
        """After a node on this thread."""
        if seat := self._seats.get(id(_stack())):
            self._clear(seat)

    def end(self) -> list[LeftRun]:
        """Be active nowhere; returns the runs that were begun within and not ended."""
        for seat in list(self._seats.values()):
            others = [run for run in seat.stack if self._is_used(run.info.run_id)]
            self._keep(seat, [run for run in (*seat.outer, *others) if run is not self.run])
        self._seats.clear()
        return self._left

    def _clear(self, seat: Seat) -> None:
        self._keep(seat, seat.outer if seat.before_nodes is None else seat.before_nodes)
        self.take_seat(seat.stack)  # a node may have called mlflow.end_run() once too often

    def _keep(self, seat: Seat, kept: list[Any]) -> None:
        """Remove all but the ``kept`` runs from a stack; remember those that were left open."""
        left = [run for run in seat.stack if not any(run is other for other in kept)]
        if left:
            seat.stack[:] = [run for run in seat.stack if not any(run is gone for gone in left)]
            self._left += _left_runs(
                run for run in left if run is not self.run and not self._is_used(run.info.run_id)
            )


def _left_runs(runs: Iterator[Any]) -> list[LeftRun]:
    import mlflow

    return [LeftRun(mlflow.get_tracking_uri(), run.info.run_id) for run in runs]


def _stack() -> list[Any]:
    from mlflow.tracking import fluent

    stack: list[Any] = fluent._active_run_stack.get()  # MLflow has no public way to do this
    return stack


def clear_thread(run: ActiveRun | None = None) -> None:
    """Let a run, or none, be all that is active on this thread."""
    _stack()[:] = [run] if run else []


def set_last_active(run_id: str) -> None:
    """Make a run that has ended that of ``mlflow.last_active_run()`` on this thread."""
    from mlflow.tracking import fluent

    fluent._last_active_run_id.set(run_id)


def end_system_metrics(run_id: str) -> None:
    """End the thread that ``mlflow.start_run(log_system_metrics=True)`` has started."""
    from mlflow.tracking import fluent

    if monitor := fluent.run_id_to_system_metrics_monitor.pop(run_id, None):
        monitor.finish()


def on_new_threads(stack_of_thread: Callable[[], list[Any]]) -> Callable[[], None]:
    """Have MLflow ask for the stack of active runs of a thread on which it has not been called yet.

    An empty one means: as MLflow has it. Returns what undoes it.
    """
    from mlflow.tracking import fluent

    variable = fluent._active_run_stack
    before = variable.default_factory
    variable.default_factory = lambda: stack_of_thread() or before()

    def undo() -> None:
        variable.default_factory = before

    return undo
