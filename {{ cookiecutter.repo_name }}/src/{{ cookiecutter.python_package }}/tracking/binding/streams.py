"""Batches the small saves of a generator node, in a worker process of ParallelRunner."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any

from ..dataset import MlflowMetricsDataset
from ..delivery.delivery import Delivery, delivery_to
from ..process.state import process_state
from .datasets import unwrapped

if TYPE_CHECKING:
    from kedro.io import DataCatalog
    from kedro.pipeline.node import Node

    from ..delivery.route import Destination


def batch_streams(node: Node, catalog: DataCatalog, outputs: dict[str, Any]) -> None:
    """Wrap all generators in ``outputs``, if one of them is for a metrics dataset.

    In a worker a hook is called when a node's function has returned, and none when its task has
    ended; but Kedro (1.0 to 1.7) takes what a generator node's outputs yield until they end.
    """
    if not inspect.isgeneratorfunction(node.func):
        return
    datasets = [unwrapped(catalog.get(name)) for name in outputs]
    bindings = [its.binding for its in datasets if isinstance(its, MlflowMetricsDataset)]
    destinations = {its.destination for its in bindings if its and its.destination}
    if destinations:
        batching = _Batching(destinations)
        outputs |= {name: batching.until_one_ends(stream) for name, stream in outputs.items()}


class _Batching:
    """Batches saves while Kedro takes in turn what the streams of one node yield.

    The first that ends is the last that Kedro asks, be it of metrics or not.
    """

    def __init__(self, destinations: set[Destination]) -> None:
        self._destinations = destinations
        self._deliveries: list[Delivery] = []
        self._at_exit: Finalize | None = None
        self._lock = threading.RLock()

    def until_one_ends(self, stream: Iterator[Any]) -> Iterator[Any]:
        try:
            if not self._at_exit:
                self._begin()
            yield from stream
        finally:
            self._end()

    def _begin(self) -> None:
        # For what Ctrl-C leaves unwritten: multiprocessing runs finalizers as a worker exits.
        self._at_exit = Finalize(None, self._end, exitpriority=0)
        process_state().termination.start(self._end)  # a scheduler's SIGTERM is for workers, too
        self._deliveries += [delivery_to(each).open() for each in self._destinations]

    def _end(self) -> None:
        """Write what waits; what the node saves after it is written at once."""
        with self._lock:  # a signal's thread may be here, too
            while self._deliveries:
                self._deliveries[-1].close()  # Ctrl-C in here leaves it for the worker's exit
                del self._deliveries[-1:]
            if self._at_exit:
                self._at_exit.cancel()
            process_state().termination.stop()
