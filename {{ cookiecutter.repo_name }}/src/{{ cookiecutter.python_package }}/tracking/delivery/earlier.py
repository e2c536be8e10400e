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
    """What an MLflow run had before this process: maybe an earlier try of the same Kedro run."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._keys: set[str] | None = None  # that the run had
        # By key and step, the newest values: several, if their timestamps are equal.
        self._newest: dict[str, dict[int, set[float]]] = {}
        self._lock = threading.Lock()

    def without(self, metrics: Metrics, steps: Steps) -> tuple[Metrics, Steps]:
        """The metrics without the points whose value the run had as the newest of their step.

        Once a point has been written at a step, all later points of that step are written, too.
        """
        found, left = dict(metrics), dict(steps)
        with self._lock:
            for key, newest in self._known(metrics).items():
                is_new = []
                for value, step in zip(metrics[key].values, steps[key], strict=True):
                    is_new.append(_comparable(value) not in newest.get(step, ()))
                    if is_new[-1]:
                        newest.pop(step, None)
                found[key] = _only(metrics[key], is_new)
                left[key] = list(compress(steps[key], is_new))
        return found, left

    def _known(self, keys: Iterable[str]) -> dict[str, dict[int, set[float]]]:
        """By key, what the run had; in an outage, of what is known so far."""
        try:
            if self._keys is None:
                found, is_known = self._route.last_steps()
                self._keys = set(found) if is_known else None
            for key in (self._keys or set()).intersection(keys) - self._newest.keys():
                self._newest[key] = _newest(self._route.histories(key).get(key, ()))
        except StoreUnavailableError:
            if self._route.destination.outbox is None:
                raise
        return {key: self._newest[key] for key in keys if key in self._newest}


def _newest(points: Iterable[tuple[int, int, float]]) -> dict[int, set[float]]:
    """By step, the values of the latest time; the points are in the order of time."""
    times: dict[int, int] = {}
    found: dict[int, set[float]] = {}
    for time, step, value in points:
        if times.get(step) != time:
            times[step], found[step] = time, set()
        found[step].add(value)
    return found


def _comparable(value: float) -> float:
    """The value, with one object for all NaNs, as in ``Route.histories``: sets go by identity."""
    return math.nan if math.isnan(value) else float(value)


def _only(points: Points, chosen: Sequence[bool]) -> Points:
    values = list(compress(points.values, chosen))
    stamps = points.timestamps and list(compress(points.timestamps, chosen))
    return replace(points, values=values, steps=None, timestamps=stamps)
