"""Where points wait while their store is away: an MLflow store in the project's folder."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from .client import connect, experiment_id, make_run
from .errors import StoreAwayError, TrackingError, reason
from .liveness import PROCESS
from .patience import LATER, is_outage, patiently
from .redaction import public, redact
from .sqlite import locked, prepare, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

FILE = "mlflow-spool.db"
# Tags of a run in the spool: the store that it belongs to; the run there, if it has been made;
# whether that run was given, and is not to be ended.
HOME, HOME_RUN, GIVEN = "kedro.spool.store", "kedro.spool.run_id", "kedro.spool.given"

# For how many seconds a store that was away is tried, and for how many it is left alone.
AGAIN, FIRST_REST, LONGEST_REST = 2.0, 1.0, 30.0


@dataclass(frozen=True)
class Spool:
    """Where the points of one MLflow run may wait. Plain values: it can be pickled.

    Attributes:
        uri: The store in the project's folder.
        home: The store that the run belongs to.
        experiment: The name of the run's experiment.
        run_name: The name of its part here.
        process: Tags of the process that runs Kedro, which is not that of a worker.
        given: Whether the user named the run, so that it is not ended here.
    """

    uri: str
    home: str = field(repr=False)
    experiment: str
    run_name: str
    process: tuple[tuple[str, str], ...]
    given: bool = False

    def find(self, run_id: str, *, to_write: bool = False) -> str | None:
        """The id of the spooled part of a run, if it has one; to write, if it has not ended."""
        path = sqlite_path(self.uri)
        if path is None or not path.exists():
            return None
        prepare(self.uri)
        owner = dict(self.process)[PROCESS]
        search = f"tags.`{HOME_RUN}` = '{run_id}' and tags.`{PROCESS}` = '{owner}'"
        if to_write:
            search += " and attributes.status = 'RUNNING'"
        for run in spooled_runs(connect(self.uri), search):
            return str(run.info.run_id)
        return None

    def find_or_make(self, run_id: str) -> str:
        """The id of the spooled part of a run; all processes of a Kedro run share it."""
        path = sqlite_path(self.uri)
        assert path is not None
        prepare(self.uri)
        with locked(path):
            return self.find(run_id, to_write=True) or self._make(run_id)

    def _make(self, run_id: str) -> str:
        client = connect(self.uri)
        tags = {HOME: public(self.home), HOME_RUN: run_id, **dict(self.process)}
        tags |= {GIVEN: "yes"} if self.given else {}
        experiment = experiment_id(client, self.experiment)
        return str(make_run(client, experiment, tags, run_name=self.run_name).info.run_id)


def waiting(uri: str) -> list[Run]:
    """The runs in a spool, if there is one and it can be read."""
    path = sqlite_path(uri)
    if path is None or not path.exists():
        return []
    try:
        prepare(uri)
        return spooled_runs(connect(uri))
    except Exception as error:
        logger.warning("%s can't be read: %s", FILE, reason(error))
        return []


def spooled_runs(client: MlflowClient, search: str = "") -> list[Run]:
    """All runs of a spool that have not been brought home, the oldest first."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            experiments, search, order_by=["attributes.start_time"], page_token=token
        )
        runs += page
        token = page.token
        if not token:
            return runs


Request = Callable[["MlflowClient", str], Any]


class _Store:
    """Whether a store is away, for all that this process has in it.

    Attributes:
        away: Why, if it did not answer when it was last asked.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.away: Exception | None = None
        self._rest = FIRST_REST
        self._rests_until = 0.0
        self._lock = threading.Lock()

    def rests(self) -> Exception | None:
        """Why it is left alone for now; None if it is not."""
        return self.away if time.monotonic() < self._rests_until else None

    def lost(self, error: Exception) -> bool:
        """It did not answer; returns whether that is news."""
        with self._lock:
            is_news = self.away is None
            self.away = error
            self._rests_until = time.monotonic() + self._rest
            self._rest = min(2 * self._rest, LONGEST_REST)
            return is_news

    def found(self) -> bool:
        """It did answer; returns whether that is news."""
        with self._lock:
            is_news = self.away is not None
            self.away, self._rest, self._rests_until = None, FIRST_REST, 0.0
            return is_news


_stores: dict[str, _Store] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_stores.clear)


def leave_alone(uri: str, error: Exception) -> None:
    """A store did not answer at the start of a run: nobody waits for it again."""
    _stores.setdefault(uri, _Store(uri)).lost(error)


class Link:
    """From this process to one MLflow run: to its store or, while that is away, to the spool."""

    def __init__(self, tracking_uri: str, run_id: str, spool: Spool | None) -> None:
        self._store = _stores.setdefault(tracking_uri, _Store(tracking_uri))
        self._run_id = run_id
        self._spool = spool
        self._part: str | None = None  # the spooled part's id, once it is known

    @property
    def is_away(self) -> bool:
        """Whether the store did not answer when it was last asked."""
        return self._store.away is not None

    def write(self, request: Request) -> None:
        """Make a request that can be repeated, with a client and the id of the run there.

        Raises:
            StoreAwayError: The store is away, and there is no spool.
            TrackingError: The store is away, and the spool can't be written.
            Exception: The store does not take it.
        """
        try:
            self.ask(request)
        except StoreAwayError:
            if self._spool is None:
                raise
            self._to_spool(request)

    def ask_if_there(self, request: Request) -> Any:
        """The store's answer; None while it is away, and there is a spool."""
        try:
            return self.ask(request)
        except StoreAwayError:
            if self._spool is None:
                raise
            return None

    def ask(self, request: Request) -> Any:
        """The store's answer.

        Raises:
            StoreAwayError: There is none; if there is a spool, the store is left alone for a while.
            Exception: What MLflow raised.
        """
        store = self._store
        if why := store.rests():
            raise StoreAwayError(store.uri, why)
        seconds = AGAIN if store.away else LATER
        try:
            answer = patiently(partial(request, connect(store.uri), self._run_id), seconds)
        except Exception as error:
            if not is_outage(error):
                raise
            away = StoreAwayError(store.uri, error)
            if self._spool is not None and store.lost(away):
                logger.warning(
                    "The MLflow store %s is away (%s). The run goes on; what it can't write there"
                    " waits in %s, for `kedro metrics sync`.",
                    redact(store.uri),
                    away.reason,
                    FILE,
                )
            raise away from None  # the error's text has the password
        if store.found():
            logger.info("The MLflow store %s is back.", redact(store.uri))
        return answer

    def ask_spool(self, request: Request) -> Any:
        """The spool's answer; None if it has nothing of the run.

        No run whose store is there fails because of a spool that can't be read: that is told.
        """
        if self._spool is None:
            return None
        try:
            part = self._part or self._spool.find(self._run_id)
            return request(connect(self._spool.uri), part) if part else None
        except Exception as error:
            logger.warning("%s can't be read: %s", FILE, reason(error))
            return None

    def _to_spool(self, request: Request) -> None:
        assert self._spool is not None
        try:
            if self._part is None:
                self._part = self._spool.find_or_make(self._run_id)
            patiently(partial(request, connect(self._spool.uri), self._part))
        except Exception as error:
            raise TrackingError(
                f"The MLflow store {redact(self._store.uri)} is away, and {FILE} can't be written:"
                f" {reason(error)}; what was saved before is there."
            ) from None
