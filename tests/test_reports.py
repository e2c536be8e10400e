"""What one sees of metrics: the summary of a run, the best values, `kedro metrics`."""

from __future__ import annotations

import csv
import inspect
import io
import json
import logging
import math
import re
import signal
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click import ClickException
from helpers import KEDRO, STARTER, Lab, Project, data, flat, metrics, points_in
from jsonschema import Draft202012Validator
from kedro.framework.session import KedroSession
from kedro.io import DatasetError
from kedro.runner import ParallelRunner, ThreadRunner
from lab.tracking.dataset import MlflowMetricsDataset
from lab.tracking.points import Points
from lab.tracking.reports.curves import curve
from lab.tracking.reports.rows import Value, for_json, rows, with_best
from lab.tracking.reports.rules import Owner, Rule, by_owner, limits, parse_rules, rule_of, rules_in
from lab.tracking.reports.sheet import Cell, Sheet
from lab.tracking.reports.tally import Tally
from lab.tracking.store.schema import versions
from lab.tracking.store.sqlite import upgrade
from mlflow import MlflowClient
from mlflow.entities import Metric
from rich.console import Console

ENTRY = """
curves_metrics:
  type: lab.tracking.MlflowMetricsDataset
  metrics:
    loss: {greater_is_better: false}
    acc*: {greater_is_better: true, threshold: 0.7, max_regression: 0.05}
"""
LOSSES = [0.5, 0.2, 0.3]


@pytest.fixture
def curves(lab: Lab) -> Lab:
    """The lab with rules for the metrics of the pipeline ``curves``."""
    lab.add("base/catalog.yml", ENTRY)
    return lab


def train(lab: Lab, *values: float, **options: Any) -> str:
    """Run the pipeline; returns the id of its MLflow run."""
    lab.run("curves", params={"values": list(values), **options})
    return str(lab.runs()[-1].info.run_id)


# Rules


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"loss": {"greater_is_beter": True}}, "did you mean 'greater_is_better'?"),
        ({"loss": {"threshhold": 1}}, "did you mean 'threshold'?"),
        ({"loss": {"x": 1}}, "known are greater_is_better, threshold, max_regression"),
        ({"loss": {"greater_is_better": "yes"}}, "it is true or false"),
        ({"loss": {"greater_is_better": True, "threshold": "0.9"}}, "it is a number"),
        ({"loss": {"greater_is_better": True, "threshold": math.nan}}, "it is a number"),
        ({"loss": {"greater_is_better": True, "max_regression": -1}}, "a number from 0 on"),
        ({"loss": {"threshold": 0.9}}, "limits, but no 'greater_is_better'; add it"),
        ({"loss": True}, "says of 'loss' True (bool); it is a mapping of greater_is_better"),
        (["loss"], "'metrics' is ['loss'] (list); it is a mapping of metric names to rules"),
    ],
)
def test_a_wrong_rule_is_an_error_that_says_what_is_allowed(given: Any, part: str) -> None:
    with pytest.raises(ValueError, match=re.escape(part)):
        parse_rules(given)


def test_a_wrong_rule_in_the_catalog_names_the_dataset(curves: Lab) -> None:
    curves.add("base/catalog.yml", "    loss*: {beter: true}\n")

    with pytest.raises(Exception, match="beter"):
        train(curves, *LOSSES)
    result = metrics(curves, "check")
    assert result.exit_code == 1
    assert "'metrics' has for 'loss*' 'beter': True (bool);" in result.output


def test_exact_names_come_before_patterns_and_entries_before_factories() -> None:
    kind = "lab.tracking.MlflowMetricsDataset"
    catalog = {
        "{name}_metrics": {"type": kind, "metrics": {"*": {"greater_is_better": True}}},
        "a_metrics": {
            "type": kind,
            "metrics": {"l*": {"greater_is_better": True}, "loss": {"greater_is_better": False}},
        },
        "b_metrics": {"type": kind, "prefix": "foo", "metrics": {"x": {"greater_is_better": True}}},
        "cars": {"type": "pandas.CSVDataset", "metrics": {"y": {}}},
    }

    rules = rules_in(catalog, ".")

    def better(key: str) -> bool | None:
        rule = rule_of(key, rules)
        return rule.greater_is_better if rule else None

    assert better("a_metrics.loss") is False
    assert better("a_metrics.lag") is True
    assert better("foo.x") is True
    assert better("other_metrics.any") is True
    assert better("cars.y") is None
    assert better("foo.xy") is None


KIND = "lab.tracking.MlflowMetricsDataset"


@pytest.mark.parametrize(
    ("key", "owner"),
    [
        ("rmse_metrics.error", "{name}_metrics"),
        ("rmse_test_metrics.error", "{name}_test_metrics"),
        ("rmse_test_metrics.other", None),
        ("plain_metrics.size", None),
        ("kept_metrics.size", "kept_metrics"),
        ("uk.rmse", "uk"),
        ("uk.err.rmse", None),
        ("uk.err.mse", "uk.err"),
        ("single", None),
        ("single.one", "flat"),
        ("anything", "flat"),
        ("cached.loss", None),
    ],
)
def test_a_rule_is_for_the_metrics_of_its_own_entry(key: str, owner: str | None) -> None:
    """As Kedro finds the entry of a dataset, whatever the order in the catalog."""
    metrics_of = {
        "flat": ["*"],
        "{name}_metrics": ["*"],
        "{name}_test_metrics": ["error"],
        "plain_metrics": [],
        "kept_metrics": ["size"],
        "uk": ["*"],
        "uk.err": ["mse"],
    }
    limits_of = {name: float(number) for number, name in enumerate(metrics_of)}
    catalog: dict[str, dict[str, Any]] = {
        "one": {"type": KIND, "key": "single"},
        "cached": {"type": "CachedDataset", "dataset": {"type": KIND}},
        "table": {"type": "no_such_package.Table"},
    }
    for name, names in metrics_of.items():
        rule = {"greater_is_better": True, "threshold": limits_of[name]}
        catalog[name] = {"type": KIND, "metrics": dict.fromkeys(names, rule)}
    catalog["flat"]["prefix"] = ""

    for items in ([*catalog.items()], [*catalog.items()][::-1]):
        found = rule_of(key, rules_in(dict(items), "."))
        assert (found and found.threshold) == (limits_of[owner] if owner else None)


@pytest.mark.parametrize("first", [True, False])
def test_an_entry_that_reads_the_metrics_of_another_takes_no_rule_from_it(first: bool) -> None:
    reader = {"type": KIND, "prefix": "m", "load_args": {"run": "previous"}}
    writer = {"type": KIND, "metrics": {"acc": {"greater_is_better": True, "threshold": 0.5}}}
    catalog = {"before": reader, "m": writer} if first else {"m": writer, "with": reader}

    rule = rule_of("m.acc", rules_in(catalog, "."))

    assert rule
    assert rule.threshold == 0.5


def test_each_best_value_is_by_the_rule_of_its_own_dataset(lab: Lab) -> None:
    up, down = "{greater_is_better: true}", "{greater_is_better: false}"
    lab.add(
        "base/catalog.yml",
        f'final_metrics: {{type: {KIND}, prefix: "", metrics: {{"*loss": {down}}}}}\n'
        f"curves_metrics: {{type: {KIND}, metrics: {{loss: {up}}}}}\n",
    )
    train(lab, *LOSSES)

    bests = {key: value for key, value in lab.points().items() if key.startswith("best.")}
    assert bests == {"best.curves_metrics.loss": [(0, 0.5)]}


