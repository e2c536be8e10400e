"""What goes wrong with a store: what may be tried again, and what the user reads."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ..redaction import redact

# 408 and 429 ask for another try; 5xx say that it was not the request's fault.
_TRANSIENT = {408, 429, 500, 502, 503, 504}
_LOGIN_REFUSED = {401, 403}

WAYS_OUT = (
    "; start it, set another 'tracking_uri' in mlflow.yml, or 'on_outage: spool' to run without"
    " it for now"
)


class TrackingError(click.ClickException):
    """MLflow's store or run can't be used; Click prints just the message: why, and what to do."""


class StoreUnavailableError(TrackingError):
    """The store does not answer now, for a ``reason`` in a few words; it may do so later."""

    def __init__(self, uri: str, error: BaseException, ways_out: str = "") -> None:
        self.uri = uri
        self.ways_out = ways_out
        self.reason: str = (
            error.reason if isinstance(error, StoreUnavailableError) else reason(error)
        )
        super().__init__(
            f"The MLflow store {redact(uri)} can't be reached: {self.reason}{ways_out}."
        )


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later: the store was not reached, busy or locked."""
    # The errors of requests are OSErrors.
    if isinstance(error, StoreUnavailableError | OSError | json.JSONDecodeError):
        return True
    transient = _is_transient_in_database(error)
    if transient is None and error.__cause__ is not None:  # MLflow's error of the database's
        transient = _is_transient_in_database(error.__cause__)
    return _status(error) in _TRANSIENT if transient is None else transient


def is_outage(error: BaseException) -> bool:
    """Whether nothing can be written to the store now; a password may have been changed."""
    return is_transient(error) or _status(error) in _LOGIN_REFUSED


def _is_transient_in_database(error: BaseException) -> bool | None:
    """Whether an error of a database is transient; None if it is not an error of a database."""
    driver = getattr(error, "orig", error)  # SQLAlchemy's error has the driver's
    sqlite = sys.modules.get("sqlite3")
    if sqlite and isinstance(driver, sqlite.Error):  # not a full disk, nor a read-only file
        return "locked" in str(driver) or "busy" in str(driver)
    sql = sys.modules.get("sqlalchemy.exc")
    if sql is None or not isinstance(error, sql.DBAPIError | sql.TimeoutError):
        return None
    # MLflow calls those BAD_REQUEST that are not OperationalErrors; a lost connection may be any.
    refused = (sql.IntegrityError, sql.DataError, sql.ProgrammingError, sql.NotSupportedError)
    return not isinstance(error, refused)


def _status(error: BaseException) -> int | None:
    """The HTTP status of MLflow's errors; its SQL stores use the same."""
    status = getattr(error, "get_http_status_code", None)
    return status() if status else None


def reason(error: BaseException) -> str:
    """Why a request failed, in a few words and without secrets."""
    driver = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
    text = str(driver).strip().partition("\n")[0]
    if found := re.search(r"\[Errno -?\d+\] ([^\"'()\[\]]+)", text):  # deep in urllib3's text
        text = found[1]
    elif "timed out" in text:
        text = "it does not answer in time"
    return redact(text).strip().rstrip(".") or type(error).__name__


@contextmanager
def as_tracking_error(uri: str, ways_out: str = WAYS_OUT) -> Iterator[None]:
    """Turn what goes wrong with a store into one sentence, with what the user may do."""
    try:
        yield
    except StoreUnavailableError as error:
        raise StoreUnavailableError(error.uri, error, error.ways_out or ways_out) from None
    except TrackingError:
        raise
    except Exception as error:
        # Not chained: MLflow's own errors have the URI with its password.
        raise TrackingError(
            f"The MLflow store {redact(uri)} can't be used: {reason(error)};"
            " mend that, or set another 'tracking_uri' in mlflow.yml."
        ) from None
