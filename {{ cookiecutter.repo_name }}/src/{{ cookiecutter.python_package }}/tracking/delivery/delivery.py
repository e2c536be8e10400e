"""``Delivery``: takes the points of one MLflow run, and batches small saves into few requests."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice, repeat

from ..names import METRICS_PER_REQUEST
from ..points import Point
from ..process.state import process_state
from ..store.errors import TrackingError
from ..store.queries import History
from .earlier import Earlier, Metrics, Steps
from .outbox import Request
from .route import Destination, Route

logger = logging.getLogger(__name__)

# How many seconds a point may wait for others: charts in MLflow's UI grow while the node runs.
BATCH_SECONDS = 0.1
LIMIT = 10_000  # points may wait: a store that is slower than the node slows the node down


def delivery_to(destination: Destination) -> Delivery:
    """This process's delivery to an MLflow run."""
    found: Delivery = process_state().delivery(destination, Delivery)
    return found


class Delivery:
    """All that this process sends to and reads from one MLflow run; ``route`` leads to the run.

    From ``open`` to ``close`` small saves are batched; else, in a worker process, each is written.
    """

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.route = Route(destination)
        self.steps = StepCounter()
        self._earlier = Earlier(self.route) if destination.may_repeat else None
        self.observers: list[Callable[[Metrics, Steps], None]] = []  # of what is sent
        self._warned = False
        self._batcher: Batcher | None = None
        self.users = 0  # Kedro runs that use the same external run may overlap
        self._lock = threading.Lock()

    def open(self) -> Delivery:
        """Batch small saves from now on; returns the delivery that does: if closed, another."""
        with self._lock:
            current = delivery_to(self.destination)
            if current is self:
                self.users += 1
                self._batcher = self._batcher or Batcher(self._write)
                return self
        return current.open()

    def close(self) -> None:
        """Write what waits; the last of those who called ``open`` ends the batching."""
        with suppress(Exception):  # the second flush below raises the error again
            self.flush()  # Ctrl-C in here changes nothing: close() can be called again
        with self._lock:
            self.users -= 1
            batcher = None if self.users else self._batcher
        if batcher is None:
            self.flush()
            return
        try:
            batcher.close()  # a node that goes on, after a signal, now writes by itself
        finally:
            with self._lock:  # points are numbered until all is written
                self._batcher = Batcher(self._write) if self.users else None
                if not self.users and delivery_to(self.destination) is self:
                    process_state().deliveries.pop(self.destination, None)

    def send(self, metrics: Metrics, steps: Steps) -> None:
        """Write metrics, by key, at these steps: at once, or with others if they are few."""
        for observe in list(self.observers):  # other threads add and remove theirs
            observe(metrics, steps)
        if self._earlier:
            metrics, steps = self._earlier.without(metrics, steps)
        points = _points(metrics, steps)
        batch = list(islice(points, METRICS_PER_REQUEST))
        if len(batch) < METRICS_PER_REQUEST and (its := self._batcher) and its.add(batch):
            return
        self.flush()
        while batch:
            self._write(batch)
            batch = list(islice(points, METRICS_PER_REQUEST))

    def look_up_steps(self, writer: str, again: bool) -> None:
        """Let points without a step count on from what the run has; once a dataset, or again."""
        run, breaker, answered = self.destination, self.route.breaker, self.steps.answered
        is_known = answered.get(writer) or (writer in answered and breaker.seconds_left() > 0)
        if self._earlier or (is_known and not again):
            return  # a repeated Kedro run gives its points the same steps
        last_steps, answered[writer] = self.route.last_steps()
        self.steps.begin_after(last_steps, by_others=not run.is_external)
        if run.is_external and not (answered[writer] or self._warned):
            self._warned = True
            what = f"begin at 0, whatever the MLflow run {run.run_id} has."
            logger.warning(f"The store does not answer: points without a step {what}")

    def flush(self) -> None:
        """Return when everything that was sent is written."""
        if batcher := self._batcher:
            batcher.flush()

    def histories(self, start: str) -> History:
        """All points of all keys that begin so, with everything that was sent."""
        self.flush()
        return self.route.histories(start)

    def last_steps(self) -> dict[str, int]:
        """The highest step of every key; everything that was sent is taken into account."""
        self.flush()
        return self.route.last_steps()[0]

    def _write(self, points: list[Point]) -> None:
        self.route.write(Request(points))