def test_rules_in_a_cached_dataset_and_below_an_empty_prefix() -> None:
    entry = {
        "type": "lab.tracking.MlflowMetricsDataset",
        "prefix": None,
        "metrics": {"a": {"greater_is_better": True}},
    }
    catalog = {"cached": {"type": "CachedDataset", "dataset": entry}, "plain": entry}

    found = [rule.key for rule in rules_in(catalog, ".") if rule.greater_is_better]
    assert found == ["cached.a", "plain.a"]


def met(rule: dict[str, Any], value: float, baseline: float | None = None) -> bool:
    rules = [Rule("m", **rule)]
    found = limits({"m": value}, rules, {} if baseline is None else {"m": baseline})
    return all(limit.passed for limit in found)


UP, DOWN = {"greater_is_better": True}, {"greater_is_better": False}


@pytest.mark.parametrize(
    ("rule", "value", "baseline", "expected"),
    [
        ({**UP, "threshold": 0.9}, 0.9, None, True),
        ({**UP, "threshold": 0.9}, 0.89, None, False),
        ({**DOWN, "threshold": 0.9}, 0.9, None, True),
        ({**DOWN, "threshold": 0.9}, 0.91, None, False),
        ({**UP, "threshold": 0.9}, math.nan, None, False),
        ({**UP, "max_regression": 0.01}, 0.90, 0.91, True),  # 0.010000000000000009
        ({**UP, "max_regression": 0.01}, 0.89, 0.91, False),
        ({**UP, "max_regression": 0.01}, 2.0, 0.91, True),
        ({**DOWN, "max_regression": 0}, 0.91, 0.91, True),
        ({**DOWN, "max_regression": 0}, 0.92, 0.91, False),
        ({**UP, "max_regression": 0.01}, math.nan, 0.91, False),
        ({**UP, "max_regression": 0.01}, 0.1, None, True),
        ({**UP, "max_regression": 0.01}, 0.1, math.nan, True),
        ({**UP, "max_relative_regression": 0.1}, 90.0, 100.0, True),
        ({**UP, "max_relative_regression": 0.1}, 89.0, 100.0, False),
        ({**DOWN, "max_relative_regression": 0.1}, -89.0, -100.0, False),
        ({**UP, "max_relative_regression": 0.1}, -0.1, 0.0, False),
        ({**UP, "threshold": 0.5, "max_regression": 0.1}, 0.6, 0.9, False),
        ({**UP, "threshold": math.inf}, math.inf, None, True),
    ],
)
def test_limits(rule: dict[str, Any], value: float, baseline: float | None, expected: bool) -> None:
    assert met(rule, value, baseline) is expected


def test_a_metric_that_is_missing_among_others_of_its_dataset_meets_no_limit() -> None:
    rules = by_owner(
        [Owner("d", "d.", [Rule("m", True, threshold=0.5), Rule("n*", True, threshold=0.5)])]
    )

    (missing,) = limits({"d.other": 1.0}, rules, {})
    assert (missing.key, missing.value, missing.passed) == ("d.m", None, False)
    assert limits({"e.other": 1.0}, rules, {}) == []


def test_a_metric_is_missing_only_where_its_own_dataset_was_written() -> None:
    limited, up = [Rule("acc", True, threshold=0.5)], [Rule("n*", True)]
    flat = by_owner([Owner("flat", "", [*limited, Rule("loss", False, threshold=0.5)])])
    assert limits({"b.other": 1.0, "system/cpu": 1.0}, flat, {}) == []
    assert [(each.key, each.value) for each in limits({"loss": 0.1}, flat, {})] == [
        ("loss", 0.1),
        ("acc", None),
    ]

    nested = by_owner(
        [Owner("a", "a.", limited), Owner("a.b", "a.b.", up), Owner("a.c", "a.c.", [])]
    )
    assert limits({"a.b.other": 1.0, "a.c.other": 1.0}, nested, {}) == []
    assert [each.key for each in limits({"a.other": 1.0}, nested, {})] == ["a.acc"]


# Values


def test_a_tally_knows_the_last_and_the_best_points() -> None:
    tally = Tally()
    tally.add({"k": Points("k", (3.0, 1.0, math.nan))}, {"k": (0, 1, 2)})
    tally.add({"k": Points("k", (1.0, 5.0))}, {"k": (3, 1)})

    seen = tally.seen()["k"]
    assert (seen.step, seen.value) == (3, 1.0)
    assert seen.best(Rule("k", greater_is_better=True)) == (5.0, 1)
    assert seen.best(Rule("k", greater_is_better=False)) == (1.0, 1)
    tally.add({"n": Points("n", (math.nan, math.inf))}, {"n": (0, 1)})
    (only,) = tally.seen(["n"]).values()
    assert (only.value, only.best(Rule("n", greater_is_better=True))) == (math.inf, None)
    tally.add({"none": Points("none", ())}, {"none": ()})
    assert "none" not in tally.seen()
    assert list(tally.seen(["n", "none"])) == ["n"]


def test_a_tally_can_be_read_while_others_count() -> None:
    tally, ended = Tally(), threading.Event()

    def count() -> None:
        for number in range(3000):
            tally.add({f"k{number}": Points("k", (1.0,))}, {f"k{number}": (0,)})
        ended.set()

    threading.Thread(target=count).start()
    while not ended.is_set():
        assert all(seen.value == 1.0 for seen in tally.seen().values())
    assert len(tally.seen()) == 3000


def test_rows_have_changes_against_the_first_run_and_the_best() -> None:
    runs = [{"a": Value(1.0)}, {"a": Value(3.0), "b": Value(1.0)}, {"a": Value(2.0)}]
    one, two = rows(runs, [Rule("a", greater_is_better=True)])

    assert [one.change(number) for number in range(3)] == [None, 2.0, 1.0]
    assert [one.is_better(number) for number in range(3)] == [None, True, True]
    assert one.best == 1
    assert (two.key, two.values[0], two.change(1), two.best) == ("b", None, None, None)


def test_an_infinite_value_is_never_marked_as_the_best() -> None:
    runs = [{"a": Value(value)} for value in (0.3, -math.inf, math.nan, 0.2)]
    (row,) = rows(runs, [Rule("a", greater_is_better=False)])

    assert row.best == 3


def test_best_values_stand_beside_their_keys() -> None:
    points = {"m.a": (1.0, 9), "best.m.a": (2.0, 4), "best.other": (3.0, 0)}

    assert with_best(points, "best.") == {
        "m.a": Value(1.0, 9, 2.0, 4),
        "best.other": Value(3.0, 0),  # a dataset of this name
    }


def test_json_has_no_nan() -> None:
    text = json.dumps(for_json({"a": [math.nan, math.inf, (1.5,)]}), allow_nan=False)

    assert json.loads(text) == {"a": ["nan", "inf", [1.5]]}


