"""The tables of runs: from rows to sheets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from .rows import Row, number, of_last
from .rules import Limit
from .sheet import BAD, BEST, GOOD, Cell, Sheet

if TYPE_CHECKING:
    from mlflow.entities import Run

MOST_ROWS = 20  # of a summary
Params = Mapping[str, Sequence[str | None]]  # by name, the value of each run


def title(run: Run) -> str:
    """What a run is called, and the beginning of its id."""
    return f"{run.info.run_name} ({run.info.run_id[:8]})"


def run_sheet(rows: Sequence[Row], previous: Run | None, most: int = MOST_ROWS) -> Sheet:
    """One run's table: last and best value, and the change since the previous run."""
    since = [f"since {previous.info.run_id[:8]}"] if previous else []
    has_best = any(value and value.best is not None for row in rows for value in row.values[-1:])
    is_broken = any(row.broken for row in rows)
    sheet = Sheet(["metric", "last", *["best"] * has_best, *since, *["limit"] * is_broken])
    rows = of_last(rows)
    for row in rows[:most]:
        value = row.values[-1]
        assert value
        cells = [Cell(row.key), Cell(number(value.last), "", value.last)]
        if has_best:
            step = "" if value.best is None else f" at {value.best_step}"
            cells.append(Cell(number(value.best) + step, "", value.best))
        if previous:
            cells.append(_change(row, len(row.values) - 1))
        if is_broken:
            text, exact = (
                "; ".join(broken_text(each, form) for each in row.broken) for form in (number, repr)
            )
            cells.append(Cell(text, BAD, exact))
        sheet.rows.append(cells)
    if len(rows) > most:
        sheet.rows.append([Cell(f"... and {len(rows) - most} more: `kedro metrics show`")])
    return sheet


def _change(row: Row, run: int) -> Cell:
    change = row.change(run)
    if change is None or math.isnan(change):
        return Cell("")
    better = row.is_better(run)
    word = {True: " better", False: " worse", None: ""}[better]
    style = {True: GOOD, False: BAD, None: ""}[better]
    return Cell((number(change, "+") if change else "=") + word, style, change)


def broken_text(limit: Limit, form: Callable[[float], str] = number) -> str:
    """What a limit asks for that is not met, for a table."""
    if limit.name == "threshold":
        return f"not {'>=' if limit.greater_is_better else '<='} {form(limit.limit)}"
    relative = " of it" * (limit.name == "max_relative_regression")
    return f"worse by > {form(limit.limit)}{relative}"


def compare_sheet(rows: Sequence[Row], runs: Sequence[Run], params: Params) -> Sheet:
    """Runs as columns: the values, their change against the first, and the best marked."""
    sheet = Sheet(["metric", *(run.info.run_id[:8] for run in runs)])
    for row in rows:
        cells = [Cell(row.key)]
        for index, value in enumerate(row.values):
            change = _change(row, index)
            added = f" ({change.text.split()[0]})" if change.text else ""
            mark, style = ("*", BEST) if row.best == index else ("", change.style)
            text = number(value.last) + added + mark if value else ""
            cells.append(Cell(text, style, value.last if value else None))
        sheet.rows.append(cells)
    for name, values in params.items():
        sheet.rows.append([Cell(f"params:{name}"), *(Cell(value or "") for value in values)])
    sheet.above = [f"{run.info.run_id[:8]}  {run.info.run_name}  {run.info.status}" for run in runs]
    return sheet


def limits_sheet(limits: Sequence[Limit]) -> Sheet:
    """What was asked of a run, what it has, and whether that is enough."""
    sheet = Sheet(["metric", "limit", "value", "baseline", ""])
    for limit in limits:
        style, word = (GOOD, "passed") if limit.passed else (BAD, "failed")
        if limit.value is None:
            word += ": the run has no such metric"
        elif limit.name != "threshold" and limit.baseline is None:
            word += ": no baseline"
        sheet.rows.append(
            [
                Cell(limit.key),
                Cell(f"{limit.name} {number(limit.limit)}", "", f"{limit.name} {limit.limit!r}"),
                Cell(number(limit.value), "", limit.value),
                Cell(number(limit.baseline), "", limit.baseline),
                Cell(word, style),
            ]
        )
    return sheet
