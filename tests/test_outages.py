"""A store that is away, at the start or later, costs no training run and no point."""

from __future__ import annotations

import contextlib
import gc
import json
import random
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest
from conftest import KEDRO, STARTER, Lab, Project, points_in, runs_in
from faults import FAULTS, FaultyProxy, Server, free_port
from kedro.framework.session import KedroSession
from kedro.io import DatasetError
from kedro.runner import ParallelRunner
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
    UNAUTHENTICATED,
)
from sqlalchemy.exc import OperationalError
from tracking.client import importing
from tracking.patience import is_passing, patiently

KEYS = 200  # of lab/flow.py


def flow_points(yields: int) -> dict[str, list[tuple[int, float]]]:
    """All points of the pipeline ``flow``."""
    return {
        f"flow_metrics.k{key}": [(step, key + step / 1000) for step in range(yields)]
        for key in range(KEYS)
    }


def stamps_in(store: Path, run: Run) -> dict[str, list[tuple[int, int, float]]]:
    client = MlflowClient(f"sqlite:///{store}")
    return {
        key: sorted(
            (p.timestamp, p.step, p.value) for p in client.get_metric_history(run.info.run_id, key)
        )
        for key in run.data.metrics
    }


def count(store: Path) -> int:
    """How many points a store has, read beside MLflow."""
    with closing(sqlite3.connect(store, timeout=30)) as database:
        number: int = database.execute("SELECT count(*) FROM metrics").fetchone()[0]
        return number


