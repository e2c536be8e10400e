"""An outage of the store, at the start or later, costs no training run and no point."""

from __future__ import annotations

import gc
import json
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

import click
import mlflow
import pytest
import sqlalchemy
from faults import FAULTS, SOON, FaultyProxy, Server, outage_after
from helpers import (
    FLOW_KEYS,
    KEDRO,
    Lab,
    Process,
    Project,
    flat,
    flow_points,
    free_port,
    points_in,
    runs_in,
    wait_until,
    waiting_in,
)
from kedro.io import DatasetError
from kedro.runner import ParallelRunner
from lab.tracking import MlflowMetricsDataset
from lab.tracking.delivery import opening
from lab.tracking.delivery.breaker import breaker_of
from lab.tracking.delivery.outbox import Outbox, Request
from lab.tracking.points import Point
from lab.tracking.process.state import gc_paused_for_import
from lab.tracking.run import TrackedRun
from lab.tracking.store import queries
from lab.tracking.store.errors import StoreUnavailableError, is_transient
from lab.tracking.store.mlflow_store import Retry
from lab.tracking.store.sqlite import locked
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
    UNAUTHENTICATED,
)
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.exc import OperationalError
from test_config import unwritable


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
def gone(lab: Lab, tmp_path: Path) -> Iterator[Server]:
    """A server that is not started."""
    server = Server(lab.store, tmp_path)
    yield server
    server.stop()


# At the start


def test_a_server_that_is_not_there_is_an_error_within_10_seconds(lab: Lab) -> None:
    address = f"127.0.0.1:{free_port()}"
    lab.configure(tracking_uri=f"http://user:hunter2@{address}")
    start = time.monotonic()

    with pytest.raises(click.ClickException) as caught:
        lab.run("everything")

    assert time.monotonic() - start < SOON
    message = caught.value.format_message()
    assert message.startswith(
        f"The MLflow store http://{address} can't be reached: Connection refused; "
    )
    assert "'on_outage: spool'" in message
    assert "hunter2" not in message


@pytest.mark.slow
def test_a_server_that_never_answers_is_an_error_within_10_seconds(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        lab.configure(tracking_uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()

        with pytest.raises(click.ClickException, match="can't be reached"):
            lab.run("everything")

        assert time.monotonic() - start < SOON


class SlowServer(ThreadingHTTPServer):
    """A tracking server that answers the first request after 5 seconds, and no other."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _SlowHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[str] = []
        self.end = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is what this is about."""


class _SlowHandler(BaseHTTPRequestHandler):
    server: SlowServer

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if len(self.server.requests) > 1:
            self.server.end.wait()
            return
        time.sleep(5)
        experiment = {"experiment_id": "1", "name": "lab", "lifecycle_stage": "active"}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"experiment": experiment}).encode())

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        """Silent."""


def test_all_requests_of_the_start_share_one_deadline(lab: Lab) -> None:
    with SlowServer() as server:
        threading.Thread(target=server.serve_forever).start()
        lab.configure(tracking_uri=server.url)
        start = time.monotonic()
        try:
            with pytest.raises(click.ClickException) as caught:
                lab.run("everything")
        finally:
            server.end.set()
            server.shutdown()

    assert 5 < time.monotonic() - start < SOON
    assert len(server.requests) > 1
    said = "it does not answer in time; wait if it is starting or busy, else start it, set another"
    assert f"can't be reached: {said}" in caught.value.message


def test_a_database_server_that_is_not_there_is_an_error_within_10_seconds(lab: Lab) -> None:
    lab.configure(tracking_uri=f"mysql+pymysql://user:hunter2@127.0.0.1:{free_port()}/mlflow")
    start = time.monotonic()

    with pytest.raises(click.ClickException, match="reached: Connection refused") as caught:
        lab.run("everything")

    assert time.monotonic() - start < SOON
    assert "hunter2" not in str(caught.value)


