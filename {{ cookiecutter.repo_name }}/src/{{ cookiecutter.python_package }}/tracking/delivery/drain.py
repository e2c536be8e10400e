"""``Drain``: sends what waits in the outbox for one MLflow run."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress

from ..names import METRICS_PER_REQUEST
from ..points import Point
from ..redaction import redact
from ..store.errors import StoreUnavailableError, TrackingError, reason
from .breaker import FIRST_PAUSE, CircuitBreaker
from .outbox import Outbox, Request


class Drain:
    """Sends what waits for one run, the oldest first, on a thread, until nothing does.

    Attributes:
        is_active: Whether something waits that the thread tries to send. ``lock`` guards it.
        error: The store's refusal of a request that waited; the request stays.
    """

    def __init__(
        self,
        outbox: Outbox,
        run_id: str,
        send: Callable[[Request], None],
        breaker: CircuitBreaker,
        lock: threading.Lock,
    ) -> None:
        self.is_active = False
        self.error: Exception | None = None
        self._outbox = outbox
        self._run_id = run_id
        self._send = send
        self._breaker = breaker
        self._lock = lock
        self._last_try = threading.Event()
        self._thread: threading.Thread | None = None
        self._sent = 0  # requests

    def start(self, after: Future[None], kept: int | None = None) -> None:
        """Begin, when the request that is under way has been answered.

        ``kept`` is its id in the outbox, if it waits there, too.
        """
        if not self.is_active:
            self.is_active = True
            self._thread = threading.Thread(
                target=self._run, args=(after, kept), name="mlflow-drain", daemon=True
            )
            try:
                self._thread.start()
            except RuntimeError:  # see Route._begin; what waits is on disk
                self.is_active = False

    def finish(self, seconds: float, until: float) -> None:
        """Try for the last time, now; return when nothing waits, or the store does not answer.

        The store has so many seconds for each request; one that is slow is waited for, but not
        longer than ``until``, on the monotonic clock.
        """
        thread, sent = self._thread, -1
        self._last_try.set()
        while thread and thread.is_alive() and self._sent != sent:
            sent = self._sent
            thread.join(min(seconds, max(until - time.monotonic(), 0.0)))
        self._last_try.clear()

    def refusal(self) -> TrackingError:
        """The error, in words; a new object each time.

        One that is raised again while an error is handled whose cause it is would be a circle, in
        which rich (15.0), Kedro's printer of tracebacks, never ends.
        """
        assert self.error
        return TrackingError(
            f"What waits in {self._outbox.path} for the MLflow run {self._run_id} can't be written"
            f" to {redact(self._outbox.target_uri)}: {reason(self.error)}. Mend that and run `kedro"
            f" metrics sync`, or forget it with `kedro metrics sync --discard {self._run_id}`."
        )

    def _run(self, after: Future[None], kept: int | None) -> None:
        wait([after])
        pause = 0.0
        try:
            if kept and after.exception() is None:  # written already: it must not be sent again
                with suppress(sqlite3.Error, OSError):
                    self._outbox.remove([kept])
            while True:
                self._last_try.wait(max(pause, self._breaker.seconds_left()))
                is_last = self._last_try.is_set()
                if is_last:
                    self._breaker.allow()
                try:
                    if not self._send_oldest():
                        return
                    pause = 0.0
                except (StoreUnavailableError, sqlite3.Error, OSError):
                    # The latter are the outbox's: another process holds its file locked, say.
                    if is_last:
                        return
                    pause = FIRST_PAUSE
        except Exception as error:
            self.error = error
        finally:
            with self._lock:
                if self._thread is threading.current_thread():  # no other one has been started
                    self.is_active = False

    def _send_oldest(self) -> bool:
        with self._lock:
            rows = self._outbox.waiting(self._run_id)
            if not rows:
                self.is_active = False
        for ids, request in merged(rows):
            self._send(request)
            self._sent += 1
            self._outbox.remove(ids)
        return bool(rows)


def merged(rows: Iterable[tuple[int, Request]]) -> Iterator[tuple[list[int], Request]]:
    """Requests from an outbox as fewer ones, in the same order, with the ids that each is."""
    ids: list[int] = []
    points: list[Point] = []
    for row_id, request in rows:
        is_full = len(points) + len(request.points) > METRICS_PER_REQUEST
        if ids and (is_full or not request.points):
            yield ids, Request(points)
            ids, points = [], []
        if request.points:
            ids.append(row_id)
            points.extend(request.points)
        else:
            yield [row_id], request
    if ids:
        yield ids, Request(points)
