"""Connects to a Dask cluster, or makes one of processes of this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from ..redaction import redact
from ..store.errors import TrackingError

CONNECT_SECONDS = 8.0
WORKER_SECONDS = 15.0  # for the first worker
# What a local worker executes first; Kedro's logging would print all that Dask logs there.
QUIET = "import logging; logging.getLogger('distributed').setLevel(logging.WARNING)"


class DaskError(TrackingError):
    """A cluster, or a pipeline, with which nothing can be run; Click prints just the message."""


@contextmanager
def connected(address: str | None, max_workers: int) -> Iterator[Any]:
    """Dask's client of the cluster; a cluster of this machine ends with the block.

    Raises:
        DaskError: There is none, or it has no worker.
    """
    try:
        dask: Any = import_module("distributed")  # half of its functions have no types
    except ImportError:
        raise DaskError("Dask is not installed; run `pip install distributed`.") from None
    if not address:
        options: dict[str, Any] = {"dashboard_address": None, "threads_per_worker": 1}
        options["preload"] = QUIET
        # Without a dashboard, too, there is a server, and a warning if its port, 8787, is taken.
        options["scheduler_kwargs"] = {"dashboard_address": "127.0.0.1:0"}
        with (
            _quiet(),
            dask.LocalCluster(max_workers, host="127.0.0.1", **options) as cluster,
            dask.Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = dask.Client(address, timeout=CONNECT_SECONDS)
    except Exception as error:  # Dask's are of many types
        raise DaskError(
            f"The Dask scheduler {redact(address)} can't be reached; start it, or give"
            f" another 'address', or none for workers on this machine. ({type(error).__name__})"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=WORKER_SECONDS)
        except dask.TimeoutError:
            raise DaskError(
                f"The Dask scheduler {redact(address)} has no worker, and none has come within"
                f" {WORKER_SECONDS:.0f} s; start one (`dask worker {redact(address)}`), or let the"
                " cluster always keep one."
            ) from None
        yield client


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own log to warnings: a cluster of this machine writes 100 lines of its start."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
