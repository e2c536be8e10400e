"""``MlflowStore``: one MLflow tracking store, with its client, its retries and its deadline."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from random import SystemRandom
from typing import TYPE_CHECKING, Any, TypeVar

from ..names import Tag
from ..points import Point, allowed_name
from ..process.state import gc_paused, process_state
from ..redaction import redact
from ..scanning.uris import sqlite_path
from . import database, queries
from .busy import Deadline, Turns, postpone
from .client import end_run, make_client
from .errors import StoreUnavailableError, TrackingError, is_transient, reason, refined
from .sqlite import make_or_check

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")
StrMap = Mapping[str, str]

# For how many seconds requests are tried, unless another deadline has been set.
RETRY_SECONDS = 20.0
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0


class Retry:
    """Retries requests until this thread's deadline or, without one, for ``RETRY_SECONDS``."""

    def __init__(self) -> None:
        self.answers = 0  # how many requests the store has answered
        self._deadlines: dict[int, Deadline] = {}  # by thread

    @contextmanager
    def deadline(self, seconds: float | None = None, if_busy: float = 0.0) -> Iterator[None]:
        """All requests within the block have so many seconds together; an outer deadline wins.

        They have up to ``if_busy`` while the store answers other threads, once in ``seconds``.
        """
        thread, now = threading.get_ident(), time.monotonic()
        is_outer = thread not in self._deadlines
        if is_outer:
            limit = RETRY_SECONDS if seconds is None else seconds
            self._deadlines[thread] = Deadline(now + limit, limit, now + if_busy)
        try:
            yield
        finally:
            if is_outer:
                self._deadlines.pop(thread, None)

    def __call__(self, request: Callable[[], T]) -> T:
        """Make a request, again and again until the deadline while its error is transient."""
        wait = FIRST_WAIT
        with self.deadline():
            while True:
                try:
                    answer = request()
                except Exception as error:
                    if not is_transient(error) or self.seconds_left() < wait:
                        raise
                else:
                    self.answers += 1
                    if len(self._deadlines) > 1:
                        postpone(dict(self._deadlines))
                    return answer
                # Random, so that processes don't retry in step; the user may have seeded `random`.
                time.sleep(wait * SystemRandom().uniform(0.5, 1))
                wait = min(wait * 2, LONGEST_WAIT)

    def lets_log(self, record: logging.LogRecord) -> bool:
        """Whether a logger may warn of an error: not where requests are made again, or raise it."""
        return record.levelno < logging.WARNING or threading.get_ident() not in self._deadlines

    def extend(self, seconds: float) -> None:
        """Move the deadline."""
        self._deadlines[threading.get_ident()].extend(seconds)

    def seconds_left(self) -> float:
        """Seconds until the deadline; less than none when it is over."""
        known = {thread: each.end for thread, each in dict(self._deadlines).items()}
        others = min(known.values(), default=time.monotonic() + RETRY_SECONDS)
        return known.get(threading.get_ident(), others) - time.monotonic()


