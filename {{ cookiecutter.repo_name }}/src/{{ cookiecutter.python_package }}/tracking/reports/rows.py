"""Runs side by side: pure functions from values to the rows of a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..names import SYSTEM
from .rules import Limit, Rule, limits, rule_of


@dataclass(frozen=True)
class Value:
    """A key's last value in one run, and the best one where that is known."""

    last: float
    step: int = 0
    best: float | None = None
    best_step: int | None = None


@dataclass(frozen=True)
class Row:
    """A key in several runs, the first of which is the one to compare with."""

    key: str
    rule: Rule | None
    values: Sequence[Value | None]  # one a run
    broken: Sequence[Limit] = ()  # of the last run

    def change(self, number: int) -> float | None:
        """By how much a run's value differs from the first run's."""
        first, value = self.values[0], self.values[number]
        return value.last - first.last if first and value and number else None

    def is_better(self, number: int) -> bool | None:
        """Whether that is better; None where nothing says so, or nothing has changed."""
        change = self.change(number)
        if not change or math.isnan(change) or self.rule is None:
            return None
        if self.rule.greater_is_better is None:
            return None
        return (change > 0) == self.rule.greater_is_better

    @property
    def best(self) -> int | None:
        """The number of the run with the best last value."""
        rule = self.rule
        if rule is None or rule.greater_is_better is None:
            return None
        known = [(v.last, n) for n, v in enumerate(self.values) if v and math.isfinite(v.last)]
        sign = 1 if rule.greater_is_better else -1
        return max(known, key=lambda each: sign * each[0])[1] if len(known) > 1 else None


def rows(runs: Sequence[Mapping[str, Value]], rules: Iterable[Rule]) -> list[Row]:
    """One row for each key that a run has, but for the system's."""
    rules = tuple(rules)
    baseline = {key: value.last for key, value in runs[0].items()} if len(runs) > 1 else {}
    last = {key: value.last for key, value in runs[-1].items()}
    broken = [limit for limit in limits(last, rules, baseline) if not limit.passed]
    keys = sorted({key for run in runs for key in run if not key.startswith(SYSTEM)})
    by_key: dict[str, list[Limit]] = {}
    for limit in broken:
        by_key.setdefault(limit.key, []).append(limit)
    return [
        Row(key, rule_of(key, rules), [run.get(key) for run in runs], by_key.get(key, ()))
        for key in keys
    ]


def of_last(rows: Iterable[Row]) -> list[Row]:
    """The rows that the last run has, first those whose limits it does not meet."""
    return sorted((row for row in rows if row.values[-1]), key=lambda row: not row.broken)


def with_best(points: Mapping[str, tuple[float, int]], best_start: str) -> dict[str, Value]:
    """The last points of a run (value, step) by key, each with its best, which has its own key."""
    found = {}
    for key, (value, step) in points.items():
        if key.startswith(best_start) and key.removeprefix(best_start) in points:
            continue
        best = points.get(best_start + key, (None, None))
        found[key] = Value(value, step, *best)
    return found


def differing(params: Sequence[Mapping[str, str]]) -> dict[str, list[str | None]]:
    """The parameters that are not the same in all runs, by name."""
    names = sorted({name for each in params for name in each})
    found: dict[str, list[str | None]] = {
        name: [each.get(name) for each in params] for name in names
    }
    return {name: values for name, values in found.items() if len(set(values)) > 1}


def number(value: float | None, sign: str = "") -> str:
    """A value for a table: four digits that mean something."""
    return "" if value is None else f"{value:{sign}.4g}"


def for_json(value: Any) -> Any:
    """The value as JSON has it; NaN and infinities, which it has not, as texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: for_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(each) for each in value]
    return value
