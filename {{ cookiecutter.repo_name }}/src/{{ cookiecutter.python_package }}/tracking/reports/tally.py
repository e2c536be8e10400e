"""``Tally``: what a Kedro run has written so far, counted as it is written."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..points import Points
from .rules import Rule

# An array gives Python's floats for so many points at a time.
AT_ONCE = 1000


@dataclass
class Seen:
    """What was written of one key."""

    step: int = -(2**63)  # the last
    value: float = math.nan  # at the last step
    low: tuple[float, int] = (math.inf, 0)  # the lowest value, and its first step
    high: tuple[float, int] = (-math.inf, 0)

    def add(self, values: Iterable[float], steps: Iterable[int]) -> None:
        """Count points; one that is NaN or infinite may be the last, but never the best."""
        for value, step in zip(values, steps, strict=True):
            if step >= self.step:
                self.step, self.value = step, value
            if math.isinf(value):
                continue
            if value < self.low[0]:
                self.low = value, step
            if value > self.high[0]:
                self.high = value, step

    def best(self, rule: Rule) -> tuple[float, int] | None:
        """The best value and its step; None if none was finite, or nothing says which is best."""
        if rule.greater_is_better is None:
            return None
        best = self.high if rule.greater_is_better else self.low
        return best if math.isfinite(best[0]) else None


def seen_in(history: Iterable[tuple[int, int, float]]) -> Seen:
    """What a store has of one key (timestamp, step, value)."""
    seen = Seen()
    for _, step, value in history:
        seen.add((value,), (step,))
    return seen


class Tally:
    """What this process has written to one MLflow run, by key."""

    def __init__(self) -> None:
        self._keys: dict[str, Seen] = {}
        self._lock = threading.Lock()

    def add(self, metrics: Mapping[str, Points], steps: Mapping[str, Sequence[int]]) -> None:
        """Count what is written, on any thread."""
        with self._lock:
            for key, points in metrics.items():
                if not len(points.values):
                    continue
                seen = self._keys.setdefault(key, Seen())
                for start in range(0, len(points.values), AT_ONCE):
                    part = slice(start, start + AT_ONCE)
                    values = points.values[part]
                    values = values.tolist() if hasattr(values, "tolist") else values
                    seen.add(values, steps[key][part])

    def seen(self, keys: Iterable[str] | None = None) -> dict[str, Seen]:
        """What was written so far, of these keys or of all; others may go on writing."""
        with self._lock:
            asked = self._keys if keys is None else keys
            return {key: replace(self._keys[key]) for key in asked if key in self._keys}
