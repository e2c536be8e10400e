"""Gathers the small saves of a generator node, in a worker process of ParallelRunner."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kedro.io import CachedDataset

from ..dataset import MlflowMetricsDataset
from ..delivery.delivery import Delivery, delivery_to

if TYPE_CHECKING:
    from kedro.io import DataCatalog
    from kedro.pipeline.node import Node


def gather(node: Node, catalog: DataCatalog, outputs: dict[str, Any]) -> None:
    """Put other generators in the place of those in ``outputs`` that yield metrics.

    A worker is told when a node's function has returned, and not when its task has ended; but of a
    generator node's outputs Kedro (1.0 to 1.7) takes what they yield until they end.
    """
    if not inspect.isgeneratorfunction(node.func):
        return
    for name, stream in outputs.items():
        dataset = catalog.get(name)
        dataset = dataset._dataset if isinstance(dataset, CachedDataset) else dataset
        if not isinstance(dataset, MlflowMetricsDataset) or dataset.binding is None:
            continue
        if destination := dataset.binding.destination:
            outputs[name] = _gathered(stream, delivery_to(destination))


def _gathered(stream: Iterator[Any], delivery: Delivery) -> Iterator[Any]:
    delivery = delivery.open()
    try:
        yield from stream
    finally:
        delivery.close()
