"""``MlflowPipelineHook``: which Kedro event does what."""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kedro.config import MissingConfigException
from kedro.framework.hooks import hook_impl
from kedro.io import CachedDataset, DatasetError
from kedro.utils import load_obj

from .config import ConfigError, MlflowConfig, current_config, register_context
from .dataset import Binding, MlflowMetricsDataset
from .points import key_prefix

if TYPE_CHECKING:
    from kedro.config import AbstractConfigLoader
    from kedro.framework.context import KedroContext
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline

    from .run import TrackedRun

logger = logging.getLogger(__name__)


class MlflowPipelineHook:
    """Opens the MLflow run of a pipeline, binds its metrics datasets, closes it as it ended.

    Register it once, in ``settings.py``: ``HOOKS = (MlflowPipelineHook(),)``. All Kedro runs of
    a process share it, on any number of threads; what it knows of one it keeps under the
    identity of that run's catalog (Kedro's run ids are timestamps: two can be equal).
    """

    def __init__(self) -> None:
        self._runs: dict[int, TrackedRun] = {}

    # Outermost, so that what follows its yield comes last: other hooks may add to the configuration
    # what it is read with (OmegaConf's resolvers, patterns, another loader).
    @hook_impl(wrapper=True, tryfirst=True)
    def after_context_created(self, context: KedroContext) -> Generator[None, Any, Any]:
        """Take note of the configuration; name the metrics datasets after their entries."""
        result = yield
        register_context(context.config_loader, context.project_path)
        _set_default_prefixes(context.config_loader)
        ipython = sys.modules.get("IPython")
        if ipython and ipython.get_ipython() and (config := current_config()):
            _set_notebook(config)
        return result

    @hook_impl(wrapper=True)
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> Generator[None, Any, Any]:
        """Open the run, before other hooks; Kedro calls no error hook if one raises here."""
        try:
            self._open(run_params, pipeline, catalog)
            return (yield)
        except BaseException as error:
            self._fail(catalog, error)
            raise

    @hook_impl
    def before_node_run(self, catalog: DataCatalog) -> None:
        """Make the run the one of the node's own MLflow calls."""
        if run := self._runs.get(id(catalog)):
            run.activate()  # ThreadRunner's nodes run on threads of their own

    @hook_impl(wrapper=True)
    def after_pipeline_run(self, catalog: DataCatalog) -> Generator[None, Any, Any]:
        """Close the run, after the other hooks: FAILED if one of them fails."""
        try:
            result = yield
        except BaseException as error:
            self._fail(catalog, error)
            raise
        if run := self._runs.pop(id(catalog), None):
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
            self._fail(catalog, error)

    def _fail(self, catalog: DataCatalog, error: BaseException) -> None:
        if run := self._runs.pop(id(catalog), None):
            # The error to raise is that of the pipeline.
            run.close_quietly("FAILED" if isinstance(error, Exception) else "KILLED", error)

    def _close_collected(self, catalog_id: int) -> None:
        """Close as KILLED, on a thread of its own: a finalizer can run amid any other request."""
        if run := self._runs.pop(catalog_id, None):
            threading.Thread(target=run.close_quietly, name="mlflow-killed").start()

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
        run = open_run(config, run_params, named, needs_run)
        self._runs[id(catalog)] = run
        # Ctrl-C reaches no hook. The catalog ends with the Kedro run.
        weakref.finalize(catalog, self._close_collected, id(catalog)).atexit = False
        if config.log_params:
            run.log_params(parameters(pipeline, catalog, config.redactor))
        _bind(datasets, config.separator, run)


def _set_notebook(config: MlflowConfig) -> None:
    """Point MLflow's own functions at the project's store, for ``mlflow.start_run()`` in a cell."""
    from .process.state import process_state

    try:
        credentials = config.credentials
    except ConfigError as error:  # a notebook that reads data needs none
        logger.warning("MLflow gets no credentials: %s", error.message)
        credentials = {}
    process_state().set_default_store(config.tracking_uri, credentials)


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
