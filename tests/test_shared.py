"""`kedro metrics open` and `close`: one MLflow run for Kedro runs in several processes."""

from __future__ import annotations

import math
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from faults import Server
from helpers import KEDRO, Lab, Project, data, flat, metrics, points_in, wait_until
from kedro.runner import ParallelRunner, SequentialRunner, ThreadRunner
from lab.tracking.dataset import MlflowMetricsDataset
from lab.tracking.delivery import opening, shared
from lab.tracking.delivery.binding import Binding
from lab.tracking.delivery.outbox import Outbox, Request, RunEnd
from lab.tracking.delivery.resolved import Resolved, resolve
from lab.tracking.delivery.route import Destination
from lab.tracking.names import Tag
from lab.tracking.points import Point
from lab.tracking.store.errors import TrackingError
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import OmegaConf

ENTRY = """
curves_metrics:
  type: lab.tracking.MlflowMetricsDataset
  metrics:
    loss: {greater_is_better: false}
"""
# What YAML takes them for is above each.
NUMBERS = [
    # an int
    "12345678901234567890123456789012",
    # an int, for it is octal
    "01234567012345670123456701234567",
    "00000000000000000000000000000012",
    # a float of 17 digits, 0 and infinity
    "1234567890123456789012345e123456",
    "12345678901234567890e12345678901",
    "000000000000000000000000000000e1",
    "0e123456789012345678901234567890",
    # a text, for it is no octal number
    "01234567890123456789012345678901",
]


def opened(lab: Lab, *arguments: str) -> str:
    """The id that `kedro metrics open` prints."""
    result = metrics(lab, "open", *arguments)
    assert result.exit_code == 0, result.output
    return result.output.splitlines()[-1]


def closed(lab: Lab, run_id: str, status: str) -> Run:
    """The run, after `kedro metrics close`."""
    result = metrics(lab, "close", run_id, f"--status={status}")
    assert result.exit_code == 0, result.output
    return MlflowClient(f"sqlite:///{lab.store}").get_run(run_id)


