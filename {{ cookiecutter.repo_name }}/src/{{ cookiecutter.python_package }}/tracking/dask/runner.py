"""``DaskRunner``: Kedro's scheduling, with a Dask cluster in the place of a pool of processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from kedro.framework.project import PACKAGE_NAME
from kedro.io import MemoryDataset
from kedro.runner.runner import AbstractRunner

from ..binding.datasets import metrics_datasets
from ..redaction import redact
from ..store.errors import TrackingError
from .code import check_code
from .worker import Share, execute

if TYPE_CHECKING:
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline
    from kedro.runner.task import Task
    from pluggy import PluginManager

CONNECT_SECONDS = 8.0
# What a local worker executes first; Kedro's logging would print all that Dask logs there.
QUIET = "import logging; logging.getLogger('distributed').setLevel(logging.WARNING)"
ADDRESS = "DASK_SCHEDULER_ADDRESS"  # Dask's own


class DaskError(TrackingError):
    """A cluster, or a pipeline, with which nothing can be run; Click prints just the message."""


class DaskRunner(AbstractRunner):
    """Runs the nodes on the workers of a Dask cluster, each as soon as its inputs are there.

    Node and dataset hooks are called there, and a node's own MLflow calls go to the run. The
    MLflow run is opened and closed here, once. The node of a worker that is lost runs again on
    another, and its points are there once.

        kedro run --runner=my_project.tracking.dask.DaskRunner \
            --runner-params=address=tcp://10.0.0.1:8786

    Args:
        address: The scheduler's; else that of the environment's DASK_SCHEDULER_ADDRESS (Kedro 1.0
            to 1.6 have no ``--runner-params``); else the workers are processes of this machine.
        max_workers: How many of those there are; the number of CPUs if None.
        is_async: Whether a node's inputs are loaded, and its outputs saved, on threads.
    """

    def __init__(
        self, address: str | None = None, max_workers: int | None = None, is_async: bool = False
    ) -> None:
        super().__init__(is_async=is_async)
        self._address = address or os.environ.get(ADDRESS)
        self._max_workers = self._validate_max_workers(max_workers)
        self._client: Any | None = None
        self._share: Share | None = None

    def _run(
        self,
        pipeline: Pipeline,
        catalog: Any,
        hook_manager: PluginManager | None = None,
        run_id: str | None = None,
    ) -> None:
        _check_outputs(pipeline, catalog)
        with self._connected() as self._client:
            # This package is a part of the project's, or one beside it.
            for package in dict.fromkeys((str(PACKAGE_NAME), __name__.partition(".")[0])):
                check_code(self._client, package)
            self._share = _share(pipeline, catalog)
            # Without the hook manager, which can't be sent: a worker makes one.
            super()._run(pipeline=pipeline, catalog=catalog, run_id=run_id)

    def _get_executor(self, max_workers: int) -> Executor:
        assert self._client
        return _Executor(self._client, self._share)

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """Dask's client of the cluster; a cluster of this machine ends with the block."""
        try:
            dask: Any = import_module("distributed")  # half of its functions have no types
        except ImportError:
            raise DaskError("Dask is not installed; run `pip install distributed`.") from None
        if not self._address:
            options: dict[str, Any] = {"dashboard_address": None, "threads_per_worker": 1}
            options["preload"] = QUIET
            with (
                _quiet(),
                dask.LocalCluster(self._max_workers, host="127.0.0.1", **options) as cluster,
                dask.Client(cluster) as client,
            ):
                yield client
            return
        try:
            client = dask.Client(self._address, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise DaskError(
                f"The Dask scheduler {redact(self._address)} can't be reached; start it, or give"
                f" another 'address', or none for workers on this machine. ({type(error).__name__})"
            ) from None
        with client:
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


class _Executor(Executor):
    """Dask's own executor, but that an error, or Ctrl-C, leaves nothing running."""

    def __init__(self, client: Any, share: Share | None) -> None:
        self._share = share
        self._dask = client.get_executor(pure=False)

    def submit(self, task: Task, /) -> Future[Any]:  # type: ignore[override]
        """Execute a task on a worker."""
        return cast("Future[Any]", self._dask.submit(execute, task, str(PACKAGE_NAME), self._share))

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Return when all has ended; after an error, cancel it."""
        self._dask.shutdown(wait=kind is None)


def _check_outputs(pipeline: Pipeline, catalog: DataCatalog) -> None:
    """Refuse what a node would leave in a worker's memory, where no other node finds it."""
    outputs = {name: catalog.get(name) for name in sorted(pipeline.all_outputs())}
    if found := [name for name, each in outputs.items() if _is_in_memory(each)]:
        raise DaskError(
            "The workers of a Dask cluster share no memory, and these datasets are in memory only:"
            f" {', '.join(found)}; give each an entry in the catalog, for a file that all workers"
            " reach, or use another runner."
        )


def _is_in_memory(dataset: object) -> bool:
    # The second: as Kedro's ParallelRunner tells them, a CachedDataset for example.
    return isinstance(dataset, MemoryDataset) or getattr(dataset, "_SINGLE_PROCESS", False)


def _share(pipeline: Pipeline, catalog: DataCatalog) -> Share | None:
    """What a worker needs to take part in the MLflow run; None if there is none."""
    from ..config import current_config
    from ..delivery.delivery import delivery_to
    from ..process.state import process_state

    for dataset in metrics_datasets(pipeline, catalog).values():
        dataset.membership = None  # is for processes that end with the run
    config, run = current_config(), process_state().run_of(id(catalog))
    if config is None or run is None or run.destination is None:
        return None
    destination = run.destination
    process_state().runs_with_workers.add(destination.run_id)
    first = delivery_to(destination).last_steps() if destination.is_external else {}
    return Share(
        destination.tracking_uri,
        dict(run.run.info),
        dict(config.credentials),
        {} if destination.may_repeat else first,
    )
