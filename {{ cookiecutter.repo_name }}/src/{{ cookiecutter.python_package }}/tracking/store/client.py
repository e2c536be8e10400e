"""MLflow's client of a store, whose requests to a tracking server do not wait by themselves."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from importlib.util import find_spec
from types import FunctionType
from typing import TYPE_CHECKING, Any

from ..process.state import gc_paused_for_import
from .errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_IMPORTED_IN = os.getpid()


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


def make_client(tracking_uri: str, timeout: Callable[[], float]) -> MlflowClient:
    """MLflow's client of a store; ``timeout`` tells the seconds for a request to a server."""
    with gc_paused_for_import():
        from mlflow import MlflowClient
        from mlflow.store.tracking.rest_store import RestStore

        client = MlflowClient(tracking_uri=tracking_uri)
    service = client._tracking_client
    if engine := getattr(service.store, "engine", None):
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
    """A store like MLflow's of a tracking server, but with one try a request, and a time limit.

    MLflow's own tries each request for up to 248 s, and takes other limits from environment
    variables only, which a node's own MLflow calls would feel, too. So MLflow's two functions
    that make a request run here with another ``http_request``; all else in them stays.
    """
    from mlflow.store.tracking.rest_store import RestStore
    from mlflow.utils import rest_utils

    def http_request(*arguments: Any, **options: Any) -> Any:
        options |= {"max_retries": 0, "timeout": timeout(), "raise_on_status": False}
        return rest_utils.http_request(*arguments, **options)

    call_endpoint = _with_globals(rest_utils.call_endpoint, http_request=http_request)
    method = _with_globals(RestStore._call_endpoint, call_endpoint=call_endpoint)
    kind: Any = type("OneTryStore", (RestStore,), {"_call_endpoint": method})
    return kind(store.get_host_creds)


def _with_globals(function: Any, **names: Any) -> FunctionType:
    """The same function, but some of the global names that it uses mean something else."""
    code, known, defaults = function.__code__, function.__globals__, function.__defaults__
    return FunctionType(code, {**known, **names}, argdefs=defaults)


def probe_database(uri: str, seconds: float) -> None:
    """Check that a database server answers: MLflow's client would try for 100 s, or for ever."""
    if uri.partition(":")[0].partition("+")[0] not in ("postgresql", "mysql", "mssql"):
        return
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    engine = create_engine(uri, poolclass=NullPool)
    outcome: Future[None] = Future()

    def connect() -> None:
        try:
            engine.connect().close()
            outcome.set_result(None)
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=connect, name="mlflow-probe", daemon=True).start()
    wait([outcome], seconds)
    if not outcome.done():
        raise TimeoutError("it does not answer in time")
    outcome.result()
