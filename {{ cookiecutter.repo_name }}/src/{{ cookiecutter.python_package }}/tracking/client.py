"""MLflow's client of a store, and what more than one part of the package asks of it."""

from __future__ import annotations

import gc
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from queue import Empty, Queue
from typing import TYPE_CHECKING

from .errors import TrackingError
from .patience import AT_START, patiently, prompt
from .points import clean
from .sqlite import sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# MLflow's limit; MlflowClient.log_batch does not split parameters
# (https://mlflow.org/docs/latest/api_reference/rest-api.html#log-batch).
PARAMS_PER_REQUEST = 100
# A tag that one run has and no other: it tells whether a request without an answer made the run.
ORIGIN = "kedro.origin"

_imported_in = os.getpid()


def connect(tracking_uri: str) -> MlflowClient:
    """MLflow's client of a store; one a process. Its requests to a tracking server are prompt."""
    path = sqlite_path(tracking_uri)
    file = path.stat().st_ino if path and path.exists() else None
    return _connect(tracking_uri, os.getpid(), file)


@lru_cache
def _connect(tracking_uri: str, process: int, file: int | None) -> MlflowClient:
    with importing():
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=tracking_uri)
    if engine := getattr(client._tracking_client.store, "engine", None):
        # MLflow keeps it, by URI: its connections may be to a file that has been removed. Those
        # of a forked process are its parent's, which alone may close them
        # (https://docs.sqlalchemy.org/en/20/core/pooling.html#using-connection-pools-with-multiprocessing-or-os-fork).
        engine.dispose(close=process == _imported_in)
    client._tracking_client = prompt(client._tracking_client)
    return client


def reach(uri: str) -> None:
    """Tell soon whether a database server answers: MLflow's client tries for 100 s, or for ever.

    Raises:
        Exception: The driver's; TimeoutError if it does not answer.
    """
    if uri.partition(":")[0].partition("+")[0] not in ("postgresql", "mysql", "mssql"):
        return
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    engine = create_engine(uri, poolclass=NullPool)
    outcome: Queue[Exception | None] = Queue()

    def knock() -> None:
        try:
            engine.connect().close()
        except Exception as error:
            outcome.put(error)
        else:
            outcome.put(None)

    threading.Thread(target=knock, name="mlflow-knock", daemon=True).start()
    try:
        error = outcome.get(timeout=AT_START)
    except Empty:
        raise TimeoutError("it does not answer in time") from None
    if error is not None:
        raise error


@contextmanager
def uncollected() -> Iterator[None]:
    """Python's garbage collector waits: objects are made by the thousand, and none is garbage."""
    if not gc.isenabled():  # somebody else has plans
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """While MLflow and its store are imported, the garbage collector waits.

    They are 360,000 objects that stay, and the collector goes through them again and again: it
    took 0.2 s of the 1.3 s of these imports (Python 3.11, MLflow 3.17). Freezing and unfreezing
    calls all that is there old, unseen; each alone would pay later, or keep garbage for ever.
    """
    with uncollected():
        yield
        if not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()


def experiment_id(client: MlflowClient, name: str) -> str:
    """The id of the experiment; it is made, if there is none.

    Raises:
        TrackingError: It is deleted.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, _artifacts(client.tracking_uri, name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return experiment_id(client, name)  # another process was faster
    if experiment.lifecycle_stage == "deleted":
        raise TrackingError(
            f"The MLflow experiment {name!r} is deleted; restore it with"
            f" `mlflow experiments restore --experiment-id {experiment.experiment_id}`,"
            " or set another 'experiment' in mlflow.yml."
        )
    return experiment.experiment_id


def _artifacts(tracking_uri: str, experiment: str) -> str | None:
    """Beside an SQLite store; MLflow's own default is a folder where the command was typed."""
    path = sqlite_path(tracking_uri)
    return (path.parent / "mlartifacts" / clean(experiment)).as_uri() if path else None


def make_run(
    client: MlflowClient,
    experiment: str,
    tags: Mapping[str, str],
    *,
    run_name: str | None = None,
    start_time: int | None = None,
) -> Run:
    """Make a run, exactly one, though the answer to a request for it may be lost.

    Args:
        client: The store's.
        experiment: The experiment's id.
        tags: The run's; its ``ORIGIN`` among them says that an earlier process may have made it.
        run_name: The run's name; MLflow makes one up if None.
        start_time: In milliseconds since the epoch; now if None.
    """
    look = ORIGIN in tags
    tags = {ORIGIN: uuid.uuid4().hex, **tags}

    def request() -> Run:
        nonlocal look
        search = f"tags.`{ORIGIN}` = '{tags[ORIGIN]}'"
        if look and (found := client.search_runs([experiment], search)):
            return found[0]
        look = True
        return client.create_run(experiment, start_time, dict(tags), run_name)

    return patiently(request, AT_START)


def end_run(client: MlflowClient, run_id: str, status: str, end_time: int | None = None) -> None:
    """Write the end of a run; ``set_terminated()`` would print its URL, password and all.

    Args:
        client: The store's.
        run_id: The run's id there.
        status: FINISHED, FAILED or KILLED.
        end_time: In milliseconds since the epoch; now if None.
    """
    from mlflow.entities import RunStatus

    end_time = time.time_ns() // 1_000_000 if end_time is None else end_time
    store = client._tracking_client.store
    store.update_run_info(run_id, RunStatus.from_string(status), end_time, None)
