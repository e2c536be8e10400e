"""``Route``: from this process to one MLflow run; to its store or, in an outage, to the outbox."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from ..names import OUTBOX_FILE, Tag
from ..points import Point
from ..process.state import process_state
from ..redaction import redact
from ..store.errors import StoreUnavailableError, TrackingError, is_outage, reason
from ..store.mlflow_store import MlflowStore, store_at
from ..store.queries import History
from .outbox import Outbox

logger = logging.getLogger(__name__)

T = TypeVar("T")
Request = Callable[[MlflowStore, str], T]

# For how many seconds a store that did not answer is tried again, and after how many.
PROBE_SECONDS, FIRST_PAUSE, LONGEST_PAUSE = 2.0, 1.0, 30.0


@dataclass(frozen=True)
class Destination:
    """An MLflow run, for points to go to. Plain values: the same in every thread and process."""

    tracking_uri: str = field(repr=False)
    run_id: str
    outbox: Outbox | None = None

    @property
    def is_external(self) -> bool:
        """Whether the run was there before, and its end is left to who opened it."""
        return self.outbox is not None and self.outbox.external


@dataclass(frozen=True)
class RunEnd:
    """How a run ended: FINISHED, FAILED or KILLED, when (ms since the epoch), with which error.

    ``is_mended``: it has the error of an earlier Kedro run, which this one has mended.
    """

    status: str
    time: int
    error: str = ""
    is_mended: bool = False


class CircuitBreaker:
    """Knows that a store did not answer (``error``), and when to try it again."""

    def __init__(self) -> None:
        self.error: StoreUnavailableError | None = None
        self._pause = FIRST_PAUSE
        self._open_until = 0.0
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise the error again while the store is not to be asked."""
        if self.error and time.monotonic() < self._open_until:
            raise StoreUnavailableError(self.error.uri, self.error)

    def record_failure(self, error: StoreUnavailableError) -> bool:
        """The store did not answer; returns whether that is news."""
        with self._lock:
            is_news = self.error is None
            self.error = error
            self._open_until = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            return is_news

    def record_success(self) -> bool:
        """The store did answer; returns whether that is news."""
        with self._lock:
            is_news = self.error is not None
            self.error, self._pause, self._open_until = None, FIRST_PAUSE, 0.0
            return is_news


def breaker_of(uri: str) -> CircuitBreaker:
    """This process's circuit breaker of a store."""
    breakers: dict[str, CircuitBreaker] = process_state().breakers
    return breakers.get(uri) or breakers.setdefault(uri, CircuitBreaker())


class Route:
    """Makes the requests for one MLflow run, each to its store or, in an outage, to the outbox.

    ``part`` is the id of what is known to wait in the outbox. Without an outbox, writing raises
    ``StoreUnavailableError`` in an outage; with one, ``TrackingError`` if that can't be written.
    """

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self._store = store_at(destination.tracking_uri)
        self.breaker = breaker_of(destination.tracking_uri)
        self._outbox = destination.outbox
        self.part: str | None = None

    def log_points(self, points: Sequence[Point]) -> None:
        """Write points in one request."""
        self._write(lambda store, run_id: store.log_points(run_id, points))

    def log_params(self, params: Mapping[str, str]) -> None:
        """Write parameters in one request."""
        self._write(lambda store, run_id: store.log_params_and_tags(run_id, params))

    def end(self, end: RunEnd) -> None:
        """Write the end of the run, and of its part in the outbox, if it has one."""
        external = self.destination.is_external
        try:
            self._ask(partial(_write_end, end=end, external=external))
        except StoreUnavailableError as error:
            self._to_outbox(partial(_write_end, end=end), error)
        else:
            self.end_part(end)

    def end_part(self, end: RunEnd) -> None:
        """Write the end of the run's part in the outbox, if it has one."""
        if self._outbox:
            with _readable():
                self.part = self.part or self._outbox.find_part(self.destination.run_id, True)
                if self.part:
                    _write_end(self._outbox.store, self.part, end)

    def last_steps(self) -> dict[str, int]:
        """The highest step of every key that the run has; in an outage, of those in the outbox."""
        try:
            found = self._ask(MlflowStore.last_steps)
        except StoreUnavailableError:
            if self._outbox is None:
                raise
            found = {}
        for key, step in (self._ask_outbox(MlflowStore.last_steps) or {}).items():
            found[key] = max(step, found.get(key, step))
        return found

    def histories(self, start: str) -> History:
        """All points of all keys that begin so, also of those that wait in the outbox."""
        found = self._ask(lambda store, run_id: store.histories(run_id, start))
        waiting = self._ask_outbox(lambda store, run_id: store.histories(run_id, start)) or {}
        for key, points in waiting.items():  # after a lost answer some are in both
            found[key] = sorted({*found.get(key, ()), *points})
        return dict(sorted(found.items()))

    def _write(self, request: Request[None]) -> None:
        try:
            self._ask(request)
        except StoreUnavailableError as error:
            self._to_outbox(request, error)

    def _ask(self, request: Request[T]) -> T:
        """The store's answer, unless the circuit breaker is open."""
        breaker, uri = self.breaker, self._store.uri
        breaker.check()
        try:
            with self._store.deadline(PROBE_SECONDS if breaker.error else None):
                answer = request(self._store, self.destination.run_id)
        except Exception as error:
            if not is_outage(error):
                raise
            unavailable = StoreUnavailableError(uri, error)
            if self._outbox and breaker.record_failure(unavailable):
                logger.warning(
                    f"The MLflow store {redact(uri)} does not answer ({unavailable.reason})."
                    f" The run goes on; what can't be written there waits in {OUTBOX_FILE}, for"
                    " `kedro metrics sync`."
                )
            raise unavailable from None  # the error's text has the password
        if breaker.error and breaker.record_success():
            logger.info("The MLflow store %s answers again.", redact(uri))
        return answer

    def _to_outbox(self, request: Request[None], error: StoreUnavailableError) -> None:
        if self._outbox is None:
            raise error
        try:
            if self.part is None:
                self.part = self._outbox.open_part(self.destination.run_id)
            request(self._outbox.store, self.part)
        except Exception as failure:
            raise TrackingError(
                f"The MLflow store {redact(self._store.uri)} does not answer, and {OUTBOX_FILE}"
                f" can't be written: {reason(failure)}; what was saved before is there."
            ) from None

    def _ask_outbox(self, request: Request[T]) -> T | None:
        """The outbox's answer; None if it has nothing of the run, or can't be read."""
        if self._outbox:
            with _readable():
                if part := self.part or self._outbox.find_part(self.destination.run_id):
                    return request(self._outbox.store, part)
        return None


@contextmanager
def _readable() -> Iterator[None]:
    """No run whose store answers fails because of an outbox that can't be read."""
    try:
        yield
    except Exception as error:
        logger.warning("%s can't be read: %s", OUTBOX_FILE, reason(error))


def _write_end(store: MlflowStore, run_id: str, end: RunEnd, external: bool = False) -> None:
    if end.error:
        store.log_params_and_tags(run_id, tags={Tag.ERROR: end.error})
    elif end.is_mended and external:
        store.delete_tag(run_id, Tag.ERROR)
    if not external:
        store.end_run(run_id, end.status, end.time)
