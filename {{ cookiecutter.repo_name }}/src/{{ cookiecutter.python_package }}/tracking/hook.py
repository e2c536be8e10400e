"""``MlflowPipelineHook``: which Kedro event does what."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Generator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from kedro.config import MissingConfigException
from kedro.framework.hooks import hook_impl
from kedro.io import CachedDataset, DatasetError
from kedro.utils import load_obj

from .config import current_config, register_context
from .dataset import Binding, MlflowMetricsDataset
from .points import key_prefix

if TYPE_CHECKING:
    from kedro.config import AbstractConfigLoader
    from kedro.framework.context import KedroContext
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node

    from .run import TrackedRun


class MlflowPipelineHook:
    """Opens the MLflow run of a pipeline, binds its metrics datasets, closes it as it ended.

    Register it once, in ``settings.py``: ``HOOKS = (MlflowPipelineHook(),)``. All Kedro runs of
    a process share it, on any number of threads; what is known of one, ``ProcessState.open_runs``
    has, by the identity of that run's catalog (Kedro's run ids are timestamps: two can be equal).
    """

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Take note of the configuration; name the metrics datasets after their entries."""
        register_context(context.config_loader, context.project_path)
        _set_default_prefixes(context.config_loader)
        ipython = sys.modules.get("IPython")
        if ipython and ipython.get_ipython() and (config := current_config()):
            from .delivery.opening import find_experiment
            from .process.state import process_state

            find = partial(find_experiment, config)
            process_state().set_default_store(config.tracking_uri, find)

    @hook_impl(wrapper=True)
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> Generator[None, Any, Any]:
        """Open the run, before other hooks; Kedro calls no error hook if one raises here."""
        try:
            self._open(run_params, pipeline, catalog)
            return (yield)
        except BaseException as error:
            _fail(catalog, error)
            raise

    # MLflow's active run belongs to a thread, and nodes run on any. The hooks below come before
    # those of others before a node, and after them after it. None is called at a yield.

    @hook_impl(tryfirst=True)
    def before_dataset_loaded(self, node: Node) -> None:
        """Make the run the one of the MLflow calls of other hooks, and of the dataset."""
        from .process.state import process_state

        if run := process_state().run_in(sys._getframe()):  # Kedro gives it no catalog
            run.enter(node)

    @hook_impl(tryfirst=True)
    def before_node_run(self, node: Node, catalog: DataCatalog) -> None:
        """Make the run the one of the node's own MLflow calls."""
        if run := _run_of(catalog):
            run.enter(node)

    @hook_impl(trylast=True)
    def after_node_run(self, catalog: DataCatalog) -> None:
        """Make it so again, if the node has left another run active."""
        if run := _run_of(catalog):
            run.leave()

    @hook_impl(trylast=True)
    def on_node_error(self, catalog: DataCatalog) -> None:
        """Make it so again, if the node has left another run active."""
        if run := _run_of(catalog):
            run.leave()

    @hook_impl(wrapper=True)
    def after_pipeline_run(self, catalog: DataCatalog) -> Generator[None, Any, Any]:
        """Close the run, after the other hooks: FAILED if one of them fails."""
        try:
            result = yield
        except BaseException as error:
            _fail(catalog, error)
            raise
        if run := _run_of(catalog):
            run.close("FINISHED")
        return result

    @hook_impl(wrapper=True)
    def on_pipeline_error(
        self, error: Exception, catalog: DataCatalog
    ) -> Generator[None, Any, Any]:
        """Close the run as FAILED, after the other hooks."""
        try:
            return (yield)
        finally:
            _fail(catalog, error)

    def _open(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        if (config := current_config()) is None:
            return
        datasets = _metrics_datasets(pipeline, catalog)
        if config.track == "never" or (config.track == "auto" and not datasets):
            _bind(datasets, config.separator, None)
            return
        # Imported by those who track: it took 6 of the 600 ms of `kedro registry list`.
        from .provenance import parameters
        from .run import open_run

        named = {dataset.run_id for dataset in datasets.values() if dataset.run_id}
        needs_run = config.track == "always" or not all(d.run_id for d in datasets.values())
        # Ctrl-C reaches no hook. The catalog ends with the Kedro run.
        weakref.finalize(catalog, _close_collected, id(catalog)).atexit = False
        run = open_run(config, run_params, id(catalog), named, needs_run)
        if config.log_params:
            run.log_params(parameters(pipeline, catalog, config.redactor))
        _bind(datasets, config.separator, run)
        for dataset in datasets.values():
            dataset.membership = run.membership()


def _run_of(catalog: DataCatalog) -> TrackedRun | None:
    from .process.state import process_state

    run: TrackedRun | None = process_state().run_of(id(catalog))
    return run


def _fail(catalog: DataCatalog, error: BaseException) -> None:
    if run := _run_of(catalog):
        # The error to raise is that of the pipeline.
        run.close_quietly("FAILED" if isinstance(error, Exception) else "KILLED", error)


def _close_collected(catalog_id: int) -> None:
    """Close as KILLED, on a thread of its own: a finalizer can run amid any other request."""
    from .process.state import process_state

    if run := process_state().run_of(catalog_id):
        run.catalog_id = None  # another catalog may get it
        threading.Thread(target=run.close_quietly, name="mlflow-killed").start()


def _metrics_datasets(pipeline: Pipeline, catalog: DataCatalog) -> dict[str, MlflowMetricsDataset]:
    """The metrics datasets that the pipeline uses, by name; no other dataset is built for it."""
    found = {}
    for name in sorted(pipeline.datasets()):
        try:
            kind = load_obj(catalog.get_type(name) or "builtins.object")
        except (DatasetError, ImportError, AttributeError):
            continue  # Kedro raises that, when it builds the dataset
        if isinstance(kind, type) and issubclass(kind, MlflowMetricsDataset | CachedDataset):
            dataset = catalog.get(name)
            dataset = dataset._dataset if isinstance(dataset, CachedDataset) else dataset
            if isinstance(dataset, MlflowMetricsDataset):
                found[name] = dataset
    return found


def _bind(
    datasets: Mapping[str, MlflowMetricsDataset], separator: str, run: TrackedRun | None
) -> None:
    bindings = {}
    for name, dataset in datasets.items():
        destination = run.destination if run else None
        if run and dataset.run_id:
            destination = run.destination_of(dataset.run_id)
        prefix = _prefix(name) if dataset.prefix is None else dataset.prefix
        is_new = bool(run and run.owned_run_id) and not dataset.run_id
        bindings[name] = Binding(name, prefix, separator, destination, is_new)
    starts = {name: key_prefix(binding.prefix, separator) for name, binding in bindings.items()}
    for name, dataset in datasets.items():
        overlapping = tuple(
            other
            for other, start in starts.items()
            if other != name
            and datasets[other].run_id == dataset.run_id
            and (start.startswith(starts[name]) or starts[name].startswith(start))
        )
        dataset.bind(replace(bindings[name], overlapping=overlapping))


def _prefix(name: str) -> str:
    """The dataset's name, without what Kedro calls transcoding: ``metrics@best``."""
    return name.partition("@")[0]


def _set_default_prefixes(loader: AbstractConfigLoader) -> None:
    """Give each metrics dataset its catalog name as prefix, in the configuration itself.

    So it has one in a notebook too, where no pipeline runs. The name of a dataset factory,
    ``{name}_metrics``, is filled in by Kedro, like any value of its entry.
    """
    try:
        entries = loader["catalog"]
    except (KeyError, MissingConfigException):
        return
    for name, entry in entries.items():
        parts: tuple[Any, ...] = (entry, entry.get("dataset")) if isinstance(entry, dict) else ()
        for config in parts:
            kind = str(isinstance(config, dict) and config.get("type")).rpartition(".")[2]
            if kind == MlflowMetricsDataset.__name__ and config.get("prefix") is None:
                config["prefix"] = _prefix(str(name))
    loader["catalog"] = entries  # AbstractConfigLoader is a dict: what is set is not read again
