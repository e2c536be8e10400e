"""Where points wait while their store is away: an MLflow store in the project's folder."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from .client import connect, experiment_id, make_run
from .errors import TrackingError, reason
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
        process: Tags of the process that runs Kedro, which is not that of a worker.
        given: Whether the run is another's, to be ended by that.
    """

    uri: str
    home: str = field(repr=False)
    experiment: str
    process: tuple[tuple[str, str], ...]
    given: bool = False

    def find(self, run_id: str) -> str | None:
        """The id of the spooled part of a run, if it has one."""
        path = sqlite_path(self.uri)
        if path is None or not path.exists():
            return None
        owner = dict(self.process)[PROCESS]
        search = f"tags.`{HOME_RUN}` = '{run_id}' and tags.`{PROCESS}` = '{owner}'"
        for run in spooled_runs(connect(self.uri), search):
            return str(run.info.run_id)
        return None

    def find_or_make(self, run_id: str) -> str:
        """The id of the spooled part of a run; all processes of a Kedro run share it."""
        path = sqlite_path(self.uri)
        assert path is not None
        prepare(self.uri)
        with locked(path):
            return self.find(run_id) or self._make(run_id)

    def _make(self, run_id: str) -> str:
        client = connect(self.uri)
        tags = {HOME: public(self.home), HOME_RUN: run_id, **dict(self.process)}
        tags |= {GIVEN: "yes"} if self.given else {}
        run = make_run(client, experiment_id(client, self.experiment), tags)
        return str(run.info.run_id)


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


class _AwayError(TrackingError):
    """A store with a spool is away."""


Request = Callable[["MlflowClient", str], Any]


class Link:
    """From this process to one MLflow run: to its store or, while that is away, to the spool."""

    def __init__(self, tracking_uri: str, run_id: str, spool: Spool | None) -> None:
        self._uri = tracking_uri
        self._run_id = run_id
        self._spool = spool
        self._part: str | None = None  # the spooled part's id, once it is known
        self._is_away = False
        self._rest = FIRST_REST
        self._rests_until = 0.0
        self._lock = threading.Lock()

    def write(self, request: Request) -> None:
        """Make a request that can be repeated, with a client and the id of the run there.

        Raises:
            TrackingError: The store is away, and the spool can't be written.
            Exception: The store does not take it, or is away and there is no spool.
        """
        try:
            self.ask(request)
        except _AwayError:
            self._to_spool(request)

    def ask_if_there(self, request: Request) -> Any:
        """The store's answer; None while it is away."""
        try:
            return self.ask(request)
        except _AwayError:
            return None

    def ask(self, request: Request) -> Any:
        """The store's answer."""
        if self._is_away and time.monotonic() < self._rests_until:
            raise _AwayError(f"The MLflow store {redact(self._uri)} is away.")
        seconds = AGAIN if self._is_away else LATER
        try:
            answer = patiently(partial(request, connect(self._uri), self._run_id), seconds)
        except Exception as error:
            if self._spool is None or not is_outage(error):
                raise
            self._lose(error)
            raise _AwayError(
                f"The MLflow store {redact(self._uri)} is away: {reason(error)}"
            ) from error
        with self._lock:
            if self._is_away:
                logger.info("The MLflow store %s is back.", redact(self._uri))
            self._is_away, self._rest = False, FIRST_REST
        return answer

    def ask_spool(self, request: Request) -> Any:
        """The spool's answer; None if it has nothing of the run."""
        if self._spool is None or not (part := self._part or self._spool.find(self._run_id)):
            return None
        return request(connect(self._spool.uri), part)

    def _lose(self, error: Exception) -> None:
        with self._lock:
            if not self._is_away:
                logger.warning(
                    "The MLflow store %s is away (%s). The run goes on; what it can't write there"
                    " waits in %s, for `kedro metrics sync`.",
                    redact(self._uri),
                    reason(error),
                    FILE,
                )
            self._is_away = True
            self._rests_until = time.monotonic() + self._rest
            self._rest = min(2 * self._rest, LONGEST_REST)

    def _to_spool(self, request: Request) -> None:
        assert self._spool is not None
        try:
            if self._part is None:
                self._part = self._spool.find_or_make(self._run_id)
            patiently(partial(request, connect(self._spool.uri), self._part))
        except Exception as error:
            raise TrackingError(
                f"The MLflow store {redact(self._uri)} is away, and {FILE} can't be written:"
                f" {reason(error)}; what was saved before is there."
            ) from error
