"""Which points an MLflow run has of an earlier try of the same Kedro run."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import compress

from ..points import Points
from ..store.errors import StoreUnavailableError
from .route import Route

Metrics = Mapping[str, Points]  # by key
Steps = Mapping[str, Sequence[int]]


class Earlier:
    """What an MLflow run had before this process wrote to it: an earlier try wrote the same."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._keys: set[str] | None = None  # that the run had
        self._points: dict[str, set[tuple[int, float]]] = {}  # of those of its keys that were asked
        self._lock = threading.Lock()

    def without(self, metrics: Metrics, steps: Steps) -> tuple[Metrics, Steps]:
        """The metrics without the points, (step, value), that the run had."""
        with self._lock:
            known = self._known(metrics)
        found, left = dict(metrics), dict(steps)
        for key, there in known.items():
            rows = zip(metrics[key].values, steps[key], strict=True)
            is_new = [(step, _comparable(value)) not in there for value, step in rows]
            found[key], left[key] = _only(metrics[key], is_new), list(compress(steps[key], is_new))
        return found, left

    def _known(self, keys: Iterable[str]) -> dict[str, set[tuple[int, float]]]:
        """By key, what the run had; in an outage, of what is known so far."""
        try:
            if self._keys is None:
                found = set(self._route.last_steps())
                self._keys = found if self._route.breaker.error is None else None
            for key in (self._keys or set()).intersection(keys) - self._points.keys():
                points = self._route.histories(key).get(key, ())
                self._points[key] = {(step, value) for _, step, value in points}
        except StoreUnavailableError:
            if self._route.destination.outbox is None:
                raise
        return {key: self._points[key] for key in keys if key in self._points}


def _comparable(value: float) -> float:
    """The value as ``Route.histories`` gives it: there is one NaN, equal to itself in a tuple."""
    return math.nan if math.isnan(value) else float(value)


def _only(points: Points, chosen: Sequence[bool]) -> Points:
    values = list(compress(points.values, chosen))
    stamps = points.timestamps and list(compress(points.timestamps, chosen))
    return replace(points, values=values, steps=None, timestamps=stamps)
