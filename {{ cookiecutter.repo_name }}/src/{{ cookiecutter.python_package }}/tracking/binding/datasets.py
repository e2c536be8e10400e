"""Finds the metrics datasets of a pipeline, and binds each to its MLflow run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from dataclasses import replace
from typing import TYPE_CHECKING

from kedro.io import CachedDataset, DatasetError
from kedro.utils import load_obj

from ..config import ConfigError
from ..dataset import MlflowMetricsDataset
from ..names import best_start

if TYPE_CHECKING:
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline

    from ..delivery.binding import Binding
    from ..delivery.route import Destination
    from ..run import TrackedRun
    from ..store.queries import Wanted

logger = logging.getLogger(__name__)


def metrics_datasets(pipeline: Pipeline, catalog: DataCatalog) -> dict[str, MlflowMetricsDataset]:
    """The metrics datasets of the pipeline, by name; of others it builds only CachedDatasets."""
    found = {}
    for name in sorted(pipeline.datasets()):
        try:
            kind = load_obj(catalog.get_type(name) or "builtins.object")
        except (DatasetError, ImportError, AttributeError):
            continue  # Kedro raises that, when it builds the dataset
        if isinstance(kind, type) and issubclass(kind, MlflowMetricsDataset | CachedDataset):
            dataset = unwrapped(catalog.get(name))
            if isinstance(dataset, MlflowMetricsDataset):
                found[name] = dataset
    return found


def unwrapped(dataset: object) -> object:
    """The dataset that a CachedDataset caches; any other dataset as it is."""
    return dataset._dataset if isinstance(dataset, CachedDataset) else dataset


def bind(
    datasets: Mapping[str, MlflowMetricsDataset],
    separator: str,
    run: TrackedRun | None,
    catalog: DataCatalog,
) -> dict[str, Binding]:
    """Give each dataset its prefix and its MLflow run; None: tracking is off.

    Raises:
        ConfigError: One may write the keys of another's best values.
    """
    from ..delivery.binding import Binding

    bindings = {}
    for name, dataset in datasets.items():
        destination = run.destination if run else None
        if run and dataset.run_id:
            destination = run.destination_of(dataset.run_id)
        # Without what Kedro calls transcoding, ``metrics@best``.
        prefix = name.partition("@")[0] if dataset.prefix is None else dataset.prefix
        hint = _hint(catalog, name)
        bindings[name] = Binding(name, prefix, separator, destination, key=dataset.key, hint=hint)
    with_rules = {name for name, dataset in datasets.items() if dataset.rules}
    for name, dataset in datasets.items():
        overlapping = tuple(
            other
            for other, binding in bindings.items()
            if other != name
            and datasets[other].run_id == dataset.run_id
            and binding.overlaps(bindings[name])
        )
        _check_best(name, bindings, with_rules)
        bindings[name] = replace(bindings[name], overlapping=overlapping)
        dataset.bind(bindings[name])
        dataset.membership = run.membership() if run else None
    return bindings


def _check_best(name: str, bindings: Mapping[str, Binding], with_rules: Set[str]) -> None:
    """Raise an error if a dataset may write the key of a best value of another, which has rules."""
    binding = bindings[name]
    best = best_start(binding.separator)
    if not binding.start.startswith(best):
        return
    of = binding.start.removeprefix(best)
    others = [each for each in sorted(with_rules) if bindings[each].has(of)]
    if not binding.key:
        others += [each for each in sorted(with_rules) if bindings[each].start.startswith(of)]
    if others:
        raise ConfigError(
            f"The keys of the metrics dataset {name!r} begin with {binding.start!r}, as those of"
            f" the best values of {others[0]!r} do; give it another"
            f" {'key' if binding.key else 'prefix'!r}."
        )


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


def bind_sources(
    run: TrackedRun,
    datasets: Mapping[str, MlflowMetricsDataset],
    bindings: Mapping[str, Binding],
    inputs: Set[str],
) -> None:
    """Tell each of these datasets from which MLflow runs to read; ``inputs`` are not made here.

    Raises:
        TrackingError: An input that no run has.
    """
    from ..store.errors import TrackingError
    from ..store.queries import MOST_SEARCHED

    wanted = {name: bindings[name].has for name, each in datasets.items() if not each.run_id}
    newest = _newest_with(wanted, run) if wanted else {}
    for name, dataset in datasets.items():
        binding = bindings[name]
        own, source = binding.destination, newest.get(name)
        if dataset.run_id:  # that run, and no other
            source = own if dataset.exists() else None
        if name in inputs and source is None:
            searched = f"none of the newest {MOST_SEARCHED:,} MLflow runs of the experiment has"
            if dataset.run_id:
                searched = (
                    f"the MLflow run {dataset.run_id}, which the catalog names, does not have"
                )
            raise TrackingError(
                f"{name!r} is an input of this pipeline, and {searched} {binding.what}; run the"
                " nodes that make it, too, or give its entry in the catalog the 'run_id' of a run"
                f" that has it.{binding.hint}"
            )
        if source and source != own:
            logger.info("%r is there in an earlier MLflow run, %s.", name, source.run_id)
        sources = (source,) if name in inputs else (own, source)
        dataset.bind(replace(binding, sources=tuple(dict.fromkeys(filter(None, sources)))))


def _newest_with(wanted: Wanted, run: TrackedRun) -> dict[str, Destination]:
    """By dataset name, the MLflow run to read.

    It is the current run if that has keys of the dataset, else the newest run that has some.
    """
    if run.run is None or run.destination is None:
        return {}
    from ..delivery.route import Destination
    from ..store.errors import as_tracking_error
    from ..store.mlflow_store import store_at

    keys = run.run.data.metrics
    own = {name for name, is_wanted in wanted.items() if any(map(is_wanted, keys))}
    missing = {name: wanted[name] for name in wanted.keys() - own}
    store = store_at(run.destination.tracking_uri)
    with as_tracking_error(store.uri):
        found = store.newest_with(run.run.info.experiment_id, missing, False)
    others = {name: Destination(store.uri, run_id) for name, run_id in found.items()}
    return others | dict.fromkeys(own, run.destination)
