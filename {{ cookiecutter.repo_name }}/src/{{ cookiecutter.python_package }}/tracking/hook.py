"""``MlflowPipelineHook``: which Kedro event does what."""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from collections.abc import Generator, Mapping, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.io import CachedDataset, DatasetError
from kedro.utils import load_obj

from .config import current_config, register_context
from .dataset import Binding, MlflowMetricsDataset

if TYPE_CHECKING:
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

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Take note of the configuration."""
        register_context(context.config_loader, context.project_path)
        ipython = sys.modules.get("IPython")
        if ipython and ipython.get_ipython() and (config := current_config()):
            from .process.state import process_state

            process_state().set_default_store(config.tracking_uri)

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
            _bind(datasets, config.separator, None, catalog)
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
        bindings = _bind(datasets, config.separator, run, catalog)
        inputs = datasets.keys() & pipeline.inputs()
        # Kedro 1.7 asks each output whether it exists, after this event.
        missing_only = run_params.get("only_missing_outputs")
        read = {name: each for name, each in datasets.items() if missing_only or name in inputs}
        _bind_sources(run, read, bindings, inputs)


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
    datasets: Mapping[str, MlflowMetricsDataset],
    separator: str,
    run: TrackedRun | None,
    catalog: DataCatalog,
) -> dict[str, Binding]:
    bindings = {}
    for name, dataset in datasets.items():
        destination = run.destination if run else None
        if run and dataset.run_id:
            destination = run.destination_of(dataset.run_id)
        # Without what Kedro calls transcoding, ``metrics@best``.
        prefix = name.partition("@")[0] if dataset.prefix is None else dataset.prefix
        hint = _hint(catalog, name)
        bindings[name] = Binding(name, prefix, separator, destination, hint=hint)
    for name, dataset in datasets.items():
        start = bindings[name].start
        overlapping = tuple(
            other
            for other, binding in bindings.items()
            if other != name
            and datasets[other].run_id == dataset.run_id
            and (start.startswith(binding.start) or binding.start.startswith(start))
        )
        bindings[name] = replace(bindings[name], overlapping=overlapping)
        dataset.bind(bindings[name])
    return bindings


def _hint(catalog: DataCatalog, name: str) -> str:
    """That an entry comes from a dataset factory, as a sentence; nothing if it does not."""
    resolver = catalog.config_resolver
    if name in resolver.config:
        return ""
    pattern = resolver.match_dataset_pattern(name) or resolver.match_user_catch_all_pattern(name)
    if pattern is None:
        return ""
    return (
        f" {name!r} is a metrics dataset by the pattern {pattern!r} of the catalog; if it is not"
        f" one, add an entry {name!r} with the right 'type' to the catalog."
    )


def _bind_sources(
    run: TrackedRun,
    datasets: Mapping[str, MlflowMetricsDataset],
    bindings: Mapping[str, Binding],
    inputs: Set[str],
) -> None:
    """Tell each of these datasets from which MLflow runs to read; ``inputs`` are not made here.

    Raises:
        TrackingError: An input that no run has.
    """
    from .store.errors import TrackingError
    from .store.mlflow_store import MOST_SEARCHED

    starts = {bindings[name].start for name, dataset in datasets.items() if not dataset.run_id}
    newest = run.newest_with(starts) if starts else {}
    for name, dataset in datasets.items():
        binding = bindings[name]
        own, source = binding.destination, newest.get(binding.start)
        if dataset.run_id:  # that run, and no other
            source = own if dataset.exists() else None
        if name in inputs and source is None:
            searched = f"none of the newest {MOST_SEARCHED:,} MLflow runs of the experiment has"
            if dataset.run_id:
                searched = (
                    f"the MLflow run {dataset.run_id}, which the catalog names, does not have"
                )
            raise TrackingError(
                f"{name!r} is an input of this pipeline, and {searched} metrics that begin with"
                f" {binding.start!r}; run the nodes that make it, too, or give its entry in the"
                f" catalog the 'run_id' of a run that has it.{binding.hint}"
            )
        if source and source != own:
            logger.info("%r is there in an earlier MLflow run, %s.", name, source.run_id)
        sources = (source,) if name in inputs else (own, source)
        dataset.bind(replace(binding, sources=tuple(dict.fromkeys(filter(None, sources)))))
