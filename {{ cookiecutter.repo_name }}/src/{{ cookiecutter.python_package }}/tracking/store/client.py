"""MLflow's client of a store, whose requests to a tracking server do not wait by themselves."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from importlib.util import find_spec
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from ..process.state import gc_paused_for_import
from .database import LEAST_SECONDS
from .errors import TrackingError, check_answer

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from .database import Retry

_IMPORTED_IN = os.getpid()
# How many threads of this process open runs in one store at the same time.
MOST_AT_ONCE = 4


def require_mlflow(tracking_uri: str) -> None:
    """Check that MLflow is installed, and what it needs for this store.

    Raises:
        TrackingError: It is not; or it is mlflow-skinny, which has nothing for SQL stores.
    """
    needed = ["mlflow"]
    if not tracking_uri.startswith("http"):
        needed += ["sqlalchemy", "alembic"]
    if missing := [name for name in needed if find_spec(name) is None]:
        what = "MLflow is" if missing[0] == "mlflow" else f"{missing[0]}, a part of MLflow, is"
        raise TrackingError(
            f"{what} not installed in {sys.prefix}; run `pip install mlflow` there, or set"
            " 'track: never' in mlflow.yml to run without it."
        )


def make_client(tracking_uri: str, retry: Retry) -> MlflowClient:
    """MLflow's client of a store, whose requests are made within a deadline."""

    def timeout() -> float:
        limit = float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT") or math.inf)
        return min(max(retry.seconds_left(), LEAST_SECONDS), limit)

    # MLflow (3.17) logs each error of a database with its traceback, the SQL and all values.
    logging.getLogger("mlflow.store.db.utils").addFilter(retry.lets_log)
    with gc_paused_for_import():
        from mlflow import MlflowClient
        from mlflow.store.tracking.rest_store import RestStore

        client = MlflowClient(tracking_uri=tracking_uri)
    service = client._tracking_client
    if engine := getattr(service.store, "engine", None):
        for name in (engine.pool.logger.name, "psycopg"):  # lost connections, refused requests
            logging.getLogger(name).addFilter(retry.lets_log)
        # MLflow keeps the engine, by URI: its connections may be to a file that was removed. In a
        # forked process they belong to the parent, which alone may close them
        # (https://docs.sqlalchemy.org/en/20/core/pooling.html#using-connection-pools-with-multiprocessing-or-os-fork).
        engine.dispose(close=os.getpid() == _IMPORTED_IN)
    if type(service.store) is RestStore:  # Databricks and the stores of plugins keep their waits
        server = _one_try_store(service.store, timeout)
        kind: Any = type("OneTryClient", (type(service),), {"store": server})
        client._tracking_client = kind(tracking_uri)
    return client


def _one_try_store(store: Any, timeout: Callable[[], float]) -> Any:
    """A copy of MLflow's store of a tracking server, with one try a request, and a time limit.

    MLflow's own tries each request for up to 248 s, and takes other limits from environment
    variables only, which a node's own MLflow calls would feel, too. So MLflow's two functions
    that make a request run here with another ``http_request``; all else in them stays, and in the
    store: its routes, headers and credentials, and the check of a workspace (MLflow 3.10 and
    later).
    """
    from mlflow.utils import rest_utils

    def http_request(*arguments: Any, **options: Any) -> Any:
        options |= {"max_retries": 0, "timeout": timeout(), "raise_on_status": False}
        return check_answer(rest_utils.http_request(*arguments, **options))

    call_endpoint = _with_globals(rest_utils.call_endpoint, http_request=http_request)
    method = _with_globals(type(store)._call_endpoint, call_endpoint=call_endpoint)
    server = copy(store)
    server._call_endpoint = MethodType(method, server)
    return server


class Turns:
    """Lets a few of this process's threads open runs in a store at once; the others wait.

    MLflow's server (3.17) takes 0.3 s of computing to check a password, and each of its workers
    remembers which ones are right (``auth_cache_ttl_seconds``): a hundred threads at once would
    take all of it, and find that the server does not answer in time.
    """

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._served = 0

    @contextmanager
    def take(self, seconds: float) -> Iterator[None]:
        """Wait for a turn while others have theirs; go on without if for so long nobody had one."""
        served, is_mine = -1, False
        while not is_mine and served != self._served:
            served = self._served
            is_mine = self._free.acquire(timeout=seconds)
        try:
            yield
            self._served += 1
        finally:
            if is_mine:
                self._free.release()


def _with_globals(function: Any, **names: Any) -> FunctionType:
    """The same function, but some of the global names that it uses mean something else."""
    known = {**function.__globals__, **names}
    same = FunctionType(
        function.__code__, known, function.__name__, function.__defaults__, function.__closure__
    )
    same.__kwdefaults__ = function.__kwdefaults__
    return same