@pytest.fixture
def impatient(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage is one after 2 seconds instead of 20."""
    monkeypatch.setattr("lab.tracking.spool.LATER", 2.0)


@pytest.fixture
def gone(lab: Lab, tmp_path: Path) -> Iterator[Server]:
    """A server that is not started."""
    server = Server(lab.store, tmp_path)
    yield server
    server.stop()


# At the start


def test_a_server_that_is_not_there_is_told_within_10_seconds(lab: Lab) -> None:
    address = f"127.0.0.1:{free_port()}"
    lab.configure(tracking_uri=f"http://user:hunter2@{address}")
    start = time.monotonic()

    with pytest.raises(click.ClickException) as caught:
        lab.run("everything")

    assert time.monotonic() - start < 10
    message = caught.value.format_message()
    assert message.startswith(
        f"The MLflow store http://{address} can't be reached: Connection refused; "
    )
    assert "'on_outage: spool'" in message
    assert "hunter2" not in message


def test_a_server_that_never_answers_is_told_within_10_seconds(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        lab.configure(tracking_uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()

        with pytest.raises(click.ClickException, match="can't be reached"):
            lab.run("everything")

        assert time.monotonic() - start < 10


def test_a_database_server_that_is_not_there_is_told_within_10_seconds(lab: Lab) -> None:
    lab.configure(tracking_uri=f"mysql+pymysql://user:hunter2@127.0.0.1:{free_port()}/mlflow")
    start = time.monotonic()

    with pytest.raises(click.ClickException, match="can't be reached: Connection refused") as told:
        lab.run("everything")

    assert time.monotonic() - start < 10
    assert "hunter2" not in str(told.value)


def test_a_database_server_that_never_answers_is_told_within_10_seconds(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        lab.configure(tracking_uri=f"mysql+pymysql://user:hunter2@127.0.0.1:{port}/mlflow")
        start = time.monotonic()

        with pytest.raises(click.ClickException, match="can't be reached: it does not answer"):
            lab.run("everything")

        assert time.monotonic() - start < 10


def test_a_database_locked_for_longer_is_told_within_10_seconds(lab: Lab) -> None:
    with closing(sqlite3.connect(lab.store, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()

        with pytest.raises(click.ClickException, match="can't be reached: database is locked"):
            lab.run("everything")

        assert time.monotonic() - start < 11


def test_with_spool_the_run_goes_on_and_is_brought_home(
    lab: Lab, gone: Server, caplog: pytest.LogCaptureFixture
) -> None:
    lab.configure(tracking_uri=gone.url, on_outage="spool", experiment="digits")

    lab.run("own_calls", params={"unused": 1})

    told = (
        f"The MLflow store {gone.url} can't be reached (Connection refused). The run is written"
        " to mlflow-spool.db, for `kedro metrics sync`."
    )
    assert told in [record.getMessage() for record in caplog.records]
    (spooled,) = runs_in(lab.spool)
    assert spooled.info.status == "FINISHED"
    before = stamps_in(lab.spool, spooled)
    assert set(before) == {"one_metrics.score", "two_metrics.score", "own.one", "own.two"}
    gone.start()
    done, (line,) = lab.sync()
    assert done
    (run,) = lab.runs()
    (home,) = lab.runs()
    assert line == f"Brought own_calls: 4 points, to run {home.info.run_id} in {gone.url}."
    assert stamps_in(lab.store, run) == before
    for fact in ("run_name", "status", "start_time", "end_time", "user_id"):
        assert getattr(run.info, fact) == getattr(spooled.info, fact), fact
    assert run.data.params == spooled.data.params == {"own.one": "1", "own.two": "1"}
    tags = {k: v for k, v in spooled.data.tags.items() if "spool" not in k}
    assert tags.items() - run.data.tags.items() <= {
        (k, tags[k]) for k in ("kedro.machine", "kedro.process")
    }
    client = MlflowClient(gone.url)
    assert client.get_experiment(run.info.experiment_id).name == "digits"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "one.json",
        "two.json",
    }
    assert lab.sync() == (True, ["Nothing to bring home: mlflow-spool.db has no runs that wait."])
    assert len(lab.runs()) == 1


@pytest.mark.slow
def test_a_failed_run_comes_home_as_failed(lab: Lab, gone: Server) -> None:
    lab.configure(tracking_uri=gone.url, on_outage="spool")
    with pytest.raises(ValueError, match="the data is gone"):
        lab.run("ends", params={"end": "error"})
    gone.start()

    assert lab.sync()[0]

    (run,) = lab.runs()
    assert run.info.status == "FAILED"
    assert run.data.tags["kedro.error"] == "ValueError: the data is gone: https://example.com/data"


def test_a_given_run_is_brought_its_points_and_left_open(lab: Lab, server: Server) -> None:
    client = MlflowClient(server.url)
    run_id = client.create_run("0").info.run_id
    server.stop()
    lab.configure(tracking_uri=server.url, on_outage="spool")
    lab.run("everything", node_names=["a"], params={"mlflow_run_id": run_id})
    server.start()

    assert lab.sync()[0]

    (run,) = lab.runs()
    assert (run.info.run_id, run.info.status) == (run_id, "RUNNING")
    assert run.data.metrics == {"a_metrics.score": 0.5, "a_metrics.curve": 0.2}


def test_what_belongs_to_another_store_stays(lab: Lab, gone: Server) -> None:
    lab.configure(tracking_uri=gone.url, on_outage="spool")
    lab.run("everything", node_names=["a"])
    lab.configure(tracking_uri=f"sqlite:///{lab.store}")

    done, (line,) = lab.sync()

    assert not done
    assert f"it belongs to {gone.url}, not to sqlite:///{lab.store}; set" in line
    assert lab.runs() == []
    assert len(runs_in(lab.spool)) == 1


@pytest.mark.slow
def test_what_can_not_be_brought_stays_and_the_rest_is_brought(lab: Lab, server: Server) -> None:
    client = MlflowClient(server.url)
    deleted = client.create_run("0").info.run_id
    server.stop()
    lab.configure(tracking_uri=server.url, on_outage="spool")
    lab.run("everything", node_names=["a"], params={"mlflow_run_id": deleted})
    lab.run("everything", node_names=["b"])
    spool = MlflowClient(f"sqlite:///{lab.spool}")
    (experiment,) = {run.info.experiment_id for run in runs_in(lab.spool)}
    spool.create_run(experiment, tags={"kedro.spool.store": server.url})
    server.start()
    client.delete_run(deleted)

    done, told = lab.sync()

    assert not done
    starts = [line.partition(" ")[0] for line in told]
    assert starts == ["Left", "Brought", "Left"], told
    assert "deleted" in told[0] or "active" in told[0]
    assert "it is still running, or was on another machine (then: --running)" in told[2]
    assert [line.partition(" ")[0] for line in lab.sync(running=True)[1]] == ["Left", "Brought"]
    assert sorted(run.info.status for run in lab.runs()) == ["FINISHED", "KILLED"]


@pytest.mark.slow
def test_a_run_taken_for_dead_whose_end_was_in_the_spool(
    lab: Lab, server: Server, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    lab.configure(tracking_uri=server.url)
    killer = at(1000, lab.store, lambda: server.stop(signal.SIGKILL))
    lab.run("flow", params={"yields": 20, "pause": 0.1})
    killer.join()
    server.start()
    client = MlflowClient(server.url)
    (run,) = lab.runs()
    assert run.info.status == "RUNNING"
    client.set_tag(run.info.run_id, "kedro.process", "999999 1")  # the process ends
    lab.run("everything", node_names=["a"])
    assert client.get_run(run.info.run_id).info.status == "RUNNING"  # its end is known here
    assert "mlflow-spool.db has 1 run(s) that wait for `kedro metrics sync`." in caplog.text
    # A project elsewhere, without the spool, does not know it.
    client.set_tag(run.info.run_id, "kedro.error", "The process was killed.")
    client.set_terminated(run.info.run_id, "KILLED")

    assert lab.sync()[0]

    run = client.get_run(run.info.run_id)
    assert run.info.status == "FINISHED"
    assert "kedro.error" not in run.data.tags


def test_runs_that_the_catalog_names_in_an_outage(
    lab: Lab, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    client = MlflowClient(server.url)
    run_id = client.create_run("0").info.run_id
    entry = f"a_metrics: {{type: lab.tracking.MlflowMetricsDataset, run_id: {run_id}}}"
    lab.add("base/catalog.yml", entry)
    lab.configure(tracking_uri=server.url)
    server.stop()
    with pytest.raises(click.ClickException, match="can't be reached"):
        lab.run("everything", node_names=["a"])  # no run is wanted but the catalog's
    lab.configure(on_outage="spool")
    lab.run("everything", node_names=["a"])
    lab.run("everything", node_names=["a", "b"])
    assert [run.info.status for run in runs_in(lab.spool)] == ["FINISHED"] * 3
    server.start()

    assert lab.sync()[0]

    given, other = lab.runs()
    assert (given.info.run_id, given.info.status) == (run_id, "RUNNING")
    assert points_in(lab.store, given)["a_metrics.score"] == [(0, 0.5), (1, 0.5)]
    assert points_in(lab.store, other)["b_metrics.score"] == [(0, 0.5)]


def test_a_run_that_the_catalog_names_and_that_is_not_there(lab: Lab) -> None:
    lab.add("base/catalog.yml", "a_metrics: {type: lab.tracking.MlflowMetricsDataset, run_id: abc}")

    with pytest.raises(click.ClickException, match="no run 'abc', which the catalog names"):
        lab.run("everything", node_names=["a"])


def test_nested_runs_of_a_node_come_home_with_their_parent(lab: Lab, gone: Server) -> None:
    lab.configure(tracking_uri=gone.url, on_outage="spool")
    lab.run("nested")
    gone.start()

    assert lab.sync()[0]

    parent, child = sorted(lab.runs(), key=lambda run: str(run.info.run_name) == "child")
    assert child.data.metrics == {"inner": 1.0}
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert len(lab.runs()) == 2


@pytest.mark.parametrize("state", ["damaged", "older"])
def test_a_spool_that_can_not_be_read_fails_no_run_whose_store_is_there(
    lab: Lab, make_store: Callable[[str], Path], state: str
) -> None:
    if state == "damaged":
        lab.spool.write_bytes(b"no database at all" * 100)
    else:
        make_store("older.db").rename(lab.spool)
        with closing(sqlite3.connect(lab.spool)) as database, database:
            database.execute("UPDATE alembic_version SET version_num = '0584bdc529eb'")
    try:
        lab.run("everything", node_names=["a"])
    finally:
        lab.spool.unlink()

    assert [run.info.status for run in lab.runs()] == ["FINISHED"]


def test_one_sync_at_a_time(lab: Lab, gone: Server) -> None:
    from lab.tracking.sqlite import locked

    lab.configure(tracking_uri=gone.url, on_outage="spool")
    lab.run("everything", node_names=["a"])
    with (
        locked(lab.path / "mlflow-spool.db-sync"),
        pytest.raises(click.ClickException, match="Another `kedro metrics sync` is running"),
    ):
        lab.sync()
    with pytest.raises(click.ClickException, match="what waits stays in mlflow-spool"):
        lab.sync()


# Later


def test_a_store_removed_in_a_living_process(lab: Lab) -> None:
    lab.run("everything", node_names=["a"])
    lab.store.unlink()  # to start afresh

    lab.run("everything", node_names=["a"])

    assert [run.info.status for run in lab.runs()] == ["FINISHED"]


@pytest.mark.slow
def test_a_given_run_twice_with_an_outage_and_a_sync_between(
    lab: Lab, server: Server, impatient: None
) -> None:
    client = MlflowClient(server.url)
    run_id = client.create_run("0").info.run_id
    lab.configure(tracking_uri=server.url)
    params = {"yields": 20, "pause": 0.1, "mlflow_run_id": run_id}
    killer = at(1000, lab.store, lambda: server.stop(signal.SIGKILL))
    lab.run("flow", params=params)
    killer.join()
    server.start()
    assert lab.sync()[0]

    lab.run("flow", params=params)

    (run,) = lab.runs()
    assert {len(points) for points in points_in(lab.store, run).values()} == {40}
    assert [step for step, _ in points_in(lab.store, run)["flow_metrics.k0"]] == list(range(40))


def at(points: int, store: Path, what: Callable[[], Any]) -> threading.Thread:
    """Do something when the store has so many points, on a thread of its own."""

    def watch() -> None:
        while count(store) < points:
            time.sleep(0.05)
        what()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_a_server_killed_in_a_stream_and_never_again(
    lab: Lab, server: Server, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    lab.configure(tracking_uri=server.url)
    killer = at(2000, lab.store, lambda: server.stop(signal.SIGKILL))

    lab.run("flow", params={"yields": 100, "pause": 0.02})

    killer.join()
    assert [r for r in caplog.records if "The run goes on" in r.getMessage()]
    (run,) = lab.runs()
    assert run.info.status == "RUNNING"  # for all that the server knows
    assert 2000 <= count(lab.store) < 20_000
    server.start()
    assert lab.sync()[0]
    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    assert count(lab.store) == 20_000
    assert points_in(lab.store, run) == flow_points(100)
    assert lab.sync()[1] == ["Nothing to bring home: mlflow-spool.db has no runs that wait."]


@pytest.mark.slow
def test_a_server_killed_in_a_stream_and_started_again(
    lab: Lab, server: Server, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    def restart() -> None:
        server.stop(signal.SIGKILL)
        time.sleep(5)
        server.start()

    lab.configure(tracking_uri=server.url)
    killer = at(2000, lab.store, restart)

    lab.run("flow", params={"yields": 100, "pause": 0.25})

    killer.join()
    assert [r for r in caplog.records if "is back" in r.getMessage()]
    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    assert lab.spool.exists()
    assert lab.sync()[0]
    (run,) = lab.runs()
    assert count(lab.store) == 20_000
    assert points_in(lab.store, run) == flow_points(100)


def test_workers_share_one_spooled_run(
    lab: Lab, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEDRO_MP_CONTEXT", "fork")
    monkeypatch.setattr("lab.tracking.spool.LATER", 0.5)
    from lab.tracking.run import TrackedRun

    log_params = TrackedRun.log_params

    def then_kill(self: Any, parameters: Any) -> None:  # when the run is there, before any node
        log_params(self, parameters)
        server.stop(signal.SIGKILL)

    monkeypatch.setattr(TrackedRun, "log_params", then_kill)
    lab.configure(tracking_uri=server.url)

    lab.run("everything", runner=ParallelRunner())

    (spooled,) = runs_in(lab.spool)
    assert spooled.info.status == "FINISHED"
    server.start()
    assert lab.sync()[0]
    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    assert points_in(lab.store, run)["stream_metrics.loss"] == [
        (step, 1 / (1 + step)) for step in range(20)
    ]
    assert len(run.data.metrics) == 13


@pytest.mark.slow
def test_a_proxy_that_fails_three_of_ten(
    lab: Lab, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    proxy = FaultyProxy(server.url, share=0.3, patience=1)
    lab.configure(tracking_uri=proxy.url, on_outage="spool")
    try:
        for _ in range(3):
            lab.run("flow", params={"yields": 100, "pause": 0})
        assert sum(proxy.seen.values()) >= len(FAULTS), proxy.seen
        for _ in range(20):
            if lab.sync()[0]:
                break
    finally:
        proxy.shutdown()
    runs = lab.runs()
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert [points_in(lab.store, run) for run in runs] == [flow_points(100)] * 3
    assert count(lab.store) == 60_000


@pytest.mark.slow
def test_a_locked_database(lab: Lab) -> None:
    def lock() -> None:
        with closing(sqlite3.connect(lab.store, timeout=30, isolation_level=None)) as database:
            database.execute("BEGIN EXCLUSIVE")
            time.sleep(10)
            database.execute("ROLLBACK")

    locker = at(2000, lab.store, lock)

    lab.run("flow", params={"yields": 100, "pause": 0.03})

    locker.join()
    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    if lab.spool.exists():
        assert lab.sync()[0]
    assert points_in(lab.store, run) == flow_points(100)


@pytest.mark.slow
def test_a_password_that_is_refused_later(
    lab: Lab, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """It may have been changed; the training is not to blame. Trying again would be useless."""
    proxy = FaultyProxy(server.url, share=0, patience=1)
    lab.configure(tracking_uri=proxy.url)

    def refuse() -> None:
        proxy.always = 401

    refuser = at(1000, lab.store, refuse)
    lab.run("flow", params={"yields": 20, "pause": 0.1})
    refuser.join()
    proxy.always = None

    assert [r for r in caplog.records if "error code 401" in r.getMessage()]
    assert lab.sync()[0]
    proxy.shutdown()
    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    assert points_in(lab.store, run) == flow_points(20)


def test_what_is_refused_at_the_start_is_told_at_once(lab: Lab) -> None:
    proxy = FaultyProxy("nowhere", share=0, patience=1)
    lab.configure(tracking_uri=proxy.url, on_outage="spool")
    for status in (401, 403, 404):
        proxy.always = status
        start = time.monotonic()

        with pytest.raises(click.ClickException, match=f"can't be used: .* {status} "):
            lab.run("everything")

        assert time.monotonic() - start < 5
    assert not lab.spool.exists()
    proxy.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sync_killed_at_any_point(bake: Callable[..., Path], store: Path, tmp_path: Path) -> None:
    project = Project(bake(include_example="no"))
    flow = (STARTER / "tests/lab/flow.py").read_text()
    project.write("src/PACKAGE/pipelines/flow/__init__.py", flow)
    project.write("conf/base/parameters.yml", "yields: 100\npause: 0\n")
    server = Server(store, tmp_path)
    project.write("conf/local/mlflow.yml", f"tracking_uri: {server.url}\non_outage: spool\n")
    project.kedro("run")
    project.kedro("run")
    first, second = runs_in(project.path / "mlflow-spool.db")
    dice = random.Random(0)
    server.start()
    try:
        killed = 0
        for _ in range(20):
            process = subprocess.Popen(
                [KEDRO, "metrics", "sync"],
                cwd=project.path,
                env=project.environment(),
                stdout=subprocess.DEVNULL,
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(dice.uniform(1, 4))
            killed += process.poll() is None
            process.kill()
            process.wait()
        told = project.kedro("metrics", "sync").stdout
        again = project.kedro("metrics", "sync").stdout
    finally:
        server.stop()

    assert killed >= 5, told
    assert "has no runs that wait" in " ".join(again.split())
    runs = runs_in(store)
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert [points_in(store, run) for run in runs] == [flow_points(100)] * 2
    assert [run.info.end_time for run in runs] == [first.info.end_time, second.info.end_time]
    assert count(store) == 40_000


def test_a_load_in_an_outage_is_one_sentence_without_a_password(
    lab: Lab, gone: Server, impatient: None
) -> None:
    from lab.tracking import MlflowMetricsDataset

    lab.configure(tracking_uri=gone.url.replace("http://", "http://me:hunter2@"))
    with lab.session() as session:
        assert isinstance(session, KedroSession)
        session.load_context()
    dataset = MlflowMetricsDataset(run_id="0" * 32)

    with pytest.raises(DatasetError) as caught:
        dataset.load()

    assert "can't be reached: Connection refused" in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_load_of_a_run_that_is_not_there(lab: Lab) -> None:
    from lab.tracking import MlflowMetricsDataset

    with lab.session() as session:
        assert isinstance(session, KedroSession)
        session.load_context()

    with pytest.raises(DatasetError, match="0 not found"):
        MlflowMetricsDataset(run_id="0" * 32).load()


# What passes and what does not


def sql_error(text: str, driver: type[Exception]) -> Exception:
    """What MLflow's SQL stores raise for an error of the database's driver."""
    error = MlflowException(text, error_code=TEMPORARILY_UNAVAILABLE)
    error.__cause__ = OperationalError("INSERT", {}, driver(text))
    return error


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (ConnectionRefusedError("refused"), True),
        (TimeoutError("timed out"), True),
        (json.JSONDecodeError("cut", "{", 1), True),
        (MlflowException("API request failed with exception"), True),
        (MlflowException("busy", error_code=REQUEST_LIMIT_EXCEEDED), True),
        (sql_error("database is locked", sqlite3.OperationalError), True),
        (sql_error("deadlock detected", RuntimeError), True),
        (sql_error("database or disk is full", sqlite3.OperationalError), False),
        (sql_error("attempt to write a readonly database", sqlite3.OperationalError), False),
        (MlflowException("no", error_code=INVALID_PARAMETER_VALUE), False),
        (MlflowException("no", error_code=RESOURCE_DOES_NOT_EXIST), False),
        (MlflowException("no", error_code=UNAUTHENTICATED), False),
        (MlflowException("no", error_code=PERMISSION_DENIED), False),
        (ValueError("a bug"), False),
    ],
)
def test_what_is_tried_again(error: Exception, passing: bool) -> None:
    calls = 0

    def request() -> None:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(type(error)):
        patiently(request, 0.5)

    assert (calls > 1) == is_passing(error) == passing


def test_the_collector_waits_for_an_import_and_comes_back() -> None:
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