class MlflowStore:
    """One tracking store: an SQLite file, a database or a tracking server.

    Its methods try again while an error is transient. They raise ``StoreUnavailableError`` when the
    store has not answered in time, ``StoreRefusedError`` or MLflow's error if it refuses.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.is_open = False  # seen to be whole; a tracking server counts as open, unasked
        self.retry = Retry()
        self.deadline = self.retry.deadline
        self.turns = Turns(lambda: self.retry.answers)
        self._path = sqlite_path(uri)
        self.keys: Any = None  # keys.py: what is known of a MySQL store's
        self._is_database_server = bool(database.dialect(uri))
        self._client: MlflowClient | None = None
        self._client_inode: int | None = None  # the client's
        self._connecting = threading.Lock()

    def open(self) -> None:
        """Make the store, where there is no file or an empty database; else check that it answers.

        Raises a ``TrackingError`` if it can't be opened or written, or is another MLflow version's.
        """
        self.is_open = not self._path and not self._is_database_server
        if self.is_open:  # a tracking server is asked by the first request
            return
        try:
            problem = self.retry(self._open)
        except Exception as error:
            if is_transient(error):
                raise StoreUnavailableError(self.uri, error) from None
            if self._path is None:
                raise
            problem = reason(error)  # "file is not a database"
        if problem:
            raise TrackingError(
                f"The MLflow store {redact(self.uri)} can't be opened: {problem};"
                " mend that, or set another 'tracking_uri' in mlflow.yml."
            )
        self.is_open = True

    def _open(self) -> str | None:
        began = time.monotonic()
        if self._path:
            problem = make_or_check(self._path)
        else:
            problem = database.make_or_check(self.uri, self.retry.seconds_left())
        self.retry.extend(time.monotonic() - began)  # the time to create a new store does not count
        return problem

    def experiment_id(self, name: str) -> str:
        """The id of the experiment, which is created if missing."""
        artifacts = None  # MLflow's own default is where the command was typed
        if self._path:
            artifacts = (self._path.parent / "mlartifacts" / allowed_name(name)).as_uri()
        return self.call(lambda client: queries.experiment_id(client, name, artifacts))

    def create_run(self, experiment: str, tags: StrMap, name: str, began: int | None = None) -> Run:
        """Create a run, exactly one, by its ``Tag.IDEMPOTENCY_KEY``: an answer may be lost.

        One that ``began`` earlier (ms since the epoch) may have been created by another process.
        """
        may_exist = began is not None
        search = f"tags.`{Tag.IDEMPOTENCY_KEY}` = '{tags[Tag.IDEMPOTENCY_KEY]}'"

        def request(client: MlflowClient) -> Run:
            nonlocal may_exist
            existing = client.search_runs([experiment], search) if may_exist else []
            may_exist = True
            return existing[0] if existing else client.create_run(experiment, began, {**tags}, name)

        return self.call(request)

    def get_run(self, run_id: str, named_by: str = "") -> Run:
        """A run; ``named_by`` says who gave its id, for the error if it is missing or deleted."""
        return self.call(lambda client: queries.get_run(client, run_id, named_by))

    def delete_tag(self, run_id: str, key: str) -> None:
        """Remove a tag of a run, if the run has that tag."""
        self.call(lambda client: queries.delete_tag(client, run_id, key))

    def search_runs(self, search: str = "", experiment: str = "", newest: int = 0) -> list[Run]:
        """The runs that a filter finds, in one or all experiments; ``newest``: only so many."""
        return self.call(lambda client: queries.search_runs(client, search, experiment, newest))

    def end_run(self, run_id: str, status: str, end_time: int = 0) -> None:
        """Write a run's end: its status, and its time in ms since the epoch (0: now)."""
        end_time = end_time or time.time_ns() // 1_000_000
        self.call(lambda client: end_run(client, run_id, status, end_time))

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """Write points in one request: at most ``METRICS_PER_REQUEST``."""
        from mlflow.entities import Metric

        metrics = [Metric(p.key, p.value, p.timestamp, p.step, p.model_id) for p in points]
        # MlflowClient.log_batch would make each of the metrics anew.
        self.call(lambda client: client._tracking_client.store.log_batch(run_id, metrics, [], []))

    def log_params_and_tags(self, run_id: str, params: StrMap = {}, tags: StrMap = {}) -> None:  # noqa: B006
        """Write parameters and tags in one request: at most ``PARAMS_PER_REQUEST`` of each."""
        from mlflow.entities import Param, RunTag

        facts = [Param(*item) for item in params.items()], [RunTag(*item) for item in tags.items()]
        self.call(lambda client: client._tracking_client.store.log_batch(run_id, [], *facts))

    def last_steps(self, run_id: str) -> dict[str, int]:
        """The highest step of every key that the run has."""
        return self.call(lambda client: queries.last_steps(client, run_id))

    def histories(self, run_id: str, start: str) -> queries.History:
        """All points of all keys of the run that begin with ``start``."""
        return self.call(lambda client: queries.histories(client, run_id, start))

    def newest_with(self, experiment: str, wanted: queries.Wanted, finished: bool) -> StrMap:
        """By name, the newest (finished) run of the experiment that has a key which is wanted."""
        return self.call(lambda client: queries.newest_with(client, experiment, wanted, finished))

    def call(self, request: Callable[[MlflowClient], T]) -> T:
        """What a request to MLflow's client returns."""
        try:
            return self.retry(lambda: self._request(request))
        except Exception as error:
            raise refined(self.uri, error) from None  # its text has the password

    def _request(self, request: Callable[[MlflowClient], T]) -> T:
        # MLflow's SQL stores make some thirty objects a row: the collector took a fifth of the
        # time of a save, a third of a load's. A tracking server's objects are in its own process.
        with nullcontext() if self.uri.startswith("http") else gc_paused():
            if not self._is_database_server:  # the others have a time limit of their own
                return request(self._connected())
            try:
                return database.request(lambda: request(self._connected()), self.retry)
            except TimeoutError:
                self._client = None  # its connections hang
                raise

    def _connected(self) -> MlflowClient:
        """MLflow's client; a new one where the SQLite file has been replaced."""
        file = self._path.stat().st_ino if self._path and self._path.exists() else None
        with self._connecting:
            client = self._client
            if client is None or file != self._client_inode:
                if self._is_database_server:
                    database.probe(self.uri, self.retry.seconds_left())
                client = make_client(self.uri, self.retry)
                self._client, self._client_inode = client, file
            return client


def store_at(uri: str) -> MlflowStore:
    """This process's object of a store."""
    stores: dict[str, MlflowStore] = process_state().stores
    return stores.get(uri) or stores.setdefault(uri, MlflowStore(uri))