@pytest.mark.slow
def test_a_database_server_that_never_answers_is_an_error_within_10_seconds(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        lab.configure(tracking_uri=f"mysql+pymysql://user:hunter2@127.0.0.1:{port}/mlflow")
        start = time.monotonic()

        with pytest.raises(click.ClickException, match="can't be reached: it does not answer"):
            lab.run("everything")

        assert time.monotonic() - start < SOON


@pytest.mark.slow
def test_a_database_locked_for_longer_is_an_error_within_10_seconds(lab: Lab) -> None:
    with closing(sqlite3.connect(lab.store, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()

        with pytest.raises(click.ClickException, match="can't be reached: database is locked"):
            lab.run("everything")

        assert time.monotonic() - start < SOON


@pytest.mark.slow
def test_with_spool_the_run_goes_on_and_is_synced(
    lab: Lab, gone: Server, caplog: pytest.LogCaptureFixture
) -> None:
    lab.configure(tracking_uri=gone.url, on_outage="spool", experiment="digits")

    lab.run("own_calls", params={"unused": 1})

    warning = (
        f"The MLflow store {gone.url} can't be reached (Connection refused). The run is written"
        f" to {lab.outbox}, for `kedro metrics sync`."
    )
    assert warning in [record.getMessage() for record in caplog.records]
    (waiting,) = runs_in(lab.outbox)
    assert waiting.info.status == "FINISHED"
    assert caplog.records[-1].getMessage() == (
        f"The MLflow run {waiting.info.run_id} is FINISHED; it waits in {lab.outbox}, for"
        " `kedro metrics sync`."
    )
    before = stamps_in(lab.outbox, waiting)
    assert set(before) == {"one_metrics.score", "two_metrics.score", "own.one", "own.two"}
    gone.start()
    done, (line,) = lab.sync()
    assert done
    (run,) = lab.runs()
    assert line == f"Synced {run.info.run_name}: 4 points, to run {run.info.run_id} in {gone.url}."
    assert stamps_in(lab.store, run) == before
    for fact in ("run_name", "status", "start_time", "end_time", "user_id"):
        assert getattr(run.info, fact) == getattr(waiting.info, fact), fact
    assert run.data.params == waiting.data.params == {"own.one": "1", "own.two": "1"}
    tags = {k: v for k, v in waiting.data.tags.items() if "spool" not in k}
    assert tags.items() - run.data.tags.items() <= {
        (k, tags[k]) for k in ("kedro.machine", "kedro.process")
    }
    client = MlflowClient(gone.url)
    assert client.get_experiment(run.info.experiment_id).name == "digits"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "one.json",
        "two.json",
    }
    assert lab.sync() == (True, ["Nothing to sync: mlflow-spool.db has no runs that wait."])
    assert len(lab.runs()) == 1


@pytest.mark.slow
def test_a_failed_run_is_synced_as_failed(lab: Lab, gone: Server) -> None:
    lab.configure(tracking_uri=gone.url, on_outage="spool")
    with pytest.raises(ValueError, match="the data is gone"):
        lab.run("ends", params={"end": "error"})
    gone.start()

    assert lab.sync()[0]

    (run,) = lab.runs()
    assert run.info.status == "FAILED"
    assert run.data.tags["kedro.error"] == "ValueError: the data is gone: https://example.com/data"


@pytest.mark.slow
def test_an_external_run_is_synced_and_left_open(lab: Lab, server: Server) -> None:
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
    assert len(runs_in(lab.outbox)) == 1


@pytest.mark.slow
def test_what_can_not_be_synced_stays_and_the_rest_is_synced(lab: Lab, server: Server) -> None:
    client = MlflowClient(server.url)
    deleted = client.create_run("0").info.run_id
    server.stop()
    lab.configure(tracking_uri=server.url, on_outage="spool")
    lab.run("everything", node_names=["a"], params={"mlflow_run_id": deleted})
    lab.run("everything", node_names=["b"])
    outbox = MlflowClient(f"sqlite:///{lab.outbox}")
    (experiment,) = {run.info.experiment_id for run in runs_in(lab.outbox)}
    outbox.create_run(experiment, tags={"kedro.spool.store": server.url})
    server.start()
    client.delete_run(deleted)

    done, lines = lab.sync()

    assert not done
    starts = [line.partition(" ")[0] for line in lines]
    assert starts == ["Left", "Synced", "Left"], lines
    assert "deleted" in lines[0] or "active" in lines[0]
    assert "it is still running, or was on another machine (then: --running)" in lines[2]
    assert [line.partition(" ")[0] for line in lab.sync(running=True)[1]] == ["Left", "Synced"]
    assert sorted(run.info.status for run in lab.runs()) == ["FINISHED", "KILLED"]


@pytest.mark.slow
def test_a_run_taken_for_dead_whose_end_was_in_the_outbox(
    lab: Lab, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    lab.configure(tracking_uri=server.url)
    with outage_after(2), at(1000, lab.store, lambda: server.stop(signal.SIGKILL)):
        lab.run("flow", params={"yields": 20, "pause": 0.1})
    server.start()
    client = MlflowClient(server.url)
    (run,) = lab.runs()
    assert run.info.status == "RUNNING"
    client.set_tag(run.info.run_id, "kedro.process", "999999 1")  # the process ends
    lab.run("everything", node_names=["a"])
    assert client.get_run(run.info.run_id).info.status == "RUNNING"  # its end is known here
    assert "mlflow-spool.db has 1 run(s) that wait for `kedro metrics sync`." in caplog.text
    # A project elsewhere, without the outbox, does not know it.
    client.set_tag(run.info.run_id, "kedro.error", "The process was killed.")
    client.set_terminated(run.info.run_id, "KILLED")

    assert lab.sync()[0]

    run = client.get_run(run.info.run_id)
    assert run.info.status == "FINISHED"
    assert "kedro.error" not in run.data.tags


@pytest.mark.slow
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
    assert [run.info.status for run in runs_in(lab.outbox)] == ["FINISHED"]
    assert {run for run, _ in waiting_in(lab.outbox)} == {run_id}
    server.start()

    assert lab.sync()[0]

    external, other = lab.runs()
    assert (external.info.run_id, external.info.status) == (run_id, "RUNNING")
    assert points_in(lab.store, external)["a_metrics.score"] == [(0, 0.5), (1, 0.5)]
    assert points_in(lab.store, other)["b_metrics.score"] == [(0, 0.5)]


def test_a_run_that_the_catalog_names_and_that_is_not_there(lab: Lab) -> None:
    lab.add("base/catalog.yml", "a_metrics: {type: lab.tracking.MlflowMetricsDataset, run_id: abc}")

    with pytest.raises(click.ClickException, match="no run 'abc', which the catalog names"):
        lab.run("everything", node_names=["a"])


@pytest.mark.slow
def test_nested_runs_of_a_node_are_synced_with_their_parent(lab: Lab, gone: Server) -> None:
    lab.configure(tracking_uri=gone.url, on_outage="spool")
    lab.run("nested")
    gone.start()

    assert lab.sync()[0]

    parent, child = sorted(lab.runs(), key=lambda run: str(run.info.run_name) == "child")
    assert child.data.metrics == {"inner": 1.0}
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert len(lab.runs()) == 2


NESTED = """
import time
from pathlib import Path
from types import FrameType
import mlflow
from kedro.pipeline import Node, Pipeline

def wait(file):
    with mlflow.start_run(run_name="child", nested=True):
        mlflow.log_metric("inner", 1.0)
        Path(file).touch()
        while True:
            time.sleep(1)

def create_pipeline(**kwargs):
    return Pipeline([Node(wait, "params:file", "wait_metrics", name="wait")])
"""


@pytest.mark.slow
def test_a_nested_run_is_synced_as_killed_when_the_process_is_gone(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    project, file = make_project(), tmp_path / "waiting"
    project.write("src/PACKAGE/pipelines/waits/__init__.py", NESTED)
    server = Server(project.store, tmp_path)
    project.write("conf/local/mlflow.yml", f"tracking_uri: {server.url}\non_outage: spool\n")
    with project.started(KEDRO, "run", f"--params=file={file}") as process:
        process.wait_until(file.exists)
        with server:
            living = project.attempt(KEDRO, "metrics", "sync")
            process.signal(signal.SIGKILL)
            process.wait()
            project.kedro("metrics", "sync")

    assert living.returncode == 1
    assert living.stdout.count("it is still running") == 2
    assert [run.info.status for run in project.runs()] == ["KILLED", "KILLED"]
    assert {"inner": 1.0} in [run.data.metrics for run in project.runs()]


@pytest.mark.parametrize("state", ["damaged", "older"])
def test_an_outbox_that_can_not_be_read_fails_no_run_whose_store_is_there(
    lab: Lab, make_store: Callable[[str], Path], state: str
) -> None:
    if state == "damaged":
        lab.outbox.write_bytes(b"no database at all" * 100)
    else:
        make_store("older.db").rename(lab.outbox)
        with closing(sqlite3.connect(lab.outbox)) as database, database:
            database.execute("UPDATE alembic_version SET version_num = '0584bdc529eb'")
    try:
        lab.run("everything", node_names=["a"])
    finally:
        lab.outbox.unlink()

    assert [run.info.status for run in lab.runs()] == ["FINISHED"]


@pytest.mark.slow
def test_one_sync_at_a_time(lab: Lab, gone: Server) -> None:
    lab.configure(tracking_uri=gone.url, on_outage="spool")
    lab.run("everything", node_names=["a"])
    with (
        locked(lab.path / "mlflow-spool.db-sync"),
        pytest.raises(click.ClickException, match="Another `kedro metrics sync` is running"),
    ):
        lab.sync()
    with pytest.raises(click.ClickException, match="what waits stays in mlflow-spool"):
        lab.sync()


def attempt_sync(lab: Lab, *options: str) -> subprocess.CompletedProcess[str]:
    done = Project(lab.path).attempt(
        KEDRO, "metrics", "sync", f"--conf-source={lab.conf}", *options
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.mark.parametrize("run_id", ["abc", ""])  # the latter of a variable that is not set
def test_nothing_is_discarded_of_runs_that_began_in_the_outbox(
    lab: Lab, gone: Server, run_id: str
) -> None:
    lab.configure(tracking_uri=gone.url, on_outage="spool")
    lab.run("everything", node_names=["a"])

    done = attempt_sync(lab, f"--discard={run_id}")

    assert done.returncode == 0, done.stderr
    assert f"Forgot 0 requests that waited for the run {run_id}." in done.stdout
    assert len(runs_in(lab.outbox)) == 1


@pytest.mark.parametrize("options", [[], ["--discard=abc"]])
def test_sync_of_a_damaged_outbox_is_one_sentence(lab: Lab, options: list[str]) -> None:
    lab.outbox.write_bytes(b"no database at all" * 100)
    try:
        done = attempt_sync(lab, *options)
    finally:
        lab.outbox.unlink()

    assert done.returncode == 1
    assert f"{lab.outbox} can't be used: file is not a database; mend that" in flat(done.stderr)


def test_sync_in_a_folder_that_can_not_be_written_is_one_sentence(lab: Lab) -> None:
    outbox = Outbox(lab.outbox, f"sqlite:///{lab.store}")
    outbox.add("a" * 32, Request([Point("k", 1.0, 0, 0)]))
    (lab.path / ".mlflow-spool.db-sync-lock").unlink(missing_ok=True)

    with unwritable(lab.path):
        done = attempt_sync(lab)

    assert done.returncode == 1
    assert f"{lab.outbox} can't be used: unable to open database file; mend" in flat(done.stderr)


# Later


def test_a_store_removed_in_a_living_process(lab: Lab) -> None:
    lab.run("everything", node_names=["a"])
    lab.store.unlink()  # to start afresh

    lab.run("everything", node_names=["a"])

    assert [run.info.status for run in lab.runs()] == ["FINISHED"]


@pytest.mark.slow
def test_an_external_run_twice_with_an_outage_and_a_sync_between(lab: Lab, server: Server) -> None:
    client = MlflowClient(server.url)
    run_id = client.create_run("0").info.run_id
    lab.configure(tracking_uri=server.url)
    params = {"yields": 20, "pause": 0.1, "mlflow_run_id": run_id}
    with outage_after(2), at(1000, lab.store, lambda: server.stop(signal.SIGKILL)):
        lab.run("flow", params=params)
    server.start()
    assert lab.sync()[0]

    lab.run("flow", params=params)

    (run,) = lab.runs()
    assert {len(points) for points in points_in(lab.store, run).values()} == {40}
    assert [step for step, _ in points_in(lab.store, run)["flow_metrics.k0"]] == list(range(40))


@contextmanager
def meanwhile(action: Callable[[], object]) -> Iterator[None]:
    """Do something on a thread of its own, while the block runs; it ends with both."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(action)
        yield
        done.result()


@contextmanager
def at(points: int, store: Path, action: Callable[[], object]) -> Iterator[None]:
    """Do something when the store has so many points, while the block runs."""

    def watch() -> None:
        wait_until(lambda: count(store) >= points)
        action()

    with meanwhile(watch):
        yield


@pytest.mark.slow
def test_a_server_killed_in_a_stream_and_never_again(
    lab: Lab, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    lab.configure(tracking_uri=server.url)
    with outage_after(2), at(2000, lab.store, lambda: server.stop(signal.SIGKILL)):
        lab.run("flow", params={"yields": 100, "pause": 0.02})

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
    assert lab.sync()[1] == ["Nothing to sync: mlflow-spool.db has no runs that wait."]


@pytest.mark.slow
def test_a_server_killed_in_a_stream_and_started_again(
    lab: Lab, server: Server, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    running = tmp_path / "running"
    running.touch()

    def is_logged(text: str) -> bool:
        return any(text in record.getMessage() for record in list(caplog.records))

    def restart() -> None:
        try:
            wait_until(lambda: count(lab.store) >= 2000)
            server.stop(signal.SIGKILL)
            wait_until(lambda: is_logged("The run goes on"))
            server.start()
            wait_until(lambda: is_logged("answers again"), 120)
        finally:
            running.unlink()  # the node ends

    lab.configure(tracking_uri=server.url)
    with meanwhile(restart):
        lab.run("endless", params={"until_removed": str(running)})

    yields = len(running.with_suffix(".yields").read_text().splitlines())
    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    assert lab.outbox.exists()
    assert lab.sync()[0]
    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    assert count(lab.store) == yields * FLOW_KEYS
    assert points_in(lab.store, run) == flow_points(yields, "endless_metrics")


@pytest.mark.slow
def test_workers_share_one_run_in_the_outbox(
    lab: Lab, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEDRO_MP_CONTEXT", "fork")
    log_params = TrackedRun.log_params

    def then_kill(self: Any, parameters: Any) -> None:  # when the run is there, before any node
        log_params(self, parameters)
        server.stop(signal.SIGKILL)

    monkeypatch.setattr(TrackedRun, "log_params", then_kill)
    lab.configure(tracking_uri=server.url)

    with outage_after(0.5):
        lab.run("everything", runner=ParallelRunner())

    waiting = waiting_in(lab.outbox)
    assert len({run_id for run_id, _ in waiting}) == 1
    assert ["FINISHED" in request for _, request in waiting] == [False] * (len(waiting) - 1) + [
        True
    ]
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
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")  # a busy machine takes one for a request
    with FaultyProxy(server.url, share=0.3, timeout=2) as proxy:
        lab.configure(tracking_uri=proxy.url, on_outage="spool")
        for _ in range(3):
            lab.run("flow", params={"yields": 100, "pause": 0})
        assert sum(proxy.seen.values()) >= len(FAULTS), proxy.seen
        for _ in range(20):
            with suppress(click.ClickException):  # no answer for so long that the user tries again
                if lab.sync()[0]:
                    break
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

    with at(2000, lab.store, lock):
        lab.run("flow", params={"yields": 100, "pause": 0.03})

    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    if lab.outbox.exists():
        assert lab.sync()[0]
    assert points_in(lab.store, run) == flow_points(100)


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 404, 200], ids=["password", "no server", "login page"])
def test_a_server_that_is_taken_from_behind_its_proxy(
    lab: Lab, server: Server, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """A password may have been changed, a login have ended, a server be started anew behind a
    proxy that has a page for it: the training is not to blame, and has nothing to try again.
    """
    with FaultyProxy(server.url, share=0, timeout=1) as proxy:
        lab.configure(tracking_uri=proxy.url)

        def refuse() -> None:
            proxy.always = status

        with at(1000, lab.store, refuse):
            lab.run("flow", params={"yields": 20, "pause": 0.1})
        proxy.always = None

        assert [r for r in caplog.records if f"status {status}" in r.getMessage()]
        assert lab.sync()[0]
    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    assert points_in(lab.store, run) == flow_points(20)


@pytest.mark.slow
def test_parameters_that_a_proxy_finds_too_large_are_left_out(
    lab: Lab, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultyProxy(server.url, share=0, timeout=1) as proxy:
        proxy.too_large = b'"yields"'
        lab.configure(tracking_uri=proxy.url)
        lab.run("flow", params={"yields": 20, "pause": 0})

    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    assert run.data.params == {}
    assert points_in(lab.store, run) == flow_points(20)
    assert [r for r in caplog.records if "did not take parameters: " in r.getMessage()]


def test_a_run_that_can_not_begin_does_not_say_for_the_others_that_the_store_answers(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `kedro server`, whose runs share a process: those in an outage go on waiting."""
    uri = f"http://127.0.0.1:{free_port()}"
    lab.configure(tracking_uri=uri)
    monkeypatch.setattr(opening, "START_SECONDS", 0.5)
    breaker = breaker_of(uri)
    breaker.record_failure(StoreUnavailableError(uri, ConnectionError("gone")))

    with pytest.raises(click.ClickException, match="can't be reached"):
        lab.run("everything")

    assert breaker.error


def test_what_is_refused_at_the_start_is_raised_at_once(lab: Lab) -> None:
    with FaultyProxy("nowhere", share=0, timeout=1) as proxy:
        lab.configure(tracking_uri=proxy.url, on_outage="spool")
        for status in (401, 403, 404):
            proxy.always = status
            start = time.monotonic()

            with pytest.raises(click.ClickException, match=f"can't be used: .* {status} "):
                lab.run("everything")

            assert time.monotonic() - start < 8
    assert not lab.outbox.exists()


def wait_for_more(store: Path, process: Process) -> None:
    """Wait until a store has more points, or the process has ended."""
    before = count(store)
    wait_until(lambda: count(store) > before or process.running.poll() is not None)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sync_killed_at_any_point(bake: Callable[..., Path], store: Path, tmp_path: Path) -> None:
    project = Project(bake(include_example="no"))
    project.add_pipeline("flow")
    project.write("conf/base/parameters.yml", "yields: 100\npause: 0\n")
    server = Server(store, tmp_path)
    project.write("conf/local/mlflow.yml", f"tracking_uri: {server.url}\non_outage: spool\n")
    project.kedro("run")
    project.kedro("run")
    first, second = runs_in(project.outbox)
    dice = random.Random(0)
    with server:
        killed = 0
        for _ in range(20):
            with project.started(KEDRO, "metrics", "sync") as process:
                wait_for_more(store, process)
                time.sleep(dice.uniform(0, 0.5))
                killed += process.running.poll() is None
        last = project.kedro("metrics", "sync").stdout
        again = project.kedro("metrics", "sync").stdout

    assert killed >= 5, last
    assert "has no runs that wait" in " ".join(again.split())
    runs = runs_in(store)
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert [points_in(store, run) for run in runs] == [flow_points(100)] * 2
    assert [run.info.end_time for run in runs] == [first.info.end_time, second.info.end_time]
    assert count(store) == 40_000


def test_a_load_in_an_outage_is_one_sentence_without_a_password(lab: Lab, gone: Server) -> None:
    lab.configure(tracking_uri=gone.url.replace("http://", "http://me:hunter2@"))
    lab.context()
    dataset = MlflowMetricsDataset(run_id="0" * 32)

    with outage_after(2), pytest.raises(DatasetError) as caught:
        dataset.load()

    assert "can't be reached: Connection refused" in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_load_of_a_run_that_is_not_there(lab: Lab) -> None:
    lab.context()

    with pytest.raises(DatasetError, match="0 not found"):
        MlflowMetricsDataset(run_id="0" * 32).load()


# What is tried again and what is not


# What an MLflow server (3.17) answered to 16 writers at once.
NO_CONNECTION = (
    "QueuePool limit of size 5 overflow 10 reached, connection timed out, timeout 30.00 (Background"
    " on this error at: https://sqlalche.me/e/21/3o7r)"
)


def sql_error(text: str, driver: type[Exception]) -> Exception:
    """What MLflow's SQL stores raise for an error of the database's driver."""
    error = MlflowException(text, error_code=TEMPORARILY_UNAVAILABLE)
    error.__cause__ = OperationalError("INSERT", {}, driver(text))
    return error


def caused_by(cause: Exception) -> Exception:
    """What MLflow's SQL stores raise for any other error of SQLAlchemy's."""
    error = MlflowException("no", error_code=BAD_REQUEST)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ConnectionRefusedError("refused"), True),
        (TimeoutError("timed out"), True),
        (json.JSONDecodeError("cut", "{", 1), True),
        (MlflowException("API request failed with exception"), True),
        (MlflowException("busy", error_code=REQUEST_LIMIT_EXCEEDED), True),
        (RestException({"error_code": "BAD_REQUEST", "message": NO_CONNECTION}), True),
        (RestException({"error_code": "BAD_REQUEST", "message": "no"}), False),
        (sql_error("database is locked", sqlite3.OperationalError), True),
        (sql_error("deadlock detected", RuntimeError), True),
        (caused_by(sqlalchemy.exc.TimeoutError("QueuePool limit of size 5 reached")), True),
        (caused_by(sqlalchemy.exc.ArgumentError("no such URL")), False),
        (sql_error("database or disk is full", sqlite3.OperationalError), False),
        (sql_error("attempt to write a readonly database", sqlite3.OperationalError), False),
        (MlflowException("no", error_code=INVALID_PARAMETER_VALUE), False),
        (MlflowException("no", error_code=RESOURCE_DOES_NOT_EXIST), False),
        (MlflowException("no", error_code=UNAUTHENTICATED), False),
        (MlflowException("no", error_code=PERMISSION_DENIED), False),
        (ValueError("a bug"), False),
    ],
)
def test_what_is_tried_again(error: Exception, transient: bool) -> None:
    assert (tries(error, 0.5) > 1) == is_transient(error) == transient


def test_without_time_left_a_request_is_tried_once() -> None:
    assert tries(ConnectionError("gone"), 0.0) == 1


def tries(error: Exception, seconds: float) -> int:
    """How often a request that fails so is made within so many seconds."""
    calls = 0

    def request() -> None:
        nonlocal calls
        calls += 1
        raise error

    retry = Retry()
    with pytest.raises(type(error)), retry.deadline(seconds):
        retry(request)
    return calls


def test_the_collector_waits_for_an_import_and_comes_back() -> None:
    with gc_paused_for_import():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_no_garbage_is_looked_for_while_points_are_written_and_read(lab: Lab) -> None:
    run_id = MlflowClient(f"sqlite:///{lab.store}").create_run("0").info.run_id
    dataset = MlflowMetricsDataset(prefix="m", run_id=run_id)
    mlflow.set_tracking_uri(f"sqlite:///{lab.store}")
    requests = {SqlAlchemyStore.log_batch.__code__, queries.histories.__code__}
    at_work: list[str] = []

    def note(phase: str, info: dict[str, int]) -> None:
        frame: FrameType | None = sys._getframe()
        while frame := frame and frame.f_back:
            if frame.f_code in requests:
                at_work.append(phase)

    gc.callbacks.append(note)
    try:
        dataset.save({"loss": [{"value": step / 7, "step": step} for step in range(5_000)]})
        loaded = dataset.load()
    finally:
        gc.callbacks.remove(note)

    assert len(loaded["loss"]) == 5_000
    assert at_work == []
    assert gc.isenabled()


FORK = """
import gc, os, threading
from lab.tracking.process.state import gc_paused

paused, forked = threading.Event(), threading.Event()
def pause():
    with gc_paused():
        paused.set()
        forked.wait()
thread = threading.Thread(target=pause)
thread.start()
paused.wait()
pid = os.fork()
if pid == 0:
    os._exit(0 if gc.isenabled() else 1)
_, status = os.waitpid(pid, 0)
forked.set()
thread.join()
print("COLLECTS", status == 0, gc.isenabled())
"""


def test_a_process_that_is_forked_while_the_collector_is_paused_collects(lab_path: Path) -> None:
    """As multiprocessing and joblib fork, while a thread of ours writes a request."""
    done = Project(lab_path).command(sys.executable, "-c", FORK)

    assert "COLLECTS True True" in done.stdout