def all_points(store: Path, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """All points of a run, as often as they are there: (step, value), by key."""
    found: dict[str, list[tuple[int, float]]] = {}
    with sqlite3.connect(store) as database:
        for key, step, value in database.execute(
            "SELECT key, step, CASE WHEN is_nan THEN 'nan' ELSE value END FROM metrics"
            " WHERE run_uuid = ? ORDER BY key, step, timestamp",
            (run_id,),
        ):
            found.setdefault(key, []).append((step, value))
    return found


# Open, close


@pytest.mark.slow
def test_the_id_is_the_last_line_and_no_process_is_said_to_be_behind_it(
    make_project: Callable[..., Project],
) -> None:
    """The process that has opened it is gone: that is no sign that the run is dead."""
    project = make_project("chain")

    printed = project.kedro("metrics", "open", "--pipeline=chain", "--name=whole").stdout
    run_id = printed.splitlines()[-1]
    project.kedro("run", "--params=judge=ok")  # closes dead runs, if it finds any

    shared, own = project.runs()
    assert shared.info.run_id == run_id
    assert (shared.info.status, own.info.status) == ("RUNNING", "FINISHED")
    assert shared.info.run_name == "whole"
    assert shared.data.tags[Tag.PIPELINE] == "chain"
    assert "metrics open" in shared.data.tags[Tag.COMMAND]
    assert {Tag.USER, Tag.SOURCE_NAME, Tag.ENV} <= shared.data.tags.keys()
    assert not {Tag.PROCESS, Tag.MACHINE, Tag.RUNNER, Tag.KEDRO_RUN_ID} & shared.data.tags.keys()


@pytest.mark.slow
def test_four_processes_at_once_with_one_id(make_project: Callable[..., Project]) -> None:
    project = make_project("everything")
    run_id = project.kedro("metrics", "open").stdout.splitlines()[-1]
    given = f"--params=mlflow_run_id={run_id}"

    with ExitStack() as stack:
        processes = [
            stack.enter_context(project.started(KEDRO, "run", f"--nodes={nodes}", *more, **env))
            for nodes, more, env in (
                ("explicit,prefixed", [], {"MLFLOW_RUN_ID": run_id}),
                ("stream", [given], {}),
                ("a,b", [given], {}),
                ("one.part,two.part", [], {"MLFLOW_RUN_ID": run_id}),
            )
        ]
        assert [process.wait() for process in processes] == [0] * 4, [p.output for p in processes]

    (run,) = project.runs()
    assert (run.info.run_id, run.info.status) == (run_id, "RUNNING")
    constant = [(0, 0.5)], [(0, 0.1), (1, 0.2)]
    names = ["my_model_metrics", "baseline", "a_metrics", "b_metrics"]
    names += ["one.part_metrics", "two.part_metrics"]
    expected: dict[str, list[tuple[int, float]]] = {}
    for name in names:
        expected[f"{name}.score"], expected[f"{name}.curve"] = constant
    expected["stream_metrics.loss"] = [(epoch, 1 / (1 + epoch)) for epoch in range(20)]
    assert all_points(project.store, run_id) == expected

    said = project.kedro("metrics", "close", run_id, "--status=FINISHED").stdout
    assert flat(said).endswith(f"({run_id[:8]}): FINISHED")
    (run,) = project.runs()
    assert run.info.status == "FINISHED"
    assert run.info.end_time >= run.info.start_time


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_it_is_closed_as_told(lab: Lab, status: str) -> None:
    run_id = opened(lab)

    closed(lab, run_id, status)

    (run,) = lab.runs()
    assert run.info.status == status


def test_a_run_is_closed_by_the_beginning_of_its_id_and_by_its_name(lab: Lab) -> None:
    first, second = opened(lab), opened(lab, "--name=second")

    for name in (first[:12], "second"):
        assert metrics(lab, "close", name).exit_code == 0

    assert {run.info.status for run in lab.runs()} == {"FINISHED"}
    assert {run.info.run_id for run in lab.runs()} == {first, second}


def test_what_can_not_be_closed_is_one_sentence(lab: Lab) -> None:
    opened(lab)

    missing = metrics(lab, "close", "f" * 32)
    wrong = metrics(lab, "close", "last", "--status=DONE")

    assert (missing.exit_code, wrong.exit_code) == (2, 2)
    assert f"has no run '{'f' * 32}'" in flat(missing.output)
    assert "'DONE' is not one of 'FINISHED', 'FAILED', 'KILLED'" in flat(wrong.output)
    assert lab.runs()[0].info.status == "RUNNING"


@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
def test_a_run_that_was_not_opened_is_not_closed(lab: Lab, status: str) -> None:
    lab.run("everything", node_names=["a"])
    before = lab.runs()[0].info

    result = metrics(lab, "close", "last", f"--status={status}")

    assert result.exit_code == 1
    said = f"The MLflow run '{before.run_id}' was not opened by `kedro metrics open`, and ends"
    assert said in flat(result.output)
    (run,) = lab.runs()
    assert (run.info.status, run.info.end_time) == (before.status, before.end_time)


def test_closing_may_be_repeated(lab: Lab) -> None:
    run_id = opened(lab)

    for status in ("FAILED", "FAILED", "FINISHED"):
        assert closed(lab, run_id, status).info.status == status


@pytest.mark.slow
def test_a_store_that_does_not_answer_opens_nothing(lab: Lab) -> None:
    """In the outbox, on this machine, it would be of no use to others."""
    lab.configure(tracking_uri="http://127.0.0.1:9", on_outage="spool")

    result = metrics(lab, "open")

    assert result.exit_code == 1
    assert "The MLflow store http://127.0.0.1:9 can't be reached" in flat(result.output)
    assert "start it, or set another 'tracking_uri' in mlflow.yml." in flat(result.output)
    assert not lab.outbox.exists()


def test_the_same_key_is_the_same_run_while_it_is_running(lab: Lab) -> None:
    """The first step of an orchestrator may be repeated as well."""
    first = opened(lab, "--key=nightly 'x' 2026")

    assert opened(lab, "--key=nightly 'x' 2026") == first
    assert opened(lab, "--key=another") != first
    closed(lab, first, "FAILED")
    assert opened(lab, "--key=nightly 'x' 2026") != first


def test_two_that_open_with_one_key_at_once_get_one_run(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second opens its run when the first has looked for one, and has not made its own."""
    create, others = opening.create, list[str]()

    def create_later(*arguments: Any) -> Run:
        monkeypatch.setattr(shared, "create", create)
        others.append(opened(lab, "--key=nightly"))
        began = lab.runs()[0].info.start_time
        wait_until(lambda: time.time_ns() // 1_000_000 > began)  # MLflow's times are milliseconds
        return create(*arguments)

    monkeypatch.setattr(shared, "create", create_later)
    first = opened(lab, "--key=nightly")

    assert [first] == others == [run.info.run_id for run in lab.runs()]


def test_an_error_is_the_runs_until_it_is_closed_as_finished(lab: Lab) -> None:
    """A step that ends well does not know whether the one that failed has been repeated."""
    run_id = opened(lab)
    with pytest.raises(ValueError, match="no verdict"):
        lab.run("chain", params={"mlflow_run_id": run_id, "judge": "error"})

    lab.run("everything", params={"mlflow_run_id": run_id}, node_names=["a"])

    (run,) = lab.runs()
    assert (run.info.status, run.data.tags[Tag.ERROR]) == ("RUNNING", "ValueError: no verdict")
    assert closed(lab, run_id, "FAILED").data.tags[Tag.ERROR] == "ValueError: no verdict"
    assert Tag.ERROR not in closed(lab, run_id, "FINISHED").data.tags


def test_an_error_that_waits_in_the_outbox_is_mended_too(lab: Lab) -> None:
    run_id = opened(lab)
    failed = Request(end=RunEnd("", 1, "ValueError: no verdict"))
    Outbox(lab.outbox, f"sqlite:///{lab.store}").add(run_id, failed)

    run = closed(lab, run_id, "FINISHED")

    assert run.info.status == "FINISHED"
    assert Tag.ERROR not in run.data.tags


# Ids


@pytest.mark.parametrize("run_id", NUMBERS)
@pytest.mark.parametrize("name", ["mlflow_run_id", "mlflow_parent_run_id"])
def test_an_id_that_yaml_takes_for_a_number(
    run_id: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    option = f"a=1,{name}={run_id},b=2"
    monkeypatch.setattr(sys, "argv", ["kedro", "run", "--params", option])
    given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(option.split(",")))

    resolved = resolve("sqlite:///x", {"runtime_params": given}, {}, None)

    assert (resolved.run_id or resolved.parent_id) == run_id


@pytest.mark.slow
def test_an_id_of_digits_by_the_command_line(make_project: Callable[..., Project]) -> None:
    project = make_project("everything")
    run_id = project.kedro("metrics", "open").stdout.splitlines()[-1]
    number = "12345678901234567890e12345678901"
    with sqlite3.connect(project.store) as database:
        for table in ("runs", "tags"):
            database.execute(f"UPDATE {table} SET run_uuid = ?", (number,))

    project.kedro("run", "--nodes=a", f"--params=mlflow_run_id={number}")

    (run,) = project.runs()
    assert run.info.run_id == number != run_id
    assert points_in(project.store, run)["a_metrics.score"] == [(0, 0.5)]


@pytest.mark.parametrize("given", [1e30, math.inf, 123, True, ["a"]])
def test_what_is_no_id_is_one_sentence(lab: Lab, given: Any) -> None:
    with pytest.raises(TrackingError, match=r"mlflow_run_id is .*, and no id of an MLflow run; wr"):
        lab.run("everything", params={"mlflow_run_id": given})

    assert lab.runs() == []


RUN, PARENT, OTHER = "1" * 32, "2" * 32, "3" * 32


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        ({}, {}, ("active", None)),
        ({"mlflow_run_id": RUN, "mlflow_parent_run_id": PARENT}, {}, (RUN, None)),
        ({"mlflow_parent_run_id": PARENT}, {"MLFLOW_RUN_ID": RUN}, (None, PARENT)),
        ({"mlflow_run_id": RUN}, {"MLFLOW_PARENT_RUN_ID": PARENT}, (RUN, None)),
        ({}, {"MLFLOW_RUN_ID": RUN, "MLFLOW_PARENT_RUN_ID": PARENT}, (RUN, None)),
        ({"mlflow_parent_run_id": PARENT}, {"MLFLOW_PARENT_RUN_ID": OTHER}, (None, PARENT)),
        ({}, {"MLFLOW_PARENT_RUN_ID": PARENT}, (None, PARENT)),
    ],
)
def test_what_is_given_nearest_decides(
    given: dict[str, str], environment: dict[str, str], expected: tuple[str | None, str | None]
) -> None:
    active = ("sqlite:///active", "active")

    resolved: Resolved = resolve("sqlite:///x", {"runtime_params": given}, environment, active)

    assert (resolved.run_id, resolved.parent_id) == expected


# Repeated steps


@pytest.fixture(params=[SequentialRunner, ThreadRunner, ParallelRunner])
def runner(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_a_repeated_step_writes_no_point_twice(lab: Lab, runner: Any) -> None:
    """Its points have no steps: they are counted from 0 again, and a yield more is one point."""
    lab.add("base/catalog.yml", ENTRY)
    run_id = opened(lab)

    for values in ([0.5, 0.25], [0.5, 0.25], [0.5, 0.25, 0.125]):
        lab.run("curves", params={"mlflow_run_id": run_id, "values": values}, runner=runner())

    losses = [(0, 0.5), (1, 0.25), (2, 0.125)]
    assert all_points(lab.store, run_id) == {
        "curves_metrics.loss": losses,
        "curves_metrics.accuracy": [(step, 1 - value) for step, value in losses],
        "best.curves_metrics.loss": losses[1:],
        "final_metrics.recall_a": [(0, 0.75), (0, 0.875)],
        "final_metrics.size": [(0, 7.0)],
    }
    (run,) = lab.runs()
    assert run.data.metrics["final_metrics.recall_a"] == 0.875, "the later try's"
    assert run.data.metrics["best.curves_metrics.loss"] == 0.125


def test_a_later_try_is_the_latest_also_where_it_returns_to_an_earlier_value(lab: Lab) -> None:
    run_id = opened(lab)

    for loss in (0.25, 0.125, 0.25, 0.25):
        lab.run("curves", params={"mlflow_run_id": run_id, "values": [loss]})

    found = all_points(lab.store, run_id)
    assert found["final_metrics.recall_a"] == [(0, 0.75), (0, 0.875), (0, 0.75)]
    assert found["curves_metrics.loss"] == [(0, 0.25), (0, 0.125), (0, 0.25)]
    (run,) = lab.runs()
    assert run.data.metrics["final_metrics.recall_a"] == 0.75


def test_the_last_of_several_values_of_one_step_stays_the_latest(lab: Lab) -> None:
    uri = f"sqlite:///{lab.store}"
    run_id = MlflowClient(uri).create_run("0").info.run_id

    for number in range(2):
        destination = Destination(
            uri, run_id, is_external=True, may_repeat=True, attempt_id=str(number)
        )
        dataset = MlflowMetricsDataset()
        dataset.bind(Binding("m", "m", ".", destination))
        for stamp, value in enumerate((0.5, 0.5, 0.25), number * 3):
            dataset.save({"a": {"value": value, "step": 0, "timestamp": stamp}})

    found = [value for _, value in all_points(lab.store, run_id)["m.a"]]
    assert found == [0.5, 0.5, 0.25] * 2, "each is new where what was there is not the newest"


def test_a_step_reads_what_the_latest_try_of_another_has_written(lab: Lab) -> None:
    run_id = opened(lab)
    for score in (0.75, 0.5):
        params = {"mlflow_run_id": run_id, "number": score}
        lab.run("acts", params=params, node_names=["first_act"])
    assert len(all_points(lab.store, run_id)["act_one_metrics.score"]) == 2
    uri = f"sqlite:///{lab.store}"
    dataset = MlflowMetricsDataset()
    destination = Destination(uri, run_id, is_external=True, may_repeat=True)
    dataset.bind(Binding("act_one_metrics", "act_one_metrics", ".", destination))
    assert dataset.load() == {"score": {"value": 0.5, "step": 0}}


@pytest.mark.slow
def test_a_repeated_step_on_a_server(lab: Lab, server: Server) -> None:
    lab.configure(tracking_uri=server.url)
    run_id = opened(lab)

    for _ in range(2):
        lab.run("everything", params={"mlflow_run_id": run_id}, node_names=["a", "stream"])

    assert closed(lab, run_id, "FINISHED").info.status == "FINISHED"
    assert all_points(lab.store, run_id) == {
        "a_metrics.curve": [(0, 0.1), (1, 0.2)],
        "a_metrics.score": [(0, 0.5)],
        "stream_metrics.loss": [(epoch, 1 / (1 + epoch)) for epoch in range(20)],
    }


@pytest.mark.slow
def test_a_repeated_step_in_an_outage(lab: Lab, server: Server) -> None:
    """It is written to the outbox, and what is there already does not come from there again."""
    lab.configure(tracking_uri=server.url, on_outage="spool")
    run_id = opened(lab)
    given = {"mlflow_run_id": run_id}
    lab.run("curves", params={**given, "values": [0.5, 0.25]})
    server.stop()
    lab.run("curves", params={**given, "values": [0.5, 0.25, 0.125]})
    server.start()

    assert lab.sync()[0]

    found = all_points(lab.store, run_id)
    assert found["curves_metrics.loss"] == [(0, 0.5), (1, 0.25), (2, 0.125)]
    assert lab.runs()[0].info.status == "RUNNING"


def test_nan_and_infinity_are_not_written_twice_either(lab: Lab) -> None:
    run_id, values = opened(lab), [math.nan, math.inf, -math.inf, 0.1 + 0.2]

    for _ in range(2):
        lab.run("curves", params={"mlflow_run_id": run_id, "values": values})

    found = all_points(lab.store, run_id)
    assert [len(found[f"curves_metrics.{key}"]) for key in ("loss", "accuracy")] == [4, 4]


def test_what_waits_in_the_outbox_is_not_written_twice(lab: Lab) -> None:
    run_id = opened(lab)
    waiting = [Point("a_metrics.score", 0.5, 0, 1), Point("a_metrics.curve", 0.1, 0, 1)]
    Outbox(lab.outbox, f"sqlite:///{lab.store}").add(run_id, Request(waiting))

    lab.run("everything", params={"mlflow_run_id": run_id}, node_names=["a"])

    assert all_points(lab.store, run_id) == {
        "a_metrics.curve": [(0, 0.1), (1, 0.2)],
        "a_metrics.score": [(0, 0.5)],
    }


def test_another_given_run_counts_on_as_before(lab: Lab) -> None:
    client = MlflowClient(f"sqlite:///{lab.store}")
    run_id = client.create_run(client.create_experiment("lab")).info.run_id

    for _ in range(2):
        lab.run("everything", params={"mlflow_run_id": run_id}, node_names=["a"])

    assert all_points(lab.store, run_id)["a_metrics.score"] == [(0, 0.5), (1, 0.5)]


# Runs within a run


def test_a_run_within_another(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = opened(lab)

    lab.run("everything", params={"mlflow_parent_run_id": parent}, node_names=["a"])
    monkeypatch.setenv("MLFLOW_PARENT_RUN_ID", parent)
    lab.run("everything", node_names=["a"])
    shared = opened(lab)

    runs = {run.info.run_id: run for run in lab.runs()}
    around = runs.pop(parent)
    assert (around.info.status, around.data.metrics) == ("RUNNING", {})
    assert {run.data.tags[Tag.PARENT_RUN] for run in runs.values()} == {parent}
    assert {run.info.experiment_id for run in runs.values()} == {around.info.experiment_id}
    assert runs.pop(shared).info.status == "RUNNING"
    assert [run.info.status for run in runs.values()] == ["FINISHED", "FINISHED"]
    assert data(lab, "show")["run"]["run_id"] == parent, "`last` is no run within another"


@pytest.mark.parametrize(
    ("ill", "part"),
    [
        ("missing", "has no run"),
        ("deleted", "is deleted; restore it with `mlflow runs restore"),
        ("elsewhere", "is not in the experiment 'lab'; give the id of a run in it"),
    ],
)
def test_a_parent_that_can_not_be_one_is_one_sentence(lab: Lab, ill: str, part: str) -> None:
    client = MlflowClient(f"sqlite:///{lab.store}")
    parent = "f" * 32
    if ill != "missing":
        experiment = client.create_experiment("lab" if ill == "deleted" else "another")
        parent = client.create_run(experiment).info.run_id
    if ill == "deleted":
        client.delete_run(parent)
    before = lab.runs()

    with pytest.raises(TrackingError, match=part) as error:
        lab.run("everything", params={"mlflow_parent_run_id": parent})

    assert "which the runtime parameter mlflow_parent_run_id names" in str(error.value)
    assert len(lab.runs()) == len(before)


@pytest.mark.slow
def test_a_run_within_another_that_began_in_the_outbox(lab: Lab) -> None:
    parent = opened(lab)
    uri = f"sqlite:///{lab.store}"
    lab.configure(tracking_uri="http://127.0.0.1:9", on_outage="spool")
    lab.run("everything", params={"mlflow_parent_run_id": parent}, node_names=["a"])
    with sqlite3.connect(lab.outbox) as database:  # as if the server were there again
        database.execute("UPDATE tags SET value = ? WHERE key = ?", (uri, Tag.TARGET_STORE))
    lab.configure(tracking_uri=uri)

    assert lab.sync()[0]

    child = next(run for run in lab.runs() if run.info.run_id != parent)
    assert (child.data.tags[Tag.PARENT_RUN], child.info.status) == (parent, "FINISHED")


def test_a_run_within_another_is_named_by_its_name(lab: Lab) -> None:
    parent = opened(lab, "--name=outer")
    inner = opened(lab, "--name=inner", f"--params=mlflow_parent_run_id={parent}")

    assert data(lab, "show", "inner")["run"]["run_id"] == inner
    assert metrics(lab, "close", "inner").exit_code == 0

    assert {run.info.run_name: run.info.status for run in lab.runs()} == {
        "inner": "FINISHED",
        "outer": "RUNNING",
    }


def test_after_a_sweep_a_run_is_compared_with_the_one_before_it(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.run("curves", params={"values": [0.5]})
    (before,) = lab.runs()
    parent = opened(lab, "--pipeline=curves")
    client = MlflowClient(f"sqlite:///{lab.store}")
    tags = {Tag.PARENT_RUN: parent, Tag.PIPELINE: "curves"}
    for _ in range(6):
        run_id = client.create_run(before.info.experiment_id, tags=tags).info.run_id
        client.log_metric(run_id, "final_metrics.size", 7)
        client.set_terminated(run_id)
    closed(lab, parent, "FINISHED")
    capsys.readouterr()

    lab.run("curves", params={"values": [0.25]})

    assert f"since {before.info.run_id[:8]}" in capsys.readouterr().out


def test_a_run_around_others_is_no_run_to_compare_with(lab: Lab) -> None:
    lab.run("curves", params={"values": [0.5]})
    (before,) = lab.runs()
    for _ in range(6):
        parent = opened(lab, "--pipeline=curves")
        closed(lab, parent, "FINISHED")
    parent = opened(lab, "--pipeline=curves")
    lab.run("curves", params={"values": [0.4], "mlflow_parent_run_id": parent})
    closed(lab, parent, "FINISHED")
    lab.run("curves", params={"values": [0.3]})

    assert data(lab, "show")["since"]["run_id"] == before.info.run_id
    assert data(lab, "show", "previous")["run"]["run_id"] == before.info.run_id


@pytest.mark.parametrize("tag", [Tag.PROCESS, Tag.SHARED, None])
def test_a_step_with_workers_ends_what_its_nodes_have_begun_within_its_run_alone(
    lab: Lab, tag: str | None
) -> None:
    parent = opened(lab)
    tags = {Tag.PARENT_RUN: parent} | ({tag: "1"} if tag else {})
    experiment = lab.runs()[0].info.experiment_id
    client = MlflowClient(f"sqlite:///{lab.store}")
    within = client.create_run(experiment, tags=tags).info.run_id

    runner = ParallelRunner(max_workers=2)
    lab.run("everything", params={"mlflow_run_id": parent}, node_names=["a"], runner=runner)

    assert client.get_run(within).info.status == ("RUNNING" if tag else "FINISHED")
    assert client.get_run(parent).info.status == "RUNNING"


# The best of them


def test_what_a_child_does_not_have_is_no_nan(lab: Lab) -> None:
    lab.add("base/catalog.yml", ENTRY)
    parent = opened(lab)
    given = {"mlflow_parent_run_id": parent}
    for values in ([0.5], [math.nan]):
        lab.run("curves", params={**given, "values": values})
    lab.run("everything", params=given, node_names=["a"])

    table = metrics(lab, "compare", "--parent=last", "--csv").output.splitlines()[-3:]

    assert [line.split(",")[2] for line in table] == ["0.5", "nan", ""]


@pytest.mark.parametrize("names", [["loss", "accuracy"], ["accuracy", "loss"]])
def test_without_a_key_the_first_of_the_catalog_says_what_is_best(
    lab: Lab, names: list[str]
) -> None:
    entry = "curves_metrics:\n  type: lab.tracking.MlflowMetricsDataset\n  metrics:\n"
    rules = {"loss": "{greater_is_better: false}", "accuracy": "{greater_is_better: true}"}
    entry += "".join(f"    {name}: {rules[name]}\n" for name in names)
    longer = "longer_name_metrics: {type: lab.tracking.MlflowMetricsDataset, prefix: final_metrics,"
    longer += " metrics: {size: {greater_is_better: true}}}\n"
    lab.add("base/catalog.yml", entry + longer)
    parent = opened(lab)
    lab.run("curves", params={"mlflow_parent_run_id": parent, "values": [0.5]})

    table = metrics(lab, "compare", "--parent=last").output.splitlines()[-2]

    assert table.split()[2] == f"curves_metrics.{names[0]}"


def test_compare_lists_the_runs_within_one_the_best_first(lab: Lab) -> None:
    lab.add("base/catalog.yml", ENTRY)
    parent = opened(lab)
    given = {"mlflow_parent_run_id": parent}
    ids: list[str] = []
    for number, values in enumerate(([0.3], [0.2, 0.4], [math.nan], [0.25])):
        lab.run("curves", params={**given, "values": values})
        children = [run for run in lab.runs() if run.info.run_id not in {parent, *ids}]
        ids.append(children[0].info.run_id)
        assert len(children) == 1, number
    best_first = [ids[1], ids[3], ids[0], ids[2]]

    compared = data(lab, "compare", "--parent=last")

    assert [run["run_id"] for run in compared["runs"]] == best_first
    assert compared["params"]["values"] == ["[0.2, 0.4]", "[0.25]", "[0.3]", "[nan]"]
    (losses,) = (each for each in compared["metrics"] if each["key"] == "curves_metrics.loss")
    assert (losses["values"][0], losses["bests"]) == (0.4, [0.2, 0.25, 0.3, None])
    lines = metrics(lab, "compare", f"--parent={parent}").output.splitlines()[-5:]
    assert lines[0].split() == ["run", "status", "curves_metrics.loss", "params:values"]
    assert [line.split()[0] for line in lines[1:]] == [run_id[:8] for run_id in best_first]
    assert [line.split()[2] for line in lines[1:4]] == ["0.2", "0.25", "0.3"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--parent=last"], "has no runs within"),
        (["--parent=nope"], "has no run 'nope'"),
        (["--parent=last", "last"], "Name runs, or give --last and --pipeline, or --parent"),
        (["--parent=last", "--last=3"], "Name runs, or give --last and --pipeline, or --parent"),
        (["--by=a"], "Name runs, or give --last and --pipeline, or --parent and --by."),
    ],
)
def test_what_can_not_be_compared_is_one_sentence(
    lab: Lab, arguments: list[str], part: str
) -> None:
    opened(lab)

    result = metrics(lab, "compare", *arguments)

    assert result.exit_code == 2
    assert part in flat(result.output)


def test_what_is_best_has_to_be_known(lab: Lab) -> None:
    parent = opened(lab)
    lab.run("curves", params={"mlflow_parent_run_id": parent, "values": [0.5]})

    unknown = metrics(lab, "compare", "--parent=last")
    without_rule = metrics(lab, "compare", "--parent=last", "--by=final_metrics.size")
    lab.add("base/catalog.yml", ENTRY)
    lab.add("base/catalog.yml", "    nope: {greater_is_better: true}\n")
    missing = metrics(lab, "compare", "--parent=last", "--by=curves_metrics.nope")

    assert {each.exit_code for each in (unknown, without_rule, missing)} == {2}
    assert "Which value of any metric is the best, nothing says" in flat(unknown.output)
    assert "Which value of 'final_metrics.size' is the best" in flat(without_rule.output)
    assert "has a metric 'curves_metrics.nope'." in flat(missing.output)
