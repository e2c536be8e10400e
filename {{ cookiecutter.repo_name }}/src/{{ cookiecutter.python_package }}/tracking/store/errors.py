"""What goes wrong with a store: what may be tried again, and what the user reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ..redaction import redact
from .problems import (
    Problem,
    database_problem,
    driver_error,
    driver_text,
    is_transient_in_database,
)

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from requests import Response

# 4xx that ask for another try, and the two 5xx that refuse the request (501, 505).
_TRANSIENT, _REFUSED_5XX = {408, 425, 429}, {501, 505}
_BY_STATUS = {401: Problem.LOGIN, 403: Problem.RIGHTS, 413: Problem.TOO_LARGE}

NO_ANSWER = "it does not answer in time"
START = "; start it"
# For commands that read, or that open a run for others: these can't use the outbox.
NO_OUTBOX = START + ", or set another 'tracking_uri' in mlflow.yml"
WAYS_OUT = (
    START + ", set another 'tracking_uri' in mlflow.yml, or 'on_outage: spool' to run without"
    " it for now"
)


class TrackingError(click.ClickException):
    """MLflow's store or run can't be used; Click prints just the message: why, and what to do."""


class StoreUnavailableError(TrackingError):
    """The store does not answer now, for a ``reason`` in a few words; it may do so later."""

    def __init__(self, uri: str, error: BaseException, ways_out: str = "") -> None:
        self.uri = uri
        self.ways_out = ways_out
        self.problem: Problem | None = problem_of(error)
        self.reason: str = (
            error.reason if isinstance(error, StoreUnavailableError) else reason(error)
        )
        if self.problem:
            ways_out = ways_out.replace(START, f"; {self.problem.todo}")
        elif self.reason == NO_ANSWER:  # MLflow's server listens before it can answer
            ways_out = ways_out.replace(START, "; wait if it is starting or busy, else start it")
        super().__init__(
            f"The MLflow store {redact(uri)} can't be reached: {self.reason}{ways_out}."
        )


class StoreRefusedError(TrackingError):
    """The store refuses what it is asked, and will do so until somebody mends the ``problem``."""

    def __init__(self, uri: str, problem: Problem, error: BaseException) -> None:
        self.problem = problem
        self.reason: str = reason(error)
        super().__init__(
            f"The MLflow store {redact(uri)} can't be used: {self.reason}; {problem.todo}, or set"
            " another 'tracking_uri' in mlflow.yml."
        )


def deleted_experiment(experiment: Experiment) -> TrackingError:
    """The error where an experiment is deleted."""
    return TrackingError(
        f"The MLflow experiment {experiment.name!r} is deleted; restore it with"
        f" `mlflow experiments restore --experiment-id {experiment.experiment_id}`,"
        " or set another 'experiment' in mlflow.yml."
    )


class AnswerError(Exception):
    """An HTTP answer that is not an MLflow server's."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(text)

    def get_http_status_code(self) -> int:
        """The status, by the name of the method that MLflow's errors have."""
        return self.status


def check_answer(response: Response) -> Response:
    """The HTTP answer, if MLflow's client can read it; an error with the status if it can't.

    MLflow (3.17) calls every status that it does not expect, and a page in HTML, an internal error
    (500), as if another try could mend it.
    """
    status = response.status_code
    # By 404 MLflow finds out that an older server lacks an endpoint, and asks another.
    if status == 404 or _is_transient_status(status) or _has_error_code(response):  # noqa: PLR2004
        return response
    is_page = "html" in response.headers.get("Content-Type", "") or response.text[:1] == "<"
    if status < 300 and not is_page:  # noqa: PLR2004
        return response
    page = ", with a page in HTML" if is_page and status < 300 else ""  # noqa: PLR2004
    raise AnswerError(status, f"status {status} {response.reason or ''}".rstrip() + page)