def test_a_sheet_in_all_its_forms() -> None:
    sheet = Sheet(["metric", "last"], above=["Run a_b"], below=["x" * 300])
    sheet.rows.append([Cell("m_a|b"), Cell("0.5", "red", 0.123456789)])
    terminal = Console(file=io.StringIO(), width=40, force_terminal=True)
    sheet.show(terminal)

    assert "x" * 300 in terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "x" * 300 in sheet.text()
    assert "\x1b" not in sheet.text()
    assert list(csv.reader(io.StringIO(sheet.csv()))) == [
        ["metric", "last"],
        ["m_a|b", "0.123456789"],
    ]
    assert "Run a\\_b" in sheet.markdown()
    assert "| m\\_a\\|b | **0.5** |" in sheet.markdown()
    sheet.rows.append([Cell("params:prompt"), Cell("first line\nsecond\n")])
    assert "| params:prompt | first line second |" in sheet.markdown()


@pytest.mark.parametrize(
    "points",
    [
        [(0, 1.0)],
        [(step, step**2) for step in range(1000)],
        [(0, 1.0), (10**12, 1.0)],
        [(0, math.nan), (1, 2.0), (2, math.inf)],
        [],
        [(0, math.nan)],
        [(0, -sys.float_info.max), (1, sys.float_info.max)],
    ],
)
def test_a_curve_fits_its_place(points: list[tuple[int, float]]) -> None:
    lines = curve(points)

    assert max(map(len, lines)) <= 80
    assert len(lines) in (1, 10)


# The summary of a run


def test_the_best_values_have_keys_of_their_own(curves: Lab) -> None:
    train(curves, *LOSSES)

    (run,) = curves.runs()
    points = points_in(curves.store, run)
    assert points["best.curves_metrics.loss"] == [(1, 0.2)]
    assert points["best.curves_metrics.accuracy"] == [(1, 0.8)]
    assert {key for key in points if key.startswith("best.")} == {
        "best.curves_metrics.loss",
        "best.curves_metrics.accuracy",
    }


def test_no_metric_has_a_best_value_of_which_nothing_says_what_is_better(lab: Lab) -> None:
    kind = "lab.tracking.MlflowMetricsDataset"
    rules = '{"*": {greater_is_better: false}, accuracy: {}}'
    lab.add("base/catalog.yml", f"curves_metrics: {{type: {kind}, metrics: {rules}}}")
    train(lab, *LOSSES)

    keys = {key for key in lab.points() if key.startswith("best.")}
    assert keys == {"best.curves_metrics.loss"}


def test_a_best_value_has_no_best_value_of_its_own(lab: Lab) -> None:
    """Not in a run that was there before, either, whose keys are read, nor without a prefix."""
    kind = "lab.tracking.MlflowMetricsDataset"
    rules = '{"*": {greater_is_better: false}}'
    lab.add("base/catalog.yml", f'curves_metrics: {{type: {kind}, prefix: "", metrics: {rules}}}')
    client = MlflowClient(f"sqlite:///{lab.store}")
    run_id = client.create_run(client.create_experiment("lab")).info.run_id
    for _ in range(2):
        train(lab, *LOSSES, mlflow_run_id=run_id)

    keys = set(lab.points())
    assert {"best.accuracy", "best.loss"} <= keys
    assert not any(key.startswith("best.best.") for key in keys)


@pytest.mark.parametrize("runner", [ParallelRunner, ThreadRunner])
def test_under_every_runner(curves: Lab, runner: type) -> None:
    curves.run("curves", params={"values": LOSSES}, runner=runner())

    assert curves.points()["best.curves_metrics.loss"] == [(1, 0.2)]


def test_the_best_of_a_given_run_is_that_of_all_of_it(curves: Lab) -> None:
    client = MlflowClient(f"sqlite:///{curves.store}")
    run_id = client.create_run(client.create_experiment("lab")).info.run_id
    for values in ([0.5, 0.1], [0.4, 0.3]):
        curves.run("curves", params={"values": values, "mlflow_run_id": run_id})

    run = client.get_run(run_id)
    assert run.data.metrics["best.curves_metrics.loss"] == 0.1
    assert run.data.metrics["curves_metrics.loss"] == 0.3


def test_a_better_value_at_an_earlier_step_is_the_best_of_the_run(curves: Lab) -> None:
    """MLflow takes for the last value of a key the one at its highest step."""
    client = MlflowClient(f"sqlite:///{curves.store}")
    run_id = client.create_run(client.create_experiment("lab")).info.run_id
    train(curves, 0.5, 0.4, 0.3, mlflow_run_id=run_id)
    client.log_metric(run_id, "curves_metrics.loss", 0.1, step=1)
    for _ in range(2):
        train(curves, 0.2, mlflow_run_id=run_id)

    assert client.get_run(run_id).data.metrics["best.curves_metrics.loss"] == 0.1
    (loss,) = [
        each
        for each in data(curves, "show", run_id)["metrics"]
        if each["key"] == "curves_metrics.loss"
    ]
    assert (loss["value"], loss["best"]) == (0.2, 0.1)


@pytest.mark.parametrize(
    "given",
    [
        "prefix: best.curves_metrics",
        "key: best.curves_metrics.loss",
        "prefix: best.curves_metrics.a",
    ],
)
def test_no_dataset_writes_the_keys_of_best_values(curves: Lab, given: str) -> None:
    entry = "final_metrics:\n  type: lab.tracking.MlflowMetricsDataset\n  "
    curves.add("base/catalog.yml", entry + given + "\n")

    with pytest.raises(
        ClickException, match=r"'final_metrics' begin with 'best\.curves_metrics"
    ) as (error):
        train(curves, *LOSSES)
    assert f"give it another '{given.partition(':')[0]}'" in str(error.value)
    assert [run.info.status for run in curves.runs()] == ["FAILED"]


def test_a_key_that_only_begins_like_those_of_best_values_is_fine(curves: Lab) -> None:
    entry = "final_metrics:\n  type: lab.tracking.MlflowMetricsDataset\n  "
    curves.add("base/catalog.yml", entry + "key: best.curves\n")

    with pytest.raises(DatasetError, match=r"'best\.curves' is one, not a mapping"):
        train(curves, *LOSSES)


