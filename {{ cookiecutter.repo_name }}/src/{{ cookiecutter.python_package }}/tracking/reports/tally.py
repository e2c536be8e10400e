"""``Tally``: what a Kedro run has written so far, counted as it is written."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..points import Points
from .rules import Rule

# An array gives Python's floats for so many points at a time.
AT_ONCE = 1000


@dataclass
class Seen:
    """What was written of one key."""

    step: int = -(2**63)  # the last
    value: float = math.nan  # at the last step
    points: int = 0
    low: tuple[float, int] = (math.inf, 0)  # the lowest value, and its first step
    high: tuple[float, int] = (-math.inf, 0)

    def add(self, values: Iterable[float], steps: Iterable[int]) -> None:
        """Count points; one without a number is the last, but never the best."""
        for value, step in zip(values, steps, strict=True):
            self.points += 1
            if step >= self.step:
                self.step, self.value = step, value
            if value < self.low[0]:
                self.low = value, step
            if value > self.high[0]:
                self.high = value, step

    def best(self, rule: Rule) -> tuple[float, int] | None:
        """The best value and its step; None if there was no number."""
        best = self.high if rule.greater_is_better else self.low
        return best if math.isfinite(best[0]) else None


class Tally:
    """What this process has written to one MLflow run, by key."""

    def __init__(self) -> None:
        self.keys: dict[str, Seen] = {}
        self._lock = threading.Lock()

    def add(self, metrics: Mapping[str, Points], steps: Mapping[str, Sequence[int]]) -> None:
        """Count what is written, on any thread."""
        with self._lock:
            for key, points in metrics.items():
                seen = self.keys.setdefault(key, Seen())
                for start in range(0, len(points.values), AT_ONCE):
                    part = slice(start, start + AT_ONCE)
                    values = points.values[part]
                    values = values.tolist() if hasattr(values, "tolist") else values
                    seen.add(values, steps[key][part])

    def add_history(self, key: str, points: Iterable[tuple[int, int, float]]) -> None:
        """Count what the store has of a key (timestamp, step, value), and nothing else."""
        seen = Seen()
        for _, step, value in points:
            seen.add((value,), (step,))
        with self._lock:
            self.keys[key] = seen