def _has_error_code(response: Response) -> bool:
    try:
        answer: Any = response.json()
    except ValueError:
        return False
    return isinstance(answer, dict) and "error_code" in answer


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later: the store was not reached, busy or locked."""
    if isinstance(error, StoreUnavailableError):
        return True
    if isinstance(error, StoreRefusedError):
        return False
    if driver := driver_error(error):
        return is_transient_in_database(driver)
    # The errors of requests are OSErrors; SQLAlchemy's, where its pool has no free connection.
    if isinstance(error, OSError | json.JSONDecodeError) or _is_of_pool(error):
        return True
    status = _status(error)
    return status is not None and _is_transient_status(status)


def is_refused(error: BaseException) -> bool:
    """Whether the store, or what answers in its place, refuses, and no other try mends that."""
    return problem_of(error) not in (None, Problem.TOO_MANY)


def is_outage(error: BaseException) -> bool:
    """Whether nothing can be written to the store now, though to no fault of the request's.

    A proxy's page, a login say, or a 404 while the server is started anew, is no answer of a store.
    """
    refused = is_refused(error) and problem_of(error) is not Problem.TOO_LARGE
    return is_transient(error) or refused


def problem_of(error: BaseException) -> Problem | None:
    """The known problem that an error is a sign of, if any."""
    if isinstance(error, StoreUnavailableError | StoreRefusedError):
        return error.problem
    if driver := driver_error(error):
        return database_problem(driver)
    is_foreign = isinstance(error, AnswerError) or _lacks_endpoint(error)
    return _BY_STATUS.get(_status(error) or 0, Problem.ANSWER if is_foreign else None)


def _lacks_endpoint(error: BaseException) -> bool:
    return getattr(error, "error_code", "") == "ENDPOINT_NOT_FOUND"


def refined(uri: str, error: Exception) -> Exception:
    """The error to raise for one of a request: without SQL, values and passwords in its text."""
    if is_transient(error):
        return StoreUnavailableError(uri, error)
    if isinstance(error, StoreRefusedError):
        return error
    if problem := problem_of(error):
        return StoreRefusedError(uri, problem, error)
    if driver_error(error):
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import BAD_REQUEST

        return MlflowException(reason(error), BAD_REQUEST)
    return error


def _is_transient_status(status: int) -> bool:
    return status in _TRANSIENT or (status >= 500 and status not in _REFUSED_5XX)  # noqa: PLR2004


def _is_of_pool(error: BaseException) -> bool:
    # MLflow's server (3.17) then answers 400, as if to a wrong request, with SQLAlchemy's words.
    if getattr(error, "error_code", "") == "BAD_REQUEST" and "QueuePool limit of" in str(error):
        return True
    for found in (error, error.__cause__):
        if type(found).__module__ == "sqlalchemy.exc" and type(found).__name__ == "TimeoutError":
            return True
    return False


def _status(error: BaseException) -> int | None:
    """The HTTP status of MLflow's errors; its SQL stores use the same."""
    status = getattr(error, "get_http_status_code", None)
    return status() if status else None


def reason(error: BaseException) -> str:
    """Why a request failed, in a few words and without secrets."""
    if isinstance(error, StoreUnavailableError | StoreRefusedError):
        return error.reason
    driver = driver_error(error)
    text = driver_text(driver) if driver else str(error).strip().partition("\n")[0]
    if found := re.search(r"\[Errno -?\d+\] ([^\"'()\[\]]+)", text):  # deep in urllib3's text
        text = found[1]
    elif "timed out" in text:
        text = NO_ANSWER
    elif _lacks_endpoint(error):
        text = "status 404 Not Found"
    text = redact(text).strip().rstrip(".") or type(error).__name__
    problem = problem_of(error)
    return f"{problem.text} ({text})" if problem else text


def error_text(error: BaseException | None) -> str:
    """An error as a tag has it, whatever its ``__str__`` does; nothing for None."""
    if error is None:
        return ""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception as failure:
        return f"{type(error).__name__}, whose text can't be had ({type(failure).__name__})"


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
        if problem := problem_of(error):
            raise StoreRefusedError(uri, problem, error) from None
        # Not chained: MLflow's own errors have the URI with its password.
        raise TrackingError(
            f"The MLflow store {redact(uri)} can't be used: {reason(error)};"
            " mend that, or set another 'tracking_uri' in mlflow.yml."
        ) from None
