"""Gathers small saves, so that a node that yields a thousand times is not a thousand requests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Metric

# How long a point may wait for others, in seconds: a curve grows as one watches.
PATIENCE = 0.1
# How many points may wait: a store that is slower than the node slows the node down.
LIMIT = 10_000


class Writer:
    """Writes points on a thread of its own, in the order in which they came.

    Nothing is left behind: ``flush`` and ``close`` return when all is written. Nothing fails
    unseen: what ``send`` raised is raised by every later call.
    """

    def __init__(
        self, send: Callable[[list[Metric]], None], at_most: int, on_close: Callable[[], object]
    ) -> None:
        """A writer without a thread, until there is something to write.

        Args:
            send: Writes points in one request.
            at_most: How many points a request takes.
            on_close: Called when the writer takes no more.
        """
        self._send = send
        self._at_most = at_most
        self._on_close = on_close
        self._waiting: list[Metric] = []
        self._sending = False
        self._wanted = False  # somebody waits for all to be written
        self._closed = False
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()

    def put(self, points: list[Metric]) -> bool:
        """Take points, to be written soon; waits while too many are waiting.

        Returns:
            False if the writer has been closed and took none: by a signal, on another thread.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < LIMIT or self._error)
            self._raise()
            if self._closed:
                return False
            self._waiting.extend(points)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="mlflow-writer", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()
            return True

    def flush(self) -> None:
        """Return when everything that was put is written."""
        with self._changed:
            self._wanted = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not (self._waiting or self._sending) or self._error)
            self._wanted = False
            self._raise()

    def close(self) -> None:
        """Write what is left and end the thread."""
        try:
            self.flush()
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            if self._thread:
                self._thread.join()  # it writes what came after the flush
            self._on_close()

    def _raise(self) -> None:
        if self._error:
            raise self._error

    def _work(self) -> None:
        while batch := self._next():
            try:
                self._send(batch)
            except Exception as error:
                with self._changed:
                    self._error = error
            with self._changed:
                self._sending = False
                self._changed.notify_all()
                if self._error:
                    return

    def _next(self) -> list[Metric]:
        """The next request's points, when there are enough or they have waited long enough."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            self._changed.wait_for(
                lambda: len(self._waiting) >= self._at_most or self._wanted or self._closed,
                timeout=PATIENCE,
            )
            batch = self._waiting[: self._at_most]
            del self._waiting[: self._at_most]
            self._sending = bool(batch)
            self._changed.notify_all()
            return batch
