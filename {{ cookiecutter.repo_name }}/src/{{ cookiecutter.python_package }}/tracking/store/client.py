"""MLflow's client of a store, whose requests to a tracking server do not wait by themselves."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable
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


def require_mlflow(tracking_uri: str) -> None:
    """Import MLflow, and what it needs for this store.

    On a busy machine that takes ten seconds or more: it is called before a store's deadline begins.

    Raises:
        TrackingError: It is not installed, or is mlflow-skinny, which has nothing for SQL stores.
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
    with gc_paused_for_import():
        import mlflow

        if len(needed) > 1:
            import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


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
        # forked process the connections belong to the parent, which alone may close them
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


def end_run(client: MlflowClient, run_id: str, status: str, end_time: int) -> None:
    """As ``MlflowClient.set_terminated()``, which prints the run's URL, password and all."""
    from mlflow.entities import RunStatus

    number = RunStatus.from_string(status)
    client._tracking_client.store.update_run_info(run_id, number, end_time, None)


def _with_globals(function: Any, **names: Any) -> FunctionType:
    """The same function, but some of the global names that it uses mean something else."""
    known = {**function.__globals__, **names}
    same = FunctionType(
        function.__code__, known, function.__name__, function.__defaults__, function.__closure__
    )
    same.__kwdefaults__ = function.__kwdefaults__
    return same
