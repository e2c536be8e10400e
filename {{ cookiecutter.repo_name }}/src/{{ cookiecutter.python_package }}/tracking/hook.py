"""``MlflowPipelineHook``: which Kedro event does what.

What comes first closes the MLflow run: ``after_pipeline_run`` (FINISHED), ``on_pipeline_error``
(FAILED) or, as KILLED, SIGTERM, SIGHUP and SIGQUIT (``process/termination.py``). Of Ctrl-C Kedro
tells no hook: then it is the end of the catalog (``_close_collected``) or of the process, the next
Kedro run, the next cell of a notebook or ``%reload_kedro`` (``process/state.py``).
"""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl

from .binding.datasets import bind, bind_sources, metrics_datasets
from .config import MlflowConfig, current_config, register_context

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node
    from mlflow.entities import Run

    from .dataset import MlflowMetricsDataset
    from .delivery.binding import Binding
    from .reports.rules import Rule
    from .run import TrackedRun


class MlflowPipelineHook:
    """Opens the MLflow run of a pipeline, binds its metrics datasets, closes the run at its end.

    Register it once, in ``settings.py``: ``HOOKS = (MlflowPipelineHook(),)``. All Kedro runs of
    a process share it, on any number of threads; what is known of one, ``ProcessState.open_runs``
    has, by the identity of that run's catalog (Kedro's run ids are timestamps: two can be equal).
    """

    def __init__(self) -> None:
        # Kedro shows what is logged at INFO by the project's own package, which this need not be.
        package = logging.getLogger(__package__)
        if "." not in package.name and package.level == logging.NOTSET:
            package.setLevel(logging.INFO)

    # The outermost wrapper, whose code after the yield runs last: other hooks may add what the
    # configuration needs to be read (OmegaConf's resolvers, patterns, another loader).
    @hook_impl(wrapper=True, tryfirst=True)
    def after_context_created(self, context: KedroContext) -> Generator[None, Any, Any]:
        """Take note of the configuration."""
        result = yield
        load_config = register_context(context.config_loader, context.project_path)
        # Another thread may be importing IPython just now.
        if shell := getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)():
            from .binding.notebook import set_notebook

            set_notebook(load_config(), shell)
        return result

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog) -> None:
        """Take note of whose it is: it may be used after another context, and on any thread."""
        from .process.contexts import register_catalog

        register_catalog(catalog)

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

    # MLflow's active run belongs to a thread, and nodes run on any. Before a node, the hooks below
    # are called before other plugins' hooks; after a node, after. None is called at a yield.

    @hook_impl(tryfirst=True)
    def before_dataset_loaded(self, node: Node) -> None:
        """Make the run MLflow's active one, for other hooks' MLflow calls and the dataset's."""
        from .process.state import process_state

        if run := process_state().run_in(sys._getframe()):  # Kedro gives this hook no catalog
            run.enter(node)

    @hook_impl(tryfirst=True)
    def before_node_run(self, node: Node, catalog: DataCatalog) -> None:
        """Make the run MLflow's active one, for the node's own MLflow calls."""
        if run := _run_of(catalog):
            run.enter(node)

    @hook_impl(trylast=True)
    def after_node_run(self, node: Node, catalog: DataCatalog, outputs: dict[str, Any]) -> None:
        """Make the run active again, if the node has left another; in a worker, batch saves."""
        from .process.state import process_state

        if run := _run_of(catalog):
            run.leave()
        elif process_state().membership:
            from .binding.streams import batch_streams

            batch_streams(node, catalog, outputs)

    @hook_impl(trylast=True)
    def on_node_error(self, catalog: DataCatalog) -> None:
        """Make the run active again, if the node has left another one."""
        if run := _run_of(catalog):
            run.leave()

    @hook_impl(wrapper=True)
    def after_pipeline_run(self, catalog: DataCatalog) -> Generator[None, Any, Any]:
        """Close the run, after the other hooks: FAILED if one of them fails."""
        try:
            _stop_saving_once(catalog)
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
            _stop_saving_once(catalog)
            return (yield)
        finally:
            _fail(catalog, error)

    def _open(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        if (config := current_config()) is None:
            return
        from .reports.saving_once import SavingOnce

        saving_once = SavingOnce(id(catalog))
        saving_once.begin()
        weakref.finalize(catalog, saving_once.end)  # Ctrl-C reaches no hook
        datasets = metrics_datasets(pipeline, catalog)
        loaded = {name for node in pipeline.nodes for name in node.inputs}
        named = [each for name, each in datasets.items() if each.reads_run and name in loaded]
        if config.track == "never" or (config.track == "auto" and not datasets):
            if datasets:
                bind(datasets, config.separator, None, catalog)
                _bind_named(named, config, last=None)
            return
        # Imported late: that took 6 of the 600 ms of `kedro registry list`, which tracks nothing.
        from .provenance import parameters
        from .run import open_run

        given = {dataset.run_id for dataset in datasets.values() if dataset.run_id}
        needs_run = config.track == "always" or not all(d.run_id for d in datasets.values())
        weakref.finalize(catalog, _close_collected, id(catalog)).atexit = False
        run = open_run(config, run_params, id(catalog), given, needs_run)
        if config.log_params:
            run.log_params(parameters(pipeline, catalog, config.redactor))
        bindings = bind(datasets, config.separator, run, catalog)
        is_here = run.destination and run.destination.tracking_uri == config.tracking_uri
        _bind_named(named, config, run.run if is_here else None)
        inputs = datasets.keys() & pipeline.inputs()
        # Kedro 1.7 asks each output whether it exists, after this event.
        missing_only = run_params.get("only_missing_outputs")
        wanted = [name for name in datasets if missing_only or name in inputs]
        read = {name: datasets[name] for name in wanted if not datasets[name].reads_run}
        bind_sources(run, read, bindings, inputs)
        run.begin_report(_rules_of(datasets, bindings))


def _bind_named(
    datasets: list[MlflowMetricsDataset], config: MlflowConfig, last: Run | None
) -> None:
    """Tell datasets which MLflow run their ``load_args`` name: a worker process can't find it."""
    if not datasets:
        return
    from .delivery.opening import start_deadline
    from .reports.reading import access, with_named_source
    from .store.mlflow_store import store_at

    with access(), start_deadline(store_at(config.tracking_uri)):
        for each in datasets:
            if each.binding and each.reads_run:
                given = each.binding, each.run_id, each.reads_run, each.rules, last
                each.bind(with_named_source(*given))


def _rules_of(
    datasets: Mapping[str, MlflowMetricsDataset], bindings: Mapping[str, Binding]
) -> list[Rule]:
    """The rules of the datasets that write to the Kedro run's MLflow run."""
    from .reports.rules import Owner, by_owner

    return by_owner(
        Owner(name, bindings[name].start, each.rules, bool(each.key))
        for name, each in datasets.items()
        if not each.run_id
    )


def _stop_saving_once(catalog: DataCatalog) -> None:
    from .reports.saving_once import SavingOnce

    SavingOnce(id(catalog)).end()


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
        run.catalog_id = None  # another catalog may get the same id
        threading.Thread(target=run.close_quietly, name="mlflow-killed").start()
