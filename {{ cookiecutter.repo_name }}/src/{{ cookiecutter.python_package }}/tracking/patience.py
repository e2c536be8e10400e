"""What passes is tried again, for a while; what does not is told at once."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mlflow.tracking._tracking_service.client import TrackingServiceClient

T = TypeVar("T")

# For how many seconds a request is tried, at the start of a run and later.
AT_START = 8.0
LATER = 20.0
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
# 408 and 429 ask for another try; 5xx say that it was not the request's fault.
_PASSING = {408, 429, 500, 502, 503, 504}
_NOT_ALLOWED = {401, 403}

_until: ContextVar[float | None] = ContextVar("until", default=None)


def patiently(request: Callable[[], T], seconds: float = LATER) -> T:
    """Make a request, again and again while its failure may pass, with growing waits.

    Raises:
        Exception: The last failure, when the time is over; any other failure at once.
    """
    wait = FIRST_WAIT
    until = time.monotonic() + seconds
    token = _until.set(until)
    try:
        while True:
            try:
                return request()
            except Exception as error:
                if not is_passing(error) or time.monotonic() + wait > until:
                    raise
            time.sleep(wait * random.uniform(0.5, 1))  # many processes do not come back at once
            wait = min(wait * 2, LONGEST_WAIT)
    finally:
        _until.reset(token)


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed later.

    So it is without a connection, after a timeout or a cut answer, with the status 408, 429 or
    5xx, and where a database is locked, away, or has chosen a victim for a deadlock.
    """
    if isinstance(error, OSError | json.JSONDecodeError):  # requests' errors are OSErrors
        return True
    database = _database_passes(error)
    if database is None and error.__cause__ is not None:  # MLflow's error of the database's
        database = _database_passes(error.__cause__)
    return _status(error) in _PASSING if database is None else database


def _database_passes(error: BaseException) -> bool | None:
    """The same of an error of a database; None if it is none."""
    driver = getattr(error, "orig", error)  # SQLAlchemy's error has the driver's
    sqlite = sys.modules.get("sqlite3")
    if sqlite and isinstance(
        driver, sqlite.Error
    ):  # and not a full disk, a file without permission
        return "locked" in str(driver) or "busy" in str(driver)
    sql = sys.modules.get("sqlalchemy.exc")
    if sql is None or not isinstance(error, sql.DBAPIError | sql.TimeoutError):
        return None
    # MLflow calls those BAD_REQUEST that are not OperationalErrors; a lost connection may be any.
    refused = (sql.IntegrityError, sql.DataError, sql.ProgrammingError, sql.NotSupportedError)
    return not isinstance(error, refused)


def is_outage(error: BaseException) -> bool:
    """Whether the store is away, for this process at least: a password may have been changed."""
    return is_passing(error) or _status(error) in _NOT_ALLOWED


def _status(error: BaseException) -> int | None:
    """The HTTP status of MLflow's errors; its SQL stores use the same."""
    status = getattr(error, "get_http_status_code", None)
    return status() if status else None


def prompt(client: TrackingServiceClient) -> TrackingServiceClient:
    """The same client of a tracking server, but with one try a request, and with a time limit.

    MLflow's own tries each request up to 248 s, and is told otherwise by environment variables
    only, which a node's own MLflow calls would feel, too. Stores of plugins, and Databricks, are
    left to themselves.
    """
    from mlflow.store.tracking.rest_store import RestStore
    from mlflow.tracking._tracking_service.client import TrackingServiceClient
    from mlflow.utils.proto_json_utils import parse_dict
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    class PromptStore(RestStore):
        def _call_endpoint(
            self,
            api: Any,
            json_body: str | None = None,
            endpoint: str | None = None,
            retry_timeout_seconds: float | None = None,
            response_proto: Any = None,
        ) -> Any:
            path, method = self._METHOD_TO_INFO[api]
            answer = http_request(
                self.get_host_creds(),
                endpoint or path,
                method,
                max_retries=0,
                timeout=_timeout(),
                raise_on_status=False,
                **{"params" if method == "GET" else "json": json.loads(json_body or "null")},
            )
            verify_rest_response(answer, endpoint or path)
            message = response_proto or api.Response()
            parse_dict(answer.json(), message)
            return message

    if type(client.store) is not RestStore:
        return client
    build: Any = PromptStore  # MLflow's own constructors have no types
    server = build(client.store.get_host_creds)

    class PromptClient(TrackingServiceClient):
        store = server

    build = PromptClient
    prompt_client: TrackingServiceClient = build(client.tracking_uri)
    return prompt_client


def _timeout() -> float:
    """Seconds for the next request: what is left, or the user's MLFLOW_HTTP_REQUEST_TIMEOUT."""
    until = _until.get()
    left = LATER if until is None else max(until - time.monotonic(), 0.5)
    return min(left, float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT") or LATER))
