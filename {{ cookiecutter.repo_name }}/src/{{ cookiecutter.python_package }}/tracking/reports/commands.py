"""`kedro metrics show`, `compare`, `history` and `check`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ..config import MlflowConfig
from .options import Form, in_project, printed

if TYPE_CHECKING:
    from mlflow.entities import Run

    from .rows import Row, Value
    from .rules import Limit

NAMES = ("last", "previous", "best:", "git:")
RUN_HELP = """
    A RUN is an id or its beginning, a name, `last`, `previous` (the finished run before the last,
    of the same pipeline), `best:KEY` (by the catalog's `metrics`) or `git:REVISION` (the last
    finished run of that commit with a clean tree).
    """


def _complete(context: click.Context, argument: click.Parameter, start: str) -> list[Any]:
    return [name for name in NAMES if name.startswith(start)]


def _about_runs(command: Callable[..., None]) -> Callable[..., None]:
    command.__doc__ = (command.__doc__ or "") + RUN_HELP
    return command


def _run(name: str = "run", **settings: Any) -> Callable[[Any], Any]:
    metavar = "[RUN]..." if "nargs" in settings else "[RUN]"
    return click.argument(name, metavar=metavar, shell_complete=_complete, **settings)


@click.command(short_help="Show the metrics of a run.")
@_run(default="last")
@printed
@in_project
@_about_runs
def show(config: MlflowConfig, run: str, form: Form) -> None:
    """Show the metrics of RUN (`last`): the last and the best value, and the change since the
    finished run before it, of the same pipeline.
    """
    from .rows import rows
    from .runs import opened
    from .tables import run_sheet, title

    with opened(config) as runs:
        found = runs.find(run)
        before = runs.before(found)
        values = [runs.values(each) for each in (before, found) if each]
        lines = rows(values, runs.rules)
        sheet = run_sheet(lines, before, most=len(lines))
        sheet.above = [f"MLflow run {title(found)}: {found.info.status}"]
    data = {
        "run": _run_data(found),
        "since": _run_data(before) if before else None,
        "metrics": [each for row in lines if (each := _row_data(row))],
    }
    form.put(sheet, data)


@click.command(short_help="Compare runs.")
@_run("names", nargs=-1)
@click.option("--last", type=click.IntRange(1), help="So many of the newest runs (2).")
@click.option("--pipeline", default="", help="Only runs of this pipeline, with --last.")
@click.option("--parent", metavar="RUN", default="", help="The runs within it, the best first.")
@click.option("--by", metavar="KEY", default="", help="The metric that says so, with --parent.")
@printed
@in_project
@_about_runs
def compare(
    config: MlflowConfig, *, names: tuple[str, ...], parent: str, by: str, form: Form, **newest: Any
) -> None:
    """Compare RUNs, the first with the others: values, changes, the best (*), and parameters."""
    from .children import children_sheet, ranked
    from .rows import differing, rows
    from .runs import opened
    from .tables import compare_sheet

    last, pipeline = newest["last"], newest["pipeline"]
    if bool(names) + bool(last or pipeline) + bool(parent) > 1 or (by and not parent):
        raise click.UsageError("Name runs, or give --last and --pipeline, or --parent and --by.")
    with opened(config) as runs:
        chosen = [runs.find(name) for name in names]
        if parent:
            chosen, by = ranked(runs, runs.find(parent), by)
        found = chosen or runs.newest(last or 2, pipeline)[::-1]
        lines = rows([runs.values(each) for each in found], runs.rules)
    params = differing([each.data.params for each in found])
    sheet = compare_sheet(lines, found, params)
    if parent:
        sheet = children_sheet(lines, found, params, by)
    data = {
        "runs": [_run_data(each) for each in found],
        "metrics": [
            {
                "key": row.key,
                "values": [value and value.last for value in row.values],
                "bests": [value and value.best for value in row.values],
                "changes": [row.change(number) for number in range(len(found))],
                "best": row.best,
            }
            for row in lines
        ],
        "params": params,
    }
    form.put(sheet, data)


@click.command(short_help="Draw the curve of a metric.")
@click.argument("key")
@_run("names", nargs=-1)
@printed
@in_project
@_about_runs
def history(config: MlflowConfig, key: str, names: tuple[str, ...], form: Form) -> None:
    """Draw the curve of the metric KEY in RUNs (`last`)."""
    from .curves import curve
    from .runs import opened
    from .sheet import Cell, Sheet
    from .tables import title

    with opened(config) as runs:
        found = [runs.find(name) for name in names or ("last",)]
        curves = []
        for run in found:
            history = runs.store.histories(run.info.run_id, runs.known_key(key, run))[key]
            curves.append(sorted((step, value, at) for at, step, value in history))
    sheet = Sheet(["step", "value", "timestamp", "run"])
    for run, points in zip(found, curves, strict=True):
        if not form.name:
            drawn = curve([(step, value) for step, value, _ in points])
            what = f"{key} in the MLflow run {title(run)}, {len(points)} points"
            sheet.below = [*sheet.below, what, *drawn]
            continue
        for step, value, at in points:
            texts = (str(step), repr(value), str(at), run.info.run_id)
            sheet.rows.append([Cell(text) for text in texts])
    listed = [
        {"run": _run_data(run), "points": points} for run, points in zip(found, curves, strict=True)
    ]
    form.put(sheet, {"key": key, "runs": listed})


@click.command(short_help="Check the limits of a run; exit status 1 if it does not meet them.")
@_run(default="last")
@click.option("--against", metavar="RUN", default="", help="The baseline run (the one before).")
@printed
@in_project
@_about_runs
def check(config: MlflowConfig, run: str, against: str, form: Form) -> None:
    """Check that RUN (`last`) has finished and meets the limits of the catalog's `metrics`.

    The exit status is 0 if it does, 1 if it does not, and 2 if there is nothing to check.
    """
    from .rules import limits
    from .runs import NotFoundError, opened
    from .tables import limits_sheet, title

    with opened(config) as runs:
        found = runs.find(run)
        baseline = runs.find(against) if against else runs.before(found)
        values, before = (
            {key: value.last for key, value in runs.values(each).items()} if each else {}
            for each in (found, baseline)
        )
        asked = limits(values, runs.rules, before)
    status = found.info.status
    passed = status == "FINISHED" and all(limit.passed for limit in asked)
    if not asked and status == "FINISHED":
        raise NotFoundError(
            f"The run {found.info.run_id[:8]} has no metric with a limit; give its dataset in the"
            " catalog `metrics:` with 'threshold' or 'max_regression'."
        )
    sheet = limits_sheet(asked)
    than = f", against {title(baseline)}" if baseline else ", without a run to compare with"
    sheet.above = [f"MLflow run {title(found)}: {status}{than}"]
    failed = sum(not limit.passed for limit in asked)
    sheet.below = [f"{failed} of {len(asked)} limits not met." if failed else "All limits met."]
    if status != "FINISHED":
        sheet.below = [f"The run is {status}, not FINISHED."]
    data = {
        "run": _run_data(found),
        "against": _run_data(baseline) if baseline else None,
        "passed": passed,
        "limits": [vars(limit) for limit in asked],
    }
    form.put(sheet, data)
    sys.exit(0 if passed else 1)


def _run_data(run: Run) -> dict[str, Any]:
    info = run.info
    return {
        "run_id": info.run_id,
        "name": info.run_name,
        "status": info.status,
        "start_time": info.start_time,
        "end_time": info.end_time,
    }


def _row_data(row: Row) -> dict[str, Any] | None:
    value: Value | None = row.values[-1]
    if value is None:
        return None
    broken: list[Limit] = list(row.broken)
    number = len(row.values) - 1
    return {
        "key": row.key,
        "value": value.last,
        "step": value.step,
        "best": value.best,
        "best_step": value.best_step,
        "change": row.change(number),
        "better": row.is_better(number),
        "broken": [limit.name for limit in broken],
    }
