"""``Route``: from this process to one MLflow run; to its store or, in an outage, to the outbox."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as NotYetError
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from ..names import MAX_TAG_LENGTH, Tag
from ..redaction import redact
from ..store.errors import StoreUnavailableError, TrackingError, is_outage, reason
from ..store.mlflow_store import RETRY_SECONDS, MlflowStore, store_at
from ..store.queries import History
from .breaker import breaker_of
from .drain import Drain
from .outbox import Outbox, Request, RunEnd

logger = logging.getLogger(__name__)

T = TypeVar("T")

# What the store has not confirmed after so many seconds is written to the outbox as well.
CONFIRM_SECONDS = 0.5
# For how many seconds a store is tried that did not answer before; and by a process told to end.
PROBE_SECONDS, HASTY_SECONDS = 2.0, 3.0


@dataclass(frozen=True)
class Destination:
    """An MLflow run, for points to go to. Plain values: the same in every thread and process."""

    tracking_uri: str = field(repr=False)
    run_id: str
    outbox: Outbox | None = None
    is_external: bool = False  # was there before; who opened the run ends it
    may_repeat: bool = False  # an earlier try may have written to it; its points are left out
    attempt_id: str = ""  # of a try of a node on a cluster; each try counts its own steps


class Route:
    """Writes to and reads from one MLflow run.

    A request goes to the store directly. What the store has not confirmed within
    ``CONFIRM_SECONDS`` (parameters: ``RETRY_SECONDS``) goes to the outbox, with all that follows; a
    thread sends what waits there, the oldest first. Without an outbox, writing raises
    ``StoreUnavailableError`` in an outage; with one, ``TrackingError`` if that can't be written.
    """

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.breaker = breaker_of(destination.tracking_uri)
        self._store = store_at(destination.tracking_uri)
        self._outbox = destination.outbox
        self._lock = threading.Lock()
        self._is_unreadable = False  # the outbox; warned of once
        self._pending: Future[None] = Future()  # the request that the store has not confirmed
        self._pending.set_result(None)
        self._confirmed = -math.inf  # when the store has confirmed one, on the monotonic clock
        self._drain: Drain | None = None
        if outbox := self._outbox:
            self._drain = Drain(outbox, destination.run_id, self._send, self.breaker, self._lock)

    def write(self, request: Request) -> None:
        """Return when the request is in the store or, on disk, in the outbox."""
        if self._drain is None:
            self._send(request)
            return
        if self._drain.error:
            raise self._drain.refusal()
        self._write(request, self._drain)

    def end(self, end: RunEnd | None, until: float | None = None) -> None:
        """Write the run's end, if there is one to write, and try to send all that waits.

        The end is in the store or on disk before anything is waited for: the store has some seconds
        for each request. A process that is told to end waits ``until`` then (monotonic clock), if
        the store answers. Raises its refusal of what waited: such a run is not FINISHED.
        """
        seconds = RETRY_SECONDS if until is None else max(until - time.monotonic(), 0.0)
        if (drain := self._drain) is None:
            if end:
                with self._store.deadline(seconds):
                    self._send(Request(end=end))
            return
        with self._lock:
            if drain.error is None and any(self._waiting()):  # of a worker process, say
                drain.start(self._pending)
            was_idle = self._pending.done() and not drain.is_active
        if end:
            self._write(Request(end=end), drain)
        has_answered = time.monotonic() - self._confirmed < HASTY_SECONDS
        if until and (self.breaker.error or not (was_idle or has_answered)):
            seconds = 0.0
        wait([self._pending], seconds)
        drain.finish(seconds, until or math.inf)
        if drain.error:
            refusal = drain.refusal()
            if end and end.status == "FINISHED":
                failed = replace(end, status="FAILED", error=str(refusal)[:MAX_TAG_LENGTH])
                self._write(Request(end=failed), drain)
            raise refusal

    def _write(self, request: Request, drain: Drain) -> None:
        pending = None
        with self._lock:
            if self._pending.done() and not drain.is_active:
                pending = self._pending = self._begin(request)
                if _is_confirmed(pending, CONFIRM_SECONDS):
                    return
        # The store may take its time to refuse parameters; who ends the run does not wait for that.
        if pending and _is_confirmed(pending, RETRY_SECONDS if request.params else 0.0):
            return
        try:
            with self._lock:
                kept = self._keep(request)
                drain.start(self._pending, kept if pending is self._pending else None)
        except TrackingError:  # the store, which may be slow, is all there is
            if not _is_confirmed(pending or self._begin(request), RETRY_SECONDS):
                raise

    def _begin(self, request: Request) -> Future[None]:
        """Send a request on a thread of its own, which does not keep the process from ending."""
        outcome: Future[None] = Future()

        def call() -> None:
            try:
                self._send(request)
                outcome.set_result(None)
            except BaseException as error:
                outcome.set_exception(error)

        try:
            threading.Thread(target=call, name="mlflow-request", daemon=True).start()
        except RuntimeError:  # a limit of threads is reached, or, in Python 3.12, the process exits
            with self._store.deadline(PROBE_SECONDS):
                call()
        return outcome

    def count_waiting(self) -> int | None:
        """How many points of the run wait in the outbox; None if nothing does."""
        numbers = [len(request.points) for request in self._waiting()]
        return sum(numbers) if numbers else None

    def last_steps(self) -> tuple[dict[str, int], bool]:
        """The highest step of every key, and whether the store's points are among them."""
        waiting = [*self._waiting()]  # read first: the drain deletes what it has written
        try:
            found, is_known = self.ask(MlflowStore.last_steps), True
        except StoreUnavailableError:
            if self._outbox is None:
                raise
            found, is_known = {}, False
        for request in waiting:
            for point in request.points:
                found[point.key] = max(point.step, found.get(point.key, point.step))
        return found, is_known

    def histories(self, start: str) -> History:
        """All points of all keys that begin with ``start``, with those that wait in the outbox."""
        waiting = [*self._waiting()]  # read first: the drain deletes what it has written
        found = self.ask(lambda store, run_id: store.histories(run_id, start))
        more: dict[str, set[tuple[int, int, float]]] = defaultdict(set)
        for key, value, step, timestamp, _ in (p for request in waiting for p in request.points):
            if key.startswith(start):
                # One and the same NaN is equal to itself within a tuple.
                more[key].add((timestamp, step, math.nan if math.isnan(value) else value))
        for key, points in more.items():
            found[key] = [*found.get(key, ()), *points.difference(found.get(key, ()))]
        return {key: sorted(found[key]) for key in sorted(found)}

    def ask(self, request: Callable[[MlflowStore, str], T], is_write: bool = False) -> T:
        """The store's answer, unless the circuit breaker is open."""
        breaker, uri = self.breaker, self._store.uri
        if breaker.error:
            breaker.check()
        try:
            with self._store.deadline(PROBE_SECONDS if breaker.error else None):
                answer = request(self._store, self.destination.run_id)
        except Exception as error:
            if not is_outage(error):
                raise
            unavailable = StoreUnavailableError(uri, error)
            is_news = breaker.record_failure(unavailable, is_write)
            if self._outbox and is_news:
                logger.warning(
                    f"The MLflow store {redact(uri)} does not answer ({unavailable.reason}). The"
                    f" run goes on; what can't be written there waits in {self._outbox.path}, for"
                    " `kedro metrics sync`."
                )
            raise unavailable from None  # the error's text has the password
        if breaker.error and breaker.record_success(is_write):
            logger.info("The MLflow store %s answers again.", redact(uri))
        return answer

    def _send(self, request: Request) -> None:
        self.ask(partial(send, request), is_write=True)
        self._confirmed = time.monotonic()

    def _keep(self, request: Request) -> int | None:
        assert self._outbox
        try:
            return self._outbox.add(self.destination.run_id, request)
        except Exception as failure:
            raise TrackingError(
                f"The MLflow store {redact(self._store.uri)} does not answer, and"
                f" {self._outbox.path} can't be written: {reason(failure)}; what was saved before"
                " is there."
            ) from None

    def _waiting(self) -> Iterator[Request]:
        """What waits; no run whose store answers fails because of an unreadable outbox."""
        if self._outbox is None:
            return
        try:
            yield from self._outbox.all_waiting(self.destination.run_id)
        except Exception as error:
            if not self._is_unreadable:
                logger.warning("%s can't be read: %s", self._outbox.path, reason(error))
            self._is_unreadable = True


def send(request: Request, store: MlflowStore, run_id: str) -> None:
    """Write a request; it may be sent again, for MLflow's SQL stores keep equal points once."""
    if request.points:
        store.log_points(run_id, request.points)
    if request.params:
        store.log_params_and_tags(run_id, request.params)
    if request.end and request.end.error:
        store.log_params_and_tags(run_id, tags={Tag.ERROR: request.end.error})
    if request.end and request.end.is_mended:
        store.delete_tag(run_id, Tag.ERROR)
    if request.end and request.end.status:
        store.end_run(run_id, request.end.status, request.end.time)


def _is_confirmed(pending: Future[None], seconds: float) -> bool:
    """Whether the store confirms a request in time; raises the error if the store refuses it."""
    try:
        pending.result(seconds)
    except (StoreUnavailableError, NotYetError):
        return False
    return True
