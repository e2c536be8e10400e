"""``DaskRunner``: Kedro's scheduling, with a Dask cluster in the place of a pool of processes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor, Future
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from kedro.framework.project import PACKAGE_NAME
from kedro.io import MemoryDataset
from kedro.runner.runner import AbstractRunner

from ..binding.datasets import metrics_datasets
from .cluster import DaskError, connected
from .code import check_code, checked_call
from .worker import Share, execute

if TYPE_CHECKING:
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline
    from kedro.runner.task import Task
    from pluggy import PluginManager

    from ..dataset import MlflowMetricsDataset
    from ..delivery.route import Destination

ADDRESS = "DASK_SCHEDULER_ADDRESS"  # Dask's own


class DaskRunner(AbstractRunner):
    """Runs the nodes on the workers of a Dask cluster, each as soon as its inputs are there.

    Node and dataset hooks are called there, and a node's own MLflow calls go to the run. The
    MLflow run is opened and closed here, once. The node of a worker that is lost runs again on
    another, and its points are there once.

        kedro run --runner=my_project.tracking.dask.DaskRunner \
            --runner-params=address=tcp://10.0.0.1:8786

    Args:
        address: The scheduler's; else that of the environment's DASK_SCHEDULER_ADDRESS (Kedro 1.0
            to 1.5 have no ``--runner-params``); else the workers are processes of this machine.
        max_workers: How many of those there are; the number of CPUs if None.
        is_async: Whether a node's inputs are loaded, and its outputs saved, on threads.

    Raises:
        DaskError: An argument is not allowed, or there is no such cluster.
    """

    def __init__(
        self, address: str | None = None, max_workers: int | None = None, is_async: bool = False
    ) -> None:
        super().__init__(is_async=is_async)
        _check_arguments(address, max_workers)
        self._address = address or os.environ.get(ADDRESS)
        self._max_workers = self._validate_max_workers(max_workers)
        self._client: Any | None = None
        self._share: Share | None = None
        self._codes: dict[str, str] = {}  # fingerprints, by package

    def _run(
        self,
        pipeline: Pipeline,
        catalog: Any,
        hook_manager: PluginManager | None = None,
        run_id: str | None = None,
    ) -> None:
        _check_outputs(pipeline, catalog)
        _check_keys(pipeline, catalog)
        with connected(self._address, self._max_workers) as self._client:
            # The project's package, and the package of this module if that is another.
            packages = dict.fromkeys((str(PACKAGE_NAME), __name__.partition(".")[0]))
            self._codes = {package: check_code(self._client, package) for package in packages}
            self._share = _share(pipeline, catalog)
            # Without the hook manager, which can't be sent: a worker makes one.
            super()._run(pipeline=pipeline, catalog=catalog, run_id=run_id)

    def _get_executor(self, max_workers: int) -> Executor:
        assert self._client
        return _Executor(self._client, self._share, self._codes)


class _Executor(Executor):
    """Dask's own executor, but that an error, or Ctrl-C, leaves nothing running."""

    def __init__(self, client: Any, share: Share | None, codes: dict[str, str]) -> None:
        self._share = share
        self._codes = codes
        self._dask = client.get_executor(pure=False)
        self._pickle: Any = import_module("distributed.protocol.pickle")
        self._call = checked_call()

    def submit(self, task: Task, /) -> Future[Any]:  # type: ignore[override]
        """Execute a task on a worker; as bytes, for the scheduler may not have the project."""
        pickled = self._pickle.dumps((execute, (task, str(PACKAGE_NAME), self._share)))
        return cast("Future[Any]", self._dask.submit(self._call, self._codes, pickled))

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Return when all tasks have ended; after an error, cancel them."""
        self._dask.shutdown(wait=kind is None)


def _check_arguments(address: object, max_workers: object) -> None:
    if address is not None and not isinstance(address, str):
        raise DaskError(
            f"'address' is {address!r}; it is that of a Dask scheduler, as tcp://10.0.0.1:8786."
        )
    if max_workers is not None and (type(max_workers) is not int or max_workers < 1):
        raise DaskError(
            f"'max_workers' is {max_workers!r}; it is a number of processes, 1 or more."
        )


def _check_outputs(pipeline: Pipeline, catalog: DataCatalog) -> None:
    """Refuse what a node would leave in a worker's memory, where no other node finds it."""
    outputs = {name: catalog.get(name) for name in sorted(pipeline.all_outputs())}
    if found := [name for name, each in outputs.items() if _is_in_memory(each)]:
        raise DaskError(
            "The workers of a Dask cluster share no memory, and these datasets are in memory only:"
            f" {', '.join(found)}; give each an entry in the catalog, for a file that all workers"
            " reach, or use another runner."
        )


def _check_keys(pipeline: Pipeline, catalog: DataCatalog) -> None:
    """Refuse two nodes that may write the same key: each counts its steps by itself."""
    nodes = {name: node for node in pipeline.nodes for name in node.outputs}
    for name, dataset in metrics_datasets(pipeline, catalog).items():
        binding = dataset.binding
        for other in binding.overlapping if binding and binding.destination else ():
            if nodes.get(name) and nodes.get(other) and nodes[name] is not nodes[other]:
                raise DaskError(
                    f"The metrics datasets {name!r} and {other!r}, of two nodes, may write the same"
                    " keys, and each node on a Dask cluster counts its steps by itself; give one of"
                    " them another 'prefix', or use another runner."
                )


def _is_in_memory(dataset: object) -> bool:
    # By _SINGLE_PROCESS Kedro's ParallelRunner finds such datasets, too: CachedDataset, say.
    return isinstance(dataset, MemoryDataset) or getattr(dataset, "_SINGLE_PROCESS", False)


def _share(pipeline: Pipeline, catalog: DataCatalog) -> Share | None:
    """What a worker needs to take part; None where nothing is tracked."""
    from ..config import current_config
    from ..process.state import process_state

    datasets = metrics_datasets(pipeline, catalog)
    for dataset in datasets.values():
        dataset.membership = None  # is for processes that end with the run
    config, run = current_config(), process_state().run_of(id(catalog))
    if config is None or run is None:
        return None
    destination = run.destination
    if destination:
        process_state().runs_with_workers.add(destination.run_id)
    outputs = [datasets[name] for name in datasets.keys() & pipeline.all_outputs()]
    return Share(
        destination.tracking_uri if destination else config.tracking_uri,
        dict(run.run.info) if destination else None,
        dict(config.credentials),
        config.redactor,
        _last_steps(outputs),
    )


def _last_steps(datasets: Iterable[MlflowMetricsDataset]) -> dict[Destination, Mapping[str, int]]:
    """By destination, if it is an external run: the last steps before this Kedro run."""
    from ..delivery.delivery import delivery_to

    found = {dataset.binding.destination for dataset in datasets if dataset.binding}
    external = {each for each in found if each and each.is_external and not each.may_repeat}
    return {each: delivery_to(each).last_steps() for each in external}
