"""Gathers the small saves of a generator node, in a worker process of ParallelRunner."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any

from kedro.io import CachedDataset

from ..dataset import MlflowMetricsDataset
from ..delivery.delivery import delivery_to
from ..process.state import process_state

if TYPE_CHECKING:
    from kedro.io import DataCatalog
    from kedro.pipeline.node import Node

    from ..delivery.route import Destination


def gather(node: Node, catalog: DataCatalog, outputs: dict[str, Any]) -> None:
    """Put other generators in the place of those in ``outputs`` that yield metrics.

    A worker is told when a node's function has returned, and not when its task has ended; but of a
    generator node's outputs Kedro (1.0 to 1.7) takes what they yield until they end.
    """
    if not inspect.isgeneratorfunction(node.func):
        return
    datasets = [catalog.get(name) for name in outputs]
    datasets = [its._dataset if isinstance(its, CachedDataset) else its for its in datasets]
    bindings = [its.binding for its in datasets if isinstance(its, MlflowMetricsDataset)]
    destinations = {its.destination for its in bindings if its and its.destination}
    if destinations:
        gathering = _Gathering(destinations)
        outputs |= {name: gathering.until_one_ends(stream) for name, stream in outputs.items()}


class _Gathering:
    """What gathers while Kedro takes in turn what the streams of one node yield.

    The first that ends is the last that Kedro asks, be it of metrics or not.
    """

    def __init__(self, destinations: set[Destination]) -> None:
        self._destinations = destinations
        self._is_open = False
        self._opened = ExitStack()

    def until_one_ends(self, stream: Iterator[Any]) -> Iterator[Any]:
        with self._opened:
            if not self._is_open:
                self._open()
            yield from stream

    def _open(self) -> None:
        # After it, what the node still saves is written at once.
        end = self._opened.close
        watch = process_state().termination  # a scheduler's SIGTERM may be for workers, too
        self._opened.callback(watch.stop)
        watch.start(end)
        # After Ctrl-C an exception's frames may keep the streams until the worker ends, which
        # deletes nothing (os._exit).
        self._opened.callback(Finalize(None, end, exitpriority=0).cancel)
        self._is_open = True
        for destination in self._destinations:
            delivery = delivery_to(destination).open()
            self._opened.callback(delivery.close)