def test_a_best_value_whose_key_would_be_too_long_costs_no_point(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """MLflow refuses a request as a whole."""
    rules = '{"*": {greater_is_better: false}}'
    prefix = "p" * 240
    entry = f"{{type: {KIND}, prefix: {prefix}, metrics: {rules}}}"
    lab.add("base/catalog.yml", f"curves_metrics: {entry}\n")
    train(lab, *LOSSES)

    keys = {key.replace(prefix, "p") for key in lab.points() if "p" * 240 in key}
    assert keys == {"p.loss", "p.accuracy", "best.p.loss"}
    assert [run.info.status for run in lab.runs()] == ["FINISHED"]
    assert "MLflow takes no keys of over 250 characters" in caplog.text


def test_with_another_separator(curves: Lab) -> None:
    curves.configure(separator="/")
    train(curves, *LOSSES)

    assert curves.points()["best/curves_metrics/loss"] == [(1, 0.2)]
    assert curves.context().catalog.load("curves_metrics").keys() == {"loss", "accuracy"}


def test_a_dataset_without_a_prefix_loads_what_was_saved(lab: Lab) -> None:
    lab.add("base/catalog.yml", ENTRY.replace("  metrics:", '  prefix: ""\n  metrics:'))
    lab.run("curves", params={"values": LOSSES}, node_names=["curves_train"])

    assert "best.loss" in lab.points()
    assert lab.context().catalog.load("curves_metrics").keys() == {"loss", "accuracy"}


def test_the_summary_has_a_row_for_each_key_and_a_link(
    curves: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    train(curves, *LOSSES)
    first = capsys.readouterr().out
    run_id = train(curves, 0.5, 0.1)
    second = capsys.readouterr().out

    lines = [line.split() for line in first.splitlines()]
    assert ["curves_metrics.loss", "0.3", "0.2", "at", "1"] in lines
    assert ["final_metrics.size", "7"] in lines
    lines = [line.split() for line in second.splitlines()]
    assert ["curves_metrics.loss", "0.1", "0.1", "at", "1", "-0.2", "better"] in lines
    assert ["final_metrics.size", "7", "="] in lines
    page = f"/runs/{run_id}/model-metrics?workflowType=machine_learning"
    assert any(line.startswith("http") and line.endswith(page) for line in second.splitlines())
    assert re.search(rf"MLflow run curves .* \({run_id[:8]}\): FINISHED, \d", second)
    assert "best.curves" not in second


def test_the_summary_of_several_pipelines(curves: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """One run; compared with the one before of the same pipelines, not with one of a single."""
    names = ["curves", "ends"]
    for values, pipelines in ([0.4], names), ([0.9], ["curves"]), ([0.2], names):
        with curves.session(values=values, end="well") as session:
            assert isinstance(session, KedroSession)
            session.run(pipeline_names=pipelines)

    out = capsys.readouterr().out.splitlines()
    begin = len(out) - out[::-1].index(next(x for x in out[::-1] if x.startswith("metric ")))
    table = [line.split() for line in out[begin:]]
    assert ["curves_metrics.loss", "0.2", "0.2", "at", "0", "-0.2", "better"] in table
    assert any(row[:3] == ["MLflow", "run", "curves+ends"] for row in table)
    assert any(row[0].startswith("before_metrics.") for row in table if row)


def test_the_summary_marks_what_meets_no_limit(
    curves: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    train(curves, 0.2)
    train(curves, 0.4)

    line = next(x for x in capsys.readouterr().out.splitlines()[::-1] if "curves_metrics.acc" in x)
    assert line.split()[:5] == ["curves_metrics.accuracy", "0.6", "0.6", "at", "0"]
    assert line.endswith("worse  not >= 0.7; worse by > 0.05")


def test_the_summary_of_many_keys_says_how_many_more(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.run("flow", params={"yields": 2, "pause": 0})

    out = capsys.readouterr().out
    assert len(re.findall(r"^flow_metrics\.k\d+ ", out, re.MULTILINE)) == 20
    assert "... and 180 more: `kedro metrics show`" in out


def test_no_summary(
    curves: Lab, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    curves.configure(summary=False)
    with caplog.at_level(logging.INFO):
        run_id = train(curves, *LOSSES)

    assert "curves_metrics.loss" not in capsys.readouterr().out.replace("Saving data to", "")
    assert f"The MLflow run {run_id} is FINISHED." in caplog.text
    assert "best.curves_metrics.loss" in curves.points()


# Kedro's log


def test_without_rich_there_is_a_line_in_the_log(
    curves: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "rich.logging")
    monkeypatch.setitem(sys.modules, "rich", None)  # an import fails
    with caplog.at_level(logging.INFO):
        run_id = train(curves, *LOSSES)

    assert f"The MLflow run {run_id} is FINISHED" in caplog.text


@pytest.mark.parametrize(("level", "lines"), [(logging.INFO, 1), (logging.DEBUG, 3)])
def test_kedro_says_once_a_node_that_it_saves(
    curves: Lab, caplog: pytest.LogCaptureFixture, level: int, lines: int
) -> None:
    before = list(logging.getLogger("kedro.io.data_catalog").filters)
    with caplog.at_level(level, logger="kedro.io.data_catalog"):
        train(curves, *LOSSES)
        once = [r for r in caplog.records if r.getMessage().startswith("Saving data to curves")]
        train(curves, *LOSSES)
        twice = [r for r in caplog.records if r.getMessage().startswith("Saving data to curves")]

    assert (len(once), len(twice)) == (lines, 2 * lines)
    assert logging.getLogger("kedro.io.data_catalog").filters == before


@pytest.mark.slow
def test_in_worker_processes_too(make_project: Callable[..., Project]) -> None:
    project = make_project("curves")
    project.write("conf/base/parameters.yml", "values: [0.5, 0.4, 0.3]\n")

    out = project.kedro("run", "--runner=ParallelRunner").stdout

    assert out.count("Saving data to curves_metrics") == 1


# Names and tags


def test_a_run_is_named_by_its_pattern(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.configure(run_name="{pipeline} of {env}, {time:%Y}", tags={"team": "fraud", "centre": 7})
    lab.run("everything", node_names=["a"])
    monkeypatch.setenv("MLFLOW_RUN_NAME", "from the environment")
    lab.run("everything", node_names=["a"])
    lab.run("everything", node_names=["a"], params={"mlflow_run_name": "given"})

    runs = lab.runs()
    assert re.fullmatch(r"everything of local, \d{4}", str(runs[0].info.run_name))
    assert [run.info.run_name for run in runs[1:]] == ["from the environment", "given"]
    assert {(run.data.tags["team"], run.data.tags["centre"]) for run in runs} == {("fraud", "7")}


def test_a_run_may_be_named_by_its_pipeline_alone(lab: Lab) -> None:
    lab.configure(run_name="{pipeline}")
    train(lab, *LOSSES)

    assert lab.runs()[0].info.run_name == "curves"


def test_two_runs_at_once_have_different_names(lab: Lab) -> None:
    for _ in range(3):
        lab.run("everything", node_names=["a"])

    assert len({run.info.run_name for run in lab.runs()}) == 3


def test_tags_of_the_project_go_to_a_given_run_too(lab: Lab) -> None:
    client = MlflowClient(f"sqlite:///{lab.store}")
    run_id = client.create_run(client.create_experiment("lab")).info.run_id
    lab.configure(tags={"team": "fraud"})
    lab.run("everything", node_names=["a"], params={"mlflow_run_id": run_id})

    assert client.get_run(run_id).data.tags["team"] == "fraud"


def test_a_new_experiment_is_one_of_models(lab: Lab) -> None:
    lab.run("everything", node_names=["a"])

    (run,) = lab.runs()
    experiment = MlflowClient(f"sqlite:///{lab.store}").get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


# `kedro metrics`


def test_show(curves: Lab) -> None:
    first, second = train(curves, *LOSSES), train(curves, 0.5, 0.1)

    result = metrics(curves, "show")
    assert result.exit_code == 0, result.output
    assert f"({second[:8]}): FINISHED" in result.output
    assert f"since {first[:8]}" in result.output
    shown = data(curves, "show", first)
    assert shown["since"] is None
    assert [each["key"] for each in shown["metrics"]] == [
        "curves_metrics.accuracy",
        "curves_metrics.loss",
        "final_metrics.recall_a",
        "final_metrics.size",
    ]
    loss = shown["metrics"][1]
    assert (loss["value"], loss["step"], loss["best"], loss["best_step"]) == (0.3, 2, 0.2, 1)
    better = {each["key"]: each["better"] for each in data(curves, "show")["metrics"]}
    assert better["curves_metrics.loss"] is True
    assert better["final_metrics.size"] is None


def test_a_run_has_many_names(curves: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [train(curves, 0.3), train(curves, 0.1, 0.2), train(curves, 0.4)]

    def found(name: str) -> str:
        return str(data(curves, "show", name)["run"]["run_id"])

    assert found("last") == ids[2]
    assert found("previous") == ids[1]
    assert found(ids[0]) == ids[0]
    assert found(ids[1][:12]) == ids[1]
    assert found(str(curves.runs()[0].info.run_name)) == ids[0]
    named = train(curves, 0.5, mlflow_run_name=ids[1][:4])
    assert found(ids[1][:4]) == named
    MlflowClient(f"sqlite:///{curves.store}").delete_run(named)
    assert found("best:curves_metrics.loss") == ids[1]
    assert found("best:curves_metrics.accuracy") == ids[1]


def test_the_best_run_may_be_one_without_a_best_value_of_its_own(curves: Lab) -> None:
    train(curves, 0.3)
    client = MlflowClient(f"sqlite:///{curves.store}")
    run_id = client.create_run(curves.runs()[0].info.experiment_id).info.run_id
    client.log_metric(run_id, "curves_metrics.loss", 0.1)
    client.set_terminated(run_id)

    assert data(curves, "show", "best:curves_metrics.loss")["run"]["run_id"] == run_id


def test_any_number_of_the_newest_runs_can_be_compared(curves: Lab) -> None:
    train(curves, 0.3)

    assert len(data(curves, "compare", "--last=60000")["runs"]) == 1


def test_a_run_with_an_infinite_value_is_never_the_best(curves: Lab) -> None:
    best = train(curves, 0.3)
    client = MlflowClient(f"sqlite:///{curves.store}")
    for value in (-math.inf, math.nan):
        run_id = client.create_run(curves.runs()[0].info.experiment_id).info.run_id
        client.log_metric(run_id, "curves_metrics.loss", value)
        client.set_terminated(run_id)

    assert data(curves, "show", "best:curves_metrics.loss")["run"]["run_id"] == best


def test_a_name_with_both_kinds_of_quotes_is_no_other_runs(curves: Lab) -> None:
    train(curves, 0.3, mlflow_run_name="its")
    own = train(curves, 0.3, mlflow_run_name="it's")

    assert data(curves, "show", "it's")["run"]["run_id"] == own
    assert "has no run" in metrics(curves, "show", "it's\"").output
    assert "has no run" in metrics(curves, "show", "i't\"s").output


def test_nested_runs_are_not_meant(curves: Lab) -> None:
    run_id = train(curves, *LOSSES)
    client = MlflowClient(f"sqlite:///{curves.store}")
    experiment = curves.runs()[0].info.experiment_id
    nested = client.create_run(experiment, tags={"mlflow.parentRunId": run_id}).info.run_id

    assert data(curves, "show")["run"]["run_id"] == run_id
    assert data(curves, "show", nested)["run"]["run_id"] == nested  # but by their ids
    copy_run(curves.store, nested, 100)
    with closing(sqlite3.connect(curves.store)) as database, database:
        database.execute("UPDATE runs SET start_time = start_time + 10000 WHERE run_uuid LIKE '0%'")
    assert data(curves, "show")["run"]["run_id"] == run_id


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["show", "nope"], "has no run 'nope'"),
        (["show", "o'brien"], 'has no run "o\'brien"'),
        (["show", "previous"], "no finished run before the last"),
        (["show", "best:final_metrics.size"], "give its dataset in the catalog `metrics:`"),
        (["show", "git:nope"], "git knows no revision 'nope' here"),
        (["compare", "last", "nope"], "has no run 'nope'"),
        (["compare", "--pipeline", "nope"], "has no runs of the pipeline 'nope'"),
        (["history", "curves_metrics.los"], "did you mean 'curves_metrics.loss'?"),
        (["check", "--against", "nope"], "has no run 'nope'"),
        (["compare", "last", "--last", "2"], "Name runs, or give --last and --pipeline, or"),
    ],
)
def test_what_is_not_there_is_one_sentence(curves: Lab, arguments: list[str], part: str) -> None:
    train(curves, *LOSSES)

    result = metrics(curves, *arguments)

    assert result.exit_code == 2
    assert part in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_that_previous_is_a_run_of_the_same_pipeline_is_said(curves: Lab) -> None:
    train(curves, *LOSSES)
    curves.run("everything", node_names=["a"])

    result = metrics(curves, "show", "previous")

    assert result.exit_code == 2
    assert "of the same pipeline; give the id of another." in " ".join(result.output.split())


@pytest.mark.parametrize(
    "arguments", [["show"], ["compare"], ["history", "a"], ["check"], ["ui", "--no-browser"]]
)
def test_without_a_store_nothing_is_made(lab: Lab, arguments: list[str]) -> None:
    lab.store.unlink()

    result = metrics(lab, *arguments)

    assert result.exit_code == 2
    assert "The experiment 'lab' has no runs yet; try `kedro run`." in result.output
    assert not lab.store.exists()


@pytest.mark.parametrize("command", ["show", "compare", "check"])
def test_a_deleted_experiment_is_not_said_to_be_empty(lab: Lab, command: str) -> None:
    client = MlflowClient(f"sqlite:///{lab.store}")
    client.delete_experiment(client.create_experiment("lab"))

    result = metrics(lab, command)

    assert result.exit_code == 1
    assert "The MLflow experiment 'lab' is deleted; restore it" in " ".join(result.output.split())


def test_a_store_that_does_not_answer_is_one_sentence(lab: Lab) -> None:
    lab.configure(tracking_uri="http://127.0.0.1:9")

    result = metrics(lab, "show")

    assert result.exit_code == 1
    assert "The MLflow store http://127.0.0.1:9 can't be reached" in result.output
    assert "start it, or set another 'tracking_uri' in mlflow.yml." in flat(result.output)


def test_compare(curves: Lab) -> None:
    ids = [train(curves, 0.3, epochs=1), train(curves, 0.2, epochs=2)]

    compared = data(curves, "compare")
    assert [run["run_id"] for run in compared["runs"]] == ids
    by_key = {each["key"]: each for each in compared["metrics"]}
    assert by_key["curves_metrics.loss"]["values"] == [0.3, 0.2]
    assert by_key["curves_metrics.loss"]["changes"] == [None, pytest.approx(-0.1)]
    assert by_key["curves_metrics.loss"]["best"] == 1
    assert by_key["final_metrics.size"]["best"] is None
    assert compared["params"]["values"] == ["[0.3]", "[0.2]"]
    backwards = data(curves, "compare", "last", "previous")
    assert [run["run_id"] for run in backwards["runs"]] == ids[::-1]
    assert len(data(curves, "compare", "--last", "1")["runs"]) == 1
    text = metrics(curves, "compare").output
    assert "0.2 (-0.1)*" in text
    assert "params:values" in text


def test_history(curves: Lab) -> None:
    run_id = train(curves, *LOSSES)

    listed = data(curves, "history", "curves_metrics.loss")
    (only,) = listed["runs"]
    assert only["run"]["run_id"] == run_id
    assert [point[:2] for point in only["points"]] == [[0, 0.5], [1, 0.2], [2, 0.3]]
    lines = metrics(curves, "history", "curves_metrics.loss", "--csv").output.splitlines()
    assert lines[-1].startswith("2,0.3,")
    assert "3 points" in metrics(curves, "history", "curves_metrics.loss").output
    file = curves.path / "curve.txt"
    metrics(curves, "history", "curves_metrics.loss", f"--output={file}")
    assert "3 points" in file.read_text()
    file.unlink()


def test_check(curves: Lab) -> None:
    train(curves, 0.2)
    first = metrics(curves, "check")
    assert first.exit_code == 0
    assert first.output.count("passed: no baseline") == 1
    train(curves, 0.28)

    result = metrics(curves, "check")

    assert result.exit_code == 1
    assert "1 of 2 limits not met." in result.output
    checked = data(curves, "check")
    assert checked["passed"] is False
    assert {each["name"]: each["passed"] for each in checked["limits"]} == {
        "threshold": True,
        "max_regression": False,
    }
    assert metrics(curves, "check", "--against", "last").exit_code == 0
    assert metrics(curves, "check", "previous").exit_code == 0


def test_a_run_that_failed_passes_no_check(curves: Lab) -> None:
    train(curves, 0.2)
    with pytest.raises(Exception, match="unsupported operand"):
        train(curves, "x")  # type: ignore[arg-type]

    result = metrics(curves, "check")

    assert result.exit_code == 1
    assert "The run is FAILED, not FINISHED." in result.output
    assert "FAILED" in metrics(curves, "show").output


def test_the_csv_of_limits_has_all_digits(curves: Lab) -> None:
    rule = "{greater_is_better: false, threshold: 0.123456}"
    entry = f"final_metrics: {{type: {KIND}, metrics: {{size: {rule}}}}}\n"
    curves.add("base/catalog.yml", entry)
    train(curves, 0.2)

    checked = metrics(curves, "check", "--csv").output
    shown = metrics(curves, "show", "--csv").output

    assert "final_metrics.size,threshold 0.123456,7.0," in checked
    assert "not <= 0.123456" in shown
    assert "not <= 0.1235" in metrics(curves, "show").output


def test_nothing_to_check_is_not_a_success(lab: Lab) -> None:
    train(lab, 0.2)

    result = metrics(lab, "check")

    assert result.exit_code == 2
    assert "has no metric with a limit" in result.output


def test_output_into_a_file(curves: Lab, tmp_path: Path) -> None:
    train(curves, *LOSSES)

    for option in ("--json", "--md", "--csv"):
        metrics(curves, "show", option, "--output", str(tmp_path / "out"))
        text = (tmp_path / "out").read_text()
        assert "curves" in text
    metrics(curves, "show", "--output", str(tmp_path / "out"))
    assert "curves_metrics.loss" in (tmp_path / "out").read_text()


def test_output_where_no_file_can_be_is_one_sentence(curves: Lab, tmp_path: Path) -> None:
    train(curves, *LOSSES)

    result = metrics(curves, "show", "--output", str(tmp_path / "none" / "out"))

    assert result.exit_code == 1
    said = "none/out can't be written (No such file or directory); give --output a file in a folder"
    assert said in flat(result.output)
    assert not (tmp_path / "none").exists()


def schema(command: str) -> dict[str, Any]:
    """The schema in docs/metrics.md of what a command prints; nothing more is allowed here."""
    page = (STARTER / "docs" / "metrics.md").read_text(encoding="utf-8")
    blocks = map(json.loads, re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    found = next(each for each in blocks if each["title"] == f"kedro metrics {command} --json")
    Draft202012Validator.check_schema(found)
    return json.loads(  # type: ignore[no-any-return]
        json.dumps(found),
        object_hook=lambda each: (
            {**each, "additionalProperties": False} if "required" in each else each
        ),
    )


def test_json_is_as_its_schema_says(curves: Lab) -> None:
    """Of one run, of several; NaN, infinities; a metric of one run alone; a run that is running."""
    key = "curves_metrics.loss"
    client = MlflowClient(f"sqlite:///{curves.store}")
    printed = []

    def look(command: str, *arguments: str) -> None:
        found = data(curves, command, *arguments)
        Draft202012Validator(schema(command)).validate(found)
        printed.append(json.dumps(found))

    first = train(curves, *LOSSES)
    client.log_metric(first, "curves_metrics.extra", 1)
    for value in (None, math.nan, math.inf):
        last = first if value is None else train(curves, 0.3, value)
        look("show")
        look("compare", first, "last")
        look("history", key, first, "last")
        look("check")
    running = client.create_run(curves.runs()[0].info.experiment_id).info.run_id
    look("show", running)
    look("compare", last, running)

    assert '"inf"' in "".join(printed)
    assert '"nan"' in "".join(printed)


@pytest.mark.slow
def test_ten_thousand_keys(curves: Lab) -> None:
    run_id = train(curves, *LOSSES)
    client = MlflowClient(f"sqlite:///{curves.store}")
    for start in range(0, 10_000, 1000):
        points = [Metric(f"many.k{n}", float(n), 0, 0) for n in range(start, start + 1000)]
        client.log_batch(run_id, points)

    assert len(data(curves, "show")["metrics"]) == 10_004
    assert len(data(curves, "compare", "last", "last")["metrics"]) == 10_004
    assert len(data(curves, "history", "many.k77")["runs"][0]["points"]) == 1
    assert data(curves, "check")["passed"]


@pytest.mark.slow
def test_ten_thousand_runs(curves: Lab) -> None:
    """Copies of one run in the store's own tables: MLflow's client would take minutes."""
    run_id = train(curves, *LOSSES)
    copy_run(curves.store, run_id, 10_000)
    train(curves, 0.1)
    client = MlflowClient(f"sqlite:///{curves.store}")
    experiment = client.get_run(run_id).info.experiment_id
    newest = client.search_runs([experiment], max_results=1)[0].info.run_id

    assert data(curves, "show")["run"]["run_id"] == newest
    assert data(curves, "show", "previous")["run"]["status"] == "FINISHED"
    assert data(curves, "show", "best:curves_metrics.loss")["run"]["run_id"] == newest
    assert len(data(curves, "compare", "--last", "9")["runs"]) == 9
    assert data(curves, "check")["passed"]


def copy_run(store: Path, run_id: str, copies: int) -> None:
    """Add so many copies of a run, with its latest metrics and tags, that began before it."""
    with closing(sqlite3.connect(store)) as database, database:
        for table, _key in (
            ("runs", "run_uuid"),
            ("latest_metrics", "run_uuid"),
            ("tags", "run_uuid"),
        ):
            found = database.execute(f"PRAGMA table_info({table})").fetchall()
            columns = [name for _, name, *_ in found if name != "run_uuid"]
            chosen = ", ".join(
                "start_time - 1 - n" if name == "start_time" else f't."{name}"' for name in columns
            )
            names = ", ".join(f'"{name}"' for name in columns)
            database.execute(
                f"INSERT INTO {table} (run_uuid, {names})"
                " WITH RECURSIVE copies(n) AS"
                f" (SELECT 0 UNION ALL SELECT n + 1 FROM copies WHERE n < {copies - 1})"
                f" SELECT printf('%032x', n), {chosen} FROM copies, {table} t WHERE t.run_uuid = ?",
                (run_id,),
            )


# Reading in code


def loaded(lab: Lab, name: str = "curves_metrics") -> Any:
    return lab.context().catalog.load(name)


def with_load_args(lab: Lab, load_args: str, name: str = "read_metrics") -> None:
    lab.add(
        "base/catalog.yml",
        f"{name}:\n  type: lab.tracking.MlflowMetricsDataset\n"
        f"  prefix: curves_metrics\n  load_args: {load_args}\n",
    )


def test_outside_of_a_run_the_last_finished_run_that_has_it_is_read(curves: Lab) -> None:
    train(curves, *LOSSES)
    with pytest.raises(Exception, match="unsupported operand"):
        train(curves, 0.9, "x")  # type: ignore[arg-type]
    curves.run("everything", node_names=["a"])

    assert loaded(curves)["loss"] == [
        {"value": 0.5, "step": 0},
        {"value": 0.2, "step": 1},
        {"value": 0.3, "step": 2},
    ]
    assert curves.context().catalog.exists("curves_metrics")
    assert not curves.context().catalog.exists("other_metrics")
    dataset = curves.context().catalog["curves_metrics"]
    assert isinstance(dataset, MlflowMetricsDataset)
    preview: Any = dataset.preview()
    assert {curve["name"]: curve["y"] for curve in preview["data"]} == {
        "curves_metrics.loss": LOSSES,
        "curves_metrics.accuracy": [0.5, 0.8, 0.7],
    }


def test_nothing_found_is_an_error(lab: Lab) -> None:
    with pytest.raises(DatasetError, match="The experiment 'lab' has no runs yet"):
        loaded(lab)
    lab.run("everything", node_names=["a"])
    with pytest.raises(DatasetError, match=r"has metrics that begin with 'curves_metrics\.'"):
        loaded(lab)
    with pytest.raises(DatasetError, match="has no MLflow run"):
        lab.context().catalog.save("curves_metrics", {"a": 1})


def test_another_run_is_read_by_its_name(curves: Lab) -> None:
    with_load_args(curves, "{run: previous}")
    with_load_args(curves, '{run: "best:curves_metrics.loss"}', "best_metrics")
    with_load_args(curves, "{run: nope}", "nope_metrics")
    train(curves, 0.1)
    train(curves, 0.4)
    train(curves, 0.3)

    assert loaded(curves, "read_metrics")["loss"]["value"] == 0.4
    assert loaded(curves, "best_metrics")["loss"]["value"] == 0.1
    with pytest.raises(DatasetError, match="has no run 'nope'"):
        loaded(curves, "nope_metrics")


def test_as_a_frame(curves: Lab) -> None:
    with_load_args(curves, "{as: frame}")
    run_id = train(curves, *LOSSES)

    frame = loaded(curves, "read_metrics")

    assert list(frame.columns) == ["key", "step", "value", "timestamp", "run"]
    loss = frame[frame["key"] == "curves_metrics.loss"]
    assert loss["step"].tolist() == [0, 1, 2]
    assert loss["value"].tolist() == LOSSES
    assert set(frame["run"]) == {run_id}
    assert not any(frame["key"].str.startswith("best."))
    assert str(frame["timestamp"].dt.tz) == "UTC"


@pytest.mark.parametrize("load_args", ["{rum: last}", "{as: table}", "[last]", "{run: 7}"])
def test_other_load_args_are_an_error(lab: Lab, load_args: str) -> None:
    with_load_args(lab, load_args)

    with pytest.raises(DatasetError, match=r"it may have 'run: RUN' and 'as: frame'"):
        loaded(lab, "read_metrics")


def test_a_node_compares_itself_with_a_baseline(lab: Lab) -> None:
    lab.add("base/catalog.yml", "baseline_metrics:\n  type: lab.tracking.MlflowMetricsDataset\n")
    lab.add("base/catalog.yml", "  prefix: chain_metrics\n  load_args: {run: previous}\n")
    lab.run("chain", params={"judge": "well"})
    lab.run("chain", params={"judge": "well"})

    assert loaded(lab, "baseline_metrics")["score"]["value"] == 0.5


@pytest.mark.slow
def test_without_the_hook_the_project_is_found(
    curves: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kedro-Viz builds a catalog, and a script."""
    train(curves, *LOSSES)
    project = Project(curves.path)
    code = (
        "from pathlib import Path\n"
        "from kedro.config import OmegaConfigLoader\n"
        "from kedro.framework.startup import bootstrap_project\n"
        "from kedro.io import DataCatalog\n"
        "bootstrap_project(Path.cwd())\n"
        "conf = OmegaConfigLoader('conf', base_env='base', default_run_env='local')\n"
        "catalog = DataCatalog.from_config(conf['catalog'])\n"
        "figure = catalog.get('curves_metrics').preview()\n"
        "print([(curve['name'], curve['y']) for curve in figure['data']])\n"
    )
    uri = f"sqlite:///{curves.store}"

    done = project.command(sys.executable, "-c", code, MLFLOW_TRACKING_URI=uri)

    assert "('curves_metrics.loss', [0.5, 0.2, 0.3])" in done.stdout


def test_kedro_viz_knows_what_it_previews() -> None:
    """By the name of the annotation (kedro_viz/models/flowchart/node_metadata.py, 12.5)."""
    annotation = inspect.signature(MlflowMetricsDataset.preview).return_annotation

    assert getattr(annotation, "__name__", str(annotation)) == "PlotlyPreview"


# System metrics


def test_system_metrics_are_logged(lab: Lab) -> None:
    lab.configure(system_metrics=True)
    lab.run("everything", node_names=["a"])

    (run,) = lab.runs()
    assert "system/cpu_utilization_percentage" in run.data.metrics
    assert "system/system_memory_usage_megabytes" in run.data.metrics
    names = [thread.name for thread in threading.enumerate()]
    assert "mlflow-system-metrics" not in names
    assert {each["key"] for each in data(lab, "show")["metrics"]} == {
        "a_metrics.curve",
        "a_metrics.score",
    }


def test_a_given_run_counts_on(lab: Lab) -> None:
    lab.configure(system_metrics=True)
    client = MlflowClient(f"sqlite:///{lab.store}")
    run_id = client.create_run(client.create_experiment("lab")).info.run_id
    for _ in range(2):
        lab.run("everything", node_names=["a"], params={"mlflow_run_id": run_id})

    history = client.get_metric_history(run_id, "system/cpu_utilization_percentage")
    assert [metric.step for metric in history] == [0, 1]


def test_mlflows_own_switch_has_an_effect(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    lab.run("everything", node_names=["a"])

    assert "system/cpu_utilization_percentage" in lab.runs()[0].data.metrics


def test_without_psutil_a_warning_says_what_to_install(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lab.configure(system_metrics=True)
    monkeypatch.setattr("lab.tracking.reports.system.find_spec", lambda name: None)
    lab.run("everything", node_names=["a"])

    assert "need psutil, which is not installed; run `pip install psutil`." in caplog.text


# The store's upgrade


def make_old(store: Path) -> str:
    """Make a store as MLflow was two migrations ago; returns its version."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    store.unlink(missing_ok=True)
    version = versions()[2]
    engine = create_engine(f"sqlite:///{store}")
    Base.metadata.create_all(engine)
    config = _get_alembic_config(f"sqlite:///{store}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)
    engine.dispose()
    with closing(sqlite3.connect(store)) as database, database:
        database.execute(
            "INSERT INTO experiments VALUES (7, 'kept', '', 'active', 0, 0, 'default')"
        )
    return version


@pytest.mark.slow
def test_upgrade_makes_a_copy_first(lab: Lab) -> None:
    version = make_old(lab.store)
    before = lab.store.read_bytes()
    with pytest.raises(Exception, match="run `kedro metrics upgrade`, which saves a copy"):
        lab.run("everything", node_names=["a"])

    result = metrics(lab, "upgrade")

    assert result.exit_code == 0, result.output
    copy = lab.store.with_name(f"mlflow-{version}.db")
    assert f"mlflow.db is upgraded; a copy of it, as it was, is {copy}." in result.output
    with closing(sqlite3.connect(copy)) as database:
        (found,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        assert found == version
    assert copy.stat().st_size == len(before)
    assert copy.stat().st_mode & 0o777 == lab.store.stat().st_mode & 0o777
    lab.run("everything", node_names=["a"])
    client = MlflowClient(f"sqlite:///{lab.store}")
    assert {experiment.name for experiment in client.search_experiments()} >= {"kept", "lab"}
    assert "mlflow.db is up to date." in metrics(lab, "upgrade").output


def test_an_upgrade_that_fails_leaves_the_store_as_it_was(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = make_old(lab.store)

    def fail(engine: Any) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE runs")
        raise OSError("the disk is full")

    monkeypatch.setattr("mlflow.store.db.utils._upgrade_db", fail)
    result = metrics(lab, "upgrade")

    assert result.exit_code == 1
    assert "is as it was" in result.output
    assert "the disk is full" in result.output
    with closing(sqlite3.connect(lab.store)) as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchone() == (version,)
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (0,)


def test_an_upgrade_that_is_interrupted_leaves_the_store_and_each_copy_as_they_were(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = make_old(lab.store)
    copy = lab.store.with_name(f"mlflow-{version}.db")
    copy.write_bytes(b"of an upgrade that a power cut ended")

    def interrupt(engine: Any) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE runs")
        raise KeyboardInterrupt

    monkeypatch.setattr("mlflow.store.db.utils._upgrade_db", interrupt)
    with pytest.raises(KeyboardInterrupt):
        upgrade(lab.store)

    assert copy.read_bytes() == b"of an upgrade that a power cut ended"
    for path in (lab.store, lab.store.with_name(f"mlflow-{version}-2.db")):
        with closing(sqlite3.connect(path)) as database:
            found = database.execute("SELECT version_num FROM alembic_version").fetchone()
            assert found == (version,)
            assert database.execute("SELECT count(*) FROM runs").fetchone() == (0,)


@pytest.mark.parametrize(
    ("content", "part"),
    [(None, "mlflow.db: nothing to upgrade."), ("newer", "are of a newer MLflow than this one")],
)
def test_what_can_not_be_upgraded(lab: Lab, content: str | None, part: str) -> None:
    if content is None:
        lab.store.unlink()
    else:
        with closing(sqlite3.connect(lab.store)) as database, database:
            database.execute("UPDATE alembic_version SET version_num = 'fedcba987654'")

    assert part in metrics(lab, "upgrade").output
    assert lab.store.exists() == bool(content)
    assert list(lab.store.parent.glob("mlflow-*")) == []


def test_what_waits_for_a_store_that_is_no_file_is_upgraded(lab: Lab) -> None:
    lab.configure(tracking_uri="http://127.0.0.1:9")
    make_old(lab.path / "mlflow-spool.db")

    result = metrics(lab, "upgrade")

    assert result.exit_code == 0, result.output
    assert "mlflow-spool.db is upgraded" in result.output
    assert "The store is no SQLite file" in result.output


def test_a_store_that_is_no_file_is_not_upgraded(lab: Lab) -> None:
    lab.configure(tracking_uri="http://127.0.0.1:9")

    result = metrics(lab, "upgrade")

    assert result.exit_code == 1
    assert "The store is no SQLite file; save a copy, and run `mlflow db upgrade`" in result.output


# From the command line


@pytest.mark.slow
def test_from_a_folder_of_the_project_with_another_environment(
    make_project: Callable[..., Project], make_store: Callable[[str], Path]
) -> None:
    project = make_project("curves")
    project.write("conf/base/parameters.yml", "values: [0.5, 0.4]\n")
    project.write("conf/prod/mlflow.yml", f"tracking_uri: sqlite:///{make_store('prod.db')}\n")
    assert "with `kedro metrics ui --env=prod`:" in project.kedro("run", "--env=prod").stdout

    folder = project.path / "src" / project.package
    shown = project.kedro("metrics", "show", "--env=prod", "-o", "x.json", "--json", cwd=folder)

    assert "Traceback" not in shown.stderr
    assert json.loads((folder / "x.json").read_text())["run"]["status"] == "FINISHED"
    assert project.attempt(KEDRO, "metrics", "show").returncode == 2


def test_runs_are_completed_in_the_shell() -> None:
    from click.shell_completion import ShellComplete
    from lab.tracking.cli import metrics as group

    complete = ShellComplete(group, {}, "kedro", "_KEDRO_COMPLETE")
    commands = [each.value for each in complete.get_completions([], "")]
    expected = ["check", "close", "compare", "history", "open", "show", "sync", "ui", "upgrade"]
    assert commands == [*expected, "version"]
    assert [each.value for each in complete.get_completions(["show"], "l")] == ["last"]


@pytest.mark.slow
def test_a_commit_is_a_name(make_project: Callable[..., Project]) -> None:
    """`kedro metrics compare git:main git:HEAD`, for who changes code on a branch."""
    project = make_project("curves")
    project.write("conf/base/parameters.yml", "values: [0.5, 0.4]\n")
    git = ("git", "-c", "user.name=me", "-c", "user.email=me@localhost")
    project.command(*git, "init", "--quiet", "--initial-branch=main")
    project.command(*git, "add", ".")
    project.command(*git, "commit", "--quiet", "--message=one")
    project.kedro("run")
    project.command(*git, "switch", "--quiet", "--create=branch")
    project.write("conf/base/parameters.yml", "values: [0.5, 0.3]\n")
    project.kedro("run")  # of no commit
    project.command(*git, "commit", "--quiet", "--all", "--message=two")
    project.kedro("run")

    project.kedro("metrics", "compare", "git:main", "git:HEAD", "--json", "-o", "x.json")

    first, dirty, second = (run.info.run_id for run in project.runs())
    compared = json.loads((project.path / "x.json").read_text())
    assert [run["run_id"] for run in compared["runs"]] == [first, second]
    assert dirty not in (first, second)


# MLflow's page: a real one is in test_browser.py


def test_a_port_that_is_taken_is_refused(curves: Lab) -> None:
    """Another MLflow's page there would be taken for the project's."""
    train(curves, *LOSSES)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        result = metrics(curves, "ui", "--no-browser", "--port", str(port))

    assert result.exit_code == 1
    assert f"Another program has the port {port}; give another one" in result.output


def test_a_server_that_does_not_start_says_why(
    curves: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(curves, *LOSSES)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    code = "import sys; print('no such thing: http://me:hunter2@host'); sys.exit(3)"
    monkeypatch.setattr("lab.tracking.reports.page.SERVER", ("-c", code))

    result = metrics(curves, "ui", "--no-browser")

    for number, handler in before.items():
        signal.signal(number, handler)
    assert result.exit_code == 1
    assert "MLflow's server has ended. Its last lines:\nno such thing: http" in result.output
    assert "hunter2" not in result.output
