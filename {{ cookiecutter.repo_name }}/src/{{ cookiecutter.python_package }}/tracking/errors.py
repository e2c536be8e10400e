"""What a user is told when MLflow's store can't be used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import click

from .patience import is_passing
from .redaction import redact


class TrackingError(click.ClickException):
    """MLflow's store or run can't be used. The message says why and what to do.

    Click's exception: on the command line it is that one sentence, not a traceback.
    """


class StoreAwayError(TrackingError):
    """The store can't be reached now; it may be later.

    Attributes:
        reason: Why, in a few words.
    """

    def __init__(self, uri: str, error: BaseException, ways_out: str = "") -> None:
        self.reason: str = error.reason if isinstance(error, StoreAwayError) else reason(error)
        super().__init__(
            f"The MLflow store {redact(uri)} can't be reached: {self.reason}{ways_out}."
        )


def reason(error: BaseException) -> str:
    """Why a request failed, in a few words and without secrets."""
    driver = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
    text = str(driver).strip().partition("\n")[0]
    if found := re.search(r"\[Errno -?\d+\] ([^\"'()\[\]]+)", text):  # deep in urllib3's text
        text = found[1]
    elif "timed out" in text:
        text = "it does not answer in time"
    return redact(text).strip().rstrip(".") or type(error).__name__


WAYS_OUT = (
    "; start it, set another 'tracking_uri' in mlflow.yml, or 'on_outage: spool' to run without"
    " it for now"
)


@contextmanager
def explained(uri: str, ways_out: str = WAYS_OUT) -> Iterator[None]:
    """Turn what goes wrong with a store into one sentence with its URI.

    Args:
        uri: The store.
        ways_out: What to do where it is away.

    Raises:
        StoreAwayError: It may be right later.
        TrackingError: It won't.
    """
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        # Not chained: MLflow's own errors have the URI with its password.
        if is_passing(error):
            raise StoreAwayError(uri, error, ways_out) from None
        raise TrackingError(
            f"The MLflow store {redact(uri)} can't be used: {reason(error)};"
            " mend that, or set another 'tracking_uri' in mlflow.yml."
        ) from None
