"""What a user is told when MLflow's store can't be used."""

from __future__ import annotations

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
        reason = redact(str(error).strip().partition("\n")[0]).rstrip(".")
        if is_passing(error):
            raise StoreAwayError(
                f"The MLflow store {store} can't be reached: {reason}; start it, or set another"
                " 'tracking_uri' in mlflow.yml, or 'on_outage: spool' to run without it for now."
            ) from error
        raise TrackingError(
            f"The MLflow store {store} can't be used: {reason};"
            " mend that, or set another 'tracking_uri' in conf/base/mlflow.yml."
        ) from error
