"""The runs within another one, the best first: of a sweep, say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .rows import Row, Value, number
from .rules import rule_of
from .runs import NotFoundError, Runs, no_rule
from .sheet import Cell, Sheet
from .tables import Params, title

if TYPE_CHECKING:
    from mlflow.entities import Run


def ranked(runs: Runs, parent: Run, key: str) -> tuple[list[Run], str]:
    """The runs within a parent, the best first, and the key by whose best values that is.

    Without a key it is the first one of which the catalog, from top to bottom, says what is better.
    """
    children = runs.children(parent)
    values = {child.info.run_id: runs.values(child) for child in children}
    known = sorted({key for each in values.values() for key in each})
    ruled = [
        (each, rule.greater_is_better)
        for rule in sorted(runs.rules, key=lambda rule: rule.place)
        for each in ([key] if key else known)
        if rule.greater_is_better is not None and rule_of(each, runs.rules) is rule
    ]
    if not ruled:
        raise no_rule(repr(key) if key else "any metric")
    key, greater = ruled[0]
    if key not in known:
        raise NotFoundError(f"No run within {title(parent)} has a metric {key!r}.")

    def rank(child: Run) -> tuple[bool, float]:
        value = _best(values[child.info.run_id].get(key))
        return not math.isfinite(value), -value if greater else value

    return sorted(children, key=rank), key


def children_sheet(rows: Sequence[Row], runs: Sequence[Run], params: Params, key: str) -> Sheet:
    """Runs as rows: the best values, that of ``key`` first, and the parameters that differ."""
    shown = [row for row in rows if row.rule and row.rule.greater_is_better is not None]
    shown.sort(key=lambda row: row.key != key)
    sheet = Sheet(["run", "status", *(row.key for row in shown), *(f"params:{p}" for p in params)])
    for index, run in enumerate(runs):
        of_run = [row.values[index] for row in shown]
        values = [_best(value) if value else None for value in of_run]
        sheet.rows.append(
            [
                Cell(run.info.run_id[:8]),
                Cell(run.info.status),
                *(Cell(number(value), "", value) for value in values),
                *(Cell(each[index] or "") for each in params.values()),
            ]
        )
    return sheet


def _best(value: Value | None) -> float:
    if value is None:
        return math.nan
    return value.last if value.best is None else value.best
