"""``MlflowPipelineHook``: which Kedro event does what."""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.config import MissingConfigException
from kedro.framework.hooks import hook_impl
from kedro.io import CachedDataset, DatasetError
from kedro.utils import load_obj

from .config import current_config, remember
from .dataset import Binding, MlflowMetricsDataset
from .store import default_store

if TYPE_CHECKING:
    from kedro.config import AbstractConfigLoader
    from kedro.framework.context import KedroContext
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline

    from .run import TrackedRun

logger = logging.getLogger(__name__)


class MlflowPipelineHook:
    """Opens the MLflow run of a pipeline, binds its metrics datasets, closes it with the truth.

    Register it once, in ``settings.py``: ``HOOKS = (MlflowPipelineHook(),)``. All Kedro runs of
    a process share it, on any number of threads; what it knows of one it keeps under the
    identity of that run's catalog (Kedro's run ids are timestamps: two can be equal).
    """

    def __init__(self) -> None:
        self._runs: dict[int, TrackedRun] = {}

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Take note of the configuration; name the metrics datasets after their entries."""
        remember(context.config_loader, context.project_path)
        _name_entries(context.config_loader)
        if _is_notebook() and (config := current_config()):
            default_store(config.tracking_uri)

    @hook_impl(wrapper=True)
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> Generator[None, Any, Any]:
        """Around the other hooks: Kedro tells nobody when one of them fails here."""
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
            try:
                run.close("FAILED" if isinstance(error, Exception) else "KILLED", error)
            except Exception as failure:  # the error of the pipeline is the one to raise
                from .errors import reason

                logger.error("The end of the MLflow run could not be written: %s", reason(failure))

    def _abandon(self, catalog_id: int) -> None:
        """Close as KILLED, on a thread: the garbage collector may call amid a request."""
        if run := self._runs.pop(catalog_id, None):
            threading.Thread(target=run.close, name="mlflow-killed").start()

    def _open(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        config = current_config()
        if config is None:
            return
        datasets = _metrics_datasets(pipeline, catalog)
        if config.track == "never" or (config.track == "auto" and not datasets):
            _bind(datasets, config.separator, None)
            return
        # Imported by those who track: it took 6 of the 600 ms of `kedro registry list`.
        from .provenance import parameters
        from .run import Wish, settle

        own = {dataset.own_run for dataset in datasets.values() if dataset.own_run}
        has_run = config.track == "always" or not all(d.own_run for d in datasets.values())
        path = Path(run_params["project_path"])
        run = settle(Wish(config, path, run_params, has_run=has_run, own=own))
        self._runs[id(catalog)] = run
        # Ctrl-C reaches no hook. The catalog ends with the Kedro run.
        weakref.finalize(catalog, self._abandon, id(catalog)).atexit = False
        if config.log_params:
            run.log_params(parameters(pipeline, catalog))
        _bind(datasets, config.separator, run)


def _metrics_datasets(pipeline: Pipeline, catalog: DataCatalog) -> dict[str, MlflowMetricsDataset]:
    """The metrics datasets that the pipeline uses, by name; no other dataset is built for it."""
    found = {}
    for name in sorted(pipeline.datasets()):
        try:
            kind = load_obj(catalog.get_type(name) or "builtins.object")
        except (DatasetError, ImportError, AttributeError):
            continue  # Kedro tells, when it builds the dataset
        if isinstance(kind, type) and issubclass(kind, MlflowMetricsDataset | CachedDataset):
            dataset = catalog.get(name)
            dataset = dataset._dataset if isinstance(dataset, CachedDataset) else dataset
            if isinstance(dataset, MlflowMetricsDataset):
                found[name] = dataset
    return found


def _bind(
    datasets: Mapping[str, MlflowMetricsDataset], separator: str, tracked: TrackedRun | None
) -> None:
    bindings = {}
    for name, dataset in datasets.items():
        run = tracked.run if tracked else None
        if tracked and dataset.own_run:
            run = replace(tracked.home, run_id=dataset.own_run)
            tracked.own.add(run)
        is_new = tracked is not None and tracked.opened
        bindings[name] = Binding(name, _prefix(name), separator, run, is_new)
    starts = {name: datasets[name].key_start(binding) for name, binding in bindings.items()}
    for name, dataset in datasets.items():
        rivals = tuple(
            other
            for other, start in starts.items()
            if other != name
            and datasets[other].own_run == dataset.own_run
            and (start.startswith(starts[name]) or starts[name].startswith(start))
        )
        dataset.bind(replace(bindings[name], rivals=rivals))


def _prefix(name: str) -> str:
    """The dataset's name, without what Kedro calls transcoding: ``metrics@best``."""
    return name.partition("@")[0]


def _name_entries(loader: AbstractConfigLoader) -> None:
    """Give each metrics dataset its catalog name as prefix, in the configuration itself.

    So it has one in a notebook too, where no pipeline runs. The name of a dataset factory,
    ``{name}_metrics``, is filled in by Kedro, like any value of its entry.
    """
    try:
        entries = loader["catalog"]
    except (KeyError, MissingConfigException):
        return
    for name, entry in entries.items():
        for config in (entry, entry.get("dataset")) if isinstance(entry, dict) else ():
            if isinstance(config, dict) and config.get("prefix") is None and _is_ours(config):
                config["prefix"] = _prefix(str(name))
    loader["catalog"] = entries  # AbstractConfigLoader is a dict: what is set is not read again


def _is_ours(entry: Mapping[str, Any]) -> bool:
    return str(entry.get("type")).rpartition(".")[2] == MlflowMetricsDataset.__name__


def _is_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None
