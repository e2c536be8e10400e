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
    """The store can't be reached now; it may be later."""


def reason(error: BaseException) -> str:
    """Why a request failed, in a few words and without secrets."""
    text = str(error).strip().partition("\n")[0]
    if found := re.search(r"\[Errno -?\d+\] ([^\"'()\[\]]+)", text):  # deep in urllib3's text
        text = found[1]
    elif "timed out" in text:
        text = "it does not answer in time"
    return redact(text).strip().rstrip(".")


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn what goes wrong with a store into one sentence with its URI.

    Raises:
        StoreAwayError: It may be right later.
        TrackingError: It won't.
    """
    store = redact(uri)
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        if is_passing(error):
            raise StoreAwayError(
                f"The MLflow store {store} can't be reached: {reason(error)}; start it, set another"
                " 'tracking_uri' in mlflow.yml, or 'on_outage: spool' to run without it for now."
            ) from error
        raise TrackingError(
            f"The MLflow store {store} can't be used: {reason(error)};"
            " mend that, or set another 'tracking_uri' in conf/base/mlflow.yml."
        ) from error
