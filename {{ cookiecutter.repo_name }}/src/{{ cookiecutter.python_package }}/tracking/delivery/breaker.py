"""``CircuitBreaker``: knows that a store did not answer, and when to try it again."""

from __future__ import annotations

import threading
import time

from ..process.state import process_state
from ..store.errors import StoreUnavailableError

# After how many seconds a store that did not answer is tried again.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0


class CircuitBreaker:
    """Knows that a store did not answer (``error``), and for how long not to ask it again.

    A full disk or a withdrawn permission lets a store be read and not written: after a write that
    failed, only one that succeeds is an answer.
    """

    def __init__(self) -> None:
        self.error: StoreUnavailableError | None = None
        self._pause = FIRST_PAUSE
        self._open_until = 0.0
        self._awaits_write = False
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise the last error again while the store is not to be asked."""
        error = self.error
        if error and self.seconds_left() > 0:
            raise StoreUnavailableError(error.uri, error)

    def seconds_left(self) -> float:
        """For how many seconds no request is to be sent to the store; 0 if one may be."""
        return max(self._open_until - time.monotonic(), 0.0)

    def allow(self) -> None:
        """Let the store be asked at once."""
        self._open_until = 0.0

    def record_failure(self, error: StoreUnavailableError, is_write: bool = False) -> bool:
        """The store did not answer; returns whether that is news."""
        with self._lock:
            is_news = self.error is None
            self.error = error
            self._awaits_write |= is_write
            self._open_until = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            return is_news

    def record_success(self, is_write: bool = True) -> bool:
        """The store did answer; returns whether that is news."""
        with self._lock:
            if self._awaits_write and not is_write:
                return False
            is_news = self.error is not None
            self.error, self._pause, self._open_until = None, FIRST_PAUSE, 0.0
            self._awaits_write = False
            return is_news


def breaker_of(uri: str) -> CircuitBreaker:
    """This process's circuit breaker of a store."""
    breakers: dict[str, CircuitBreaker] = process_state().breakers
    return breakers.get(uri) or breakers.setdefault(uri, CircuitBreaker())