class StepCounter:
    """Numbers the points without a step, for all datasets of this process that write to one run."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}
        self.writers: dict[str, str] = {}  # by key, the dataset that was the first to write it
        self.answered: dict[str, bool] = {}  # by dataset, whether the store gave the last steps
        self._lock = threading.Lock()

    def begin_after(self, last_steps: Mapping[str, int], by_others: bool) -> None:
        """Count on from these steps, by key, where they are higher than what is known.

        ``by_others``: keys of which nothing is known were written by other processes.
        """
        with self._lock:
            for key, step in last_steps.items():
                self._next[key] = max(self._next.get(key, 0), step + 1)
                if by_others:
                    self.writers.setdefault(key, "")

    def number(self, metrics: Metrics, writer: str) -> dict[str, Sequence[int]]:
        """By key, the steps of the points; those that follow count on from them."""
        with self._lock:
            steps = {key: each.numbered(self._next.get(key, 0)) for key, each in metrics.items()}
            for key, numbers in steps.items():
                self._next[key] = max(self._next.get(key, 0), max(numbers, default=-1) + 1)
                self.writers.setdefault(key, writer)
            return steps


def _points(metrics: Metrics, steps: Steps) -> Iterator[Point]:
    import mlflow

    model = mlflow.get_active_model_id()  # as mlflow.log_metric() does
    # One for a save: MLflow's SQL stores keep equal points once, so a repeated request adds none.
    now = time.time_ns() // 1_000_000
    for key, points in metrics.items():
        for start in range(0, len(points.values), METRICS_PER_REQUEST):
            part = slice(start, start + METRICS_PER_REQUEST)
            values = points.values[part]
            stamps = points.timestamps[part] if points.timestamps else repeat(None, len(values))
            values = values.tolist() if hasattr(values, "tolist") else values  # of an array
            for value, step, stamp in zip(values, steps[key][part], stamps, strict=True):
                yield Point(key, value, step, now if stamp is None else stamp, model)


class Batcher:
    """Writes points on its own thread, in order; after an error, too, unless a TrackingError.

    ``flush`` and ``close`` return when all is written. Later calls raise an error of ``write``.
    """

    def __init__(self, write: Callable[[list[Point]], None]) -> None:
        self._write = write
        self._queue: list[Point] = []
        self._added = self._sent = self._wanted = 0  # points, since the beginning
        self._closed = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()

    def add(self, points: list[Point]) -> bool:
        """Take points, when there is room; False if it took none: a signal may have closed it."""
        with self._changed:
            self._wait(lambda: len(self._queue) < LIMIT)
            if self._closed:
                return False
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="mlflow-batch", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # a limit of threads is reached
                    self._thread = None
                    return False
            self._queue.extend(points)
            self._added += len(points)
            if not len(points) < len(self._queue) < METRICS_PER_REQUEST:  # the first, or enough
                self._changed.notify_all()
            return True

    def flush(self) -> None:
        """Return when everything that has been added is written; a node may add more meanwhile."""
        with self._changed:
            added = self._wanted = self._added
            self._changed.notify_all()
            self._wait(lambda: self._sent >= added)

    def close(self) -> None:
        """Write what is left and end the thread."""
        try:
            self.flush()
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            if self._thread:
                self._thread.join()  # the thread first writes what came after the flush

    def _wait(self, condition: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: condition() or self._error)
        if self._error:
            raise self._error from None  # the handled error may be its effect: Drain.refusal

    def _work(self) -> None:
        while not isinstance(self._error, TrackingError) and (batch := self._next()):
            try:
                self._write(batch)
            except BaseException as error:
                self._error = error
            with self._changed:
                self._sent += len(batch)
                self._changed.notify_all()

    def _next(self) -> list[Point]:
        """The next request's points, when there are enough or they have waited long enough."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            self._changed.wait_for(self._is_due, timeout=BATCH_SECONDS)
            batch = self._queue[:METRICS_PER_REQUEST]
            del self._queue[:METRICS_PER_REQUEST]
            self._changed.notify_all()
            return batch

    def _is_due(self) -> bool:
        return self._closed or self._sent < self._wanted or len(self._queue) >= METRICS_PER_REQUEST
