"""Nodes on the workers of a real Dask cluster: one MLflow run, every point once."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from helpers import KEDRO, Lab, Process, Project, flat, free_port, points_in, runs_in
from lab.tracking.dask import DaskRunner
from lab.tracking.dask.cluster import DaskError
from mlflow import MlflowClient
from mlflow.entities import Run

pytestmark = pytest.mark.slow

STREAM = [(step, 1 / (1 + step)) for step in range(10)]
NOTED = [(0, 0.5), (1, 0.25)]
RUNNER = "--runner=lab.tracking.dask.DaskRunner"


class Cluster:
    """A scheduler, which has no code of the project, and workers; all are processes."""

    def __init__(self, folder: Path, source: Path | None = None, number: int = 1) -> None:
        port = free_port()
        self.folder = folder
        self.address = f"tcp://127.0.0.1:{port}"
        self.scheduler = self._process("scheduler", None, f"--port={port}")
        self.workers = self.more_workers(source, number) if source else None

    def more_workers(self, source: Path, number: int = 1) -> Process:
        """So many workers, which have this folder's code; for a ``with``."""
        folder = f"--local-directory={self.folder}"
        options = ["--nthreads=1", f"--nworkers={number}", folder]
        return self._process("worker", source, self.address, *options)

    def _process(self, kind: str, source: Path | None, *options: str) -> Process:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--host=127.0.0.1"]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        log = self.folder / f"{kind}-{source.parent.name if source else ''}.log"
        return Process(
            [*command, "--no-dashboard", *options],
            log,
            self.folder,
            environment | ({"PYTHONPATH": str(source)} if source else {}),
        )

    def __enter__(self) -> Cluster:
        with ExitStack() as starting:
            starting.enter_context(self.scheduler)
            if self.workers:
                starting.enter_context(self.workers)
                number = int(self.workers.command[-2].partition("=")[2])
                wait_for_workers(self.workers, number)
            self.started = starting.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self.started.close()


def wait_for_workers(process: Process, number: int = 1) -> None:
    """Wait until so many have registered, since the beginning."""
    process.wait_until(lambda: process.output.count("Registered to:") >= number)


@pytest.fixture(scope="module")
def cluster(lab_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), lab_path / "src", 2) as cluster:
        yield cluster


def options(cluster: Cluster | None, folder: Path, end: str, *nodes: str) -> list[str]:
    where = f"address={cluster.address}" if cluster else "max_workers=2"
    params = f"--params=folder={folder},end={end}"
    return [RUNNER, f"--runner-params={where}", params, f"--nodes={','.join(nodes)}"]


def test_nodes_that_share_nothing_run_on_both_workers_at_once(
    lab: Lab, cluster: Cluster, tmp_path: Path
) -> None:
    with lab.command("cluster", *options(cluster, tmp_path, "", "on_left", "on_right")) as process:
        assert process.wait() == 0, process.output

    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    assert points_in(lab.store, run) == {
        "on_left_metrics.loss": STREAM,
        "on_right_metrics.loss": STREAM,
        "own.left": [(0, 2.0)],
        "own.right": [(0, 2.0)],
    }
    pids = {(tmp_path / name).read_text() for name in ("left", "right")}
    assert len(pids) == 2


def test_without_an_address_the_workers_are_processes_here(lab: Lab, tmp_path: Path) -> None:
    arguments = options(None, tmp_path, "", "on_left", "on_right")
    with socket.socket() as other:
        with suppress(OSError):  # if it is taken anyhow
            other.bind(("127.0.0.1", 8787))
            other.listen()
        with lab.command("cluster", *arguments) as process:
            assert process.wait() == 0, process.output

    assert lab.points()["on_left_metrics.loss"] == STREAM
    assert len(runs_in(lab.store)) == 1
    assert "scheduler.py" not in process.output
    assert "Stopping worker" not in process.output
    assert "8787" not in process.output


def test_the_node_of_a_lost_worker_runs_again_and_its_points_are_there_once(
    lab: Lab, cluster: Cluster, tmp_path: Path
) -> None:
    assert cluster.workers
    registered = cluster.workers.output.count("Registered to:")
    with lab.command("cluster", *options(cluster, tmp_path, "kill", "fall")) as process:
        assert process.wait() == 0, process.output
    wait_for_workers(cluster.workers, registered + 1)  # for the tests that follow

    assert (tmp_path / "fallen").exists()
    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    assert points_in(lab.store, run) == {"fall_metrics.loss": STREAM}


def test_a_failing_node(lab: Lab, cluster: Cluster, tmp_path: Path) -> None:
    with lab.command("cluster", *options(cluster, tmp_path, "error", "fall")) as process:
        assert process.wait() == 1, process.output

    (run,) = lab.runs()
    assert (run.info.status, run.data.tags["kedro.error"]) == (
        "FAILED",
        "DataGoneError: the data is gone",
    )
    assert points_in(lab.store, run) == {"fall_metrics.loss": STREAM[:6]}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_is_running_there(
    lab: Lab, cluster: Cluster, tmp_path: Path, number: int
) -> None:
    with lab.command("cluster", *options(cluster, tmp_path, "wait", "fall")) as process:
        process.wait_until((tmp_path / "fallen").exists)
        process.signal(number)
        assert process.wait(20) != 0, process.output

    (run,) = lab.runs()
    assert run.info.status == "KILLED"
    # Both workers are free for the next one.
    (tmp_path / "fallen").unlink()
    with lab.command("cluster", *options(cluster, tmp_path, "", "on_left", "on_right")) as process:
        assert process.wait() == 0, process.output
    assert [run.info.status for run in lab.runs()] == ["KILLED", "FINISHED"]


@pytest.mark.parametrize("protocol", ["tcp", "ucx"])
def test_a_cluster_that_can_not_be_reached_is_one_sentence(
    lab: Lab, tmp_path: Path, protocol: str
) -> None:
    address = f"{protocol}://127.0.0.1:{free_port()}"
    lab.configure(summary=False)
    arguments = [RUNNER, f"--runner-params=address={address}", f"--params=folder={tmp_path},end=x"]
    with lab.command("cluster", *arguments, "--nodes=on_left") as process:
        began = time.monotonic()
        assert process.wait() == 1
    assert f"The Dask scheduler {address} can't be reached; start it" in flat(process.output)
    assert "Traceback" not in process.output
    assert time.monotonic() - began < 30
    assert [run.info.status for run in lab.runs()] == ["FAILED"]


def test_what_is_in_memory_only_is_refused_by_name(lab: Lab) -> None:
    with lab.command("ends", RUNNER, "--params=end=x") as process:
        assert process.wait() == 1
    assert "these datasets are in memory only: measured;" in flat(process.output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": 8786}, "'address' is 8786; it is that of a Dask scheduler"),
        ({"max_workers": "two"}, "'max_workers' is 'two'; it is a number of processes"),
        ({"max_workers": 0}, "'max_workers' is 0; it is a number of processes, 1 or more."),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DaskError, match=re.escape(message)):
        DaskRunner(**arguments)


def test_two_nodes_that_may_write_the_same_key_are_refused(lab: Lab) -> None:
    for name in ("noted", "also"):
        entry = f"{name}_metrics: {{type: lab.tracking.MlflowMetricsDataset, prefix: both}}\n"
        lab.add("base/catalog.yml", entry)
    with pytest.raises(DaskError, match="'also_metrics' and 'noted_metrics', of two nodes, may"):
        lab.run("cluster", runner=DaskRunner(), node_names=["note", "note_also"])
    assert not lab.points()


def test_no_worker_and_one_without_the_project_s_code(lab: Lab, tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        arguments = options(cluster, tmp_path, "", "note")
        with lab.command("cluster", *arguments) as process:
            assert process.wait() == 1
        assert f"The Dask scheduler {cluster.address} has no worker" in flat(process.output)
        with cluster.more_workers(tmp_path / "none") as worker:
            wait_for_workers(worker)
            with lab.command("cluster", *arguments) as process:
                assert process.wait() == 1
    assert "has no package 'lab'; install" in flat(process.output), process.output


def test_a_worker_that_comes_later_is_checked_too(lab: Lab, tmp_path: Path) -> None:
    other = tmp_path / "other" / "src"
    (other / "lab").mkdir(parents=True)
    (other / "lab" / "__init__.py").touch()
    with (
        Cluster(tmp_path, lab.path / "src") as cluster,
        lab.command("cluster", *options(cluster, tmp_path, "wait", "fall")) as process,
    ):
        process.wait_until((tmp_path / "fallen").exists)
        with cluster.more_workers(other) as late:
            wait_for_workers(late)
            assert cluster.workers
            cluster.workers.stop(signal.SIGKILL)
            assert process.wait() == 1, process.output
    assert "has another version of 'lab', or has imported" in flat(process.output)
    assert "Traceback" not in process.output


def test_a_worker_with_old_code_is_named(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    project = make_project("cluster")
    code = project.path / "src" / project.package / "pipelines" / "cluster" / "__init__.py"
    with Cluster(tmp_path, project.path / "src") as cluster:
        arguments = ["run", "--pipelines=cluster", *options(cluster, tmp_path, "", "note")]
        project.kedro(*arguments)
        code.write_text(code.read_text().replace("(0.5, 0.25)", "(2.0, 1.0)"))
        done = project.attempt(KEDRO, *arguments)
    assert done.returncode == 1
    assert "has another version of 'lab', or has imported" in flat(done.stdout + done.stderr)
    assert points_in(project.store, project.runs()[0]) == {"noted_metrics.loss": NOTED}


def test_an_external_run_counts_on(lab: Lab, cluster: Cluster, tmp_path: Path) -> None:
    arguments = options(cluster, tmp_path, "", "on_left", "on_right")
    with lab.command("cluster", *arguments) as process:
        assert process.wait() == 0, process.output
    (run,) = lab.runs()
    for name in ("left", "right"):
        (tmp_path / name).unlink()
    arguments[2] += f",mlflow_run_id={run.info.run_id}"
    with lab.command("cluster", *arguments) as process:
        assert process.wait() == 0, process.output

    steps = [step for step, _ in lab.points()["on_left_metrics.loss"]]
    assert steps == list(range(20))


def test_the_runs_of_the_catalog_count_on(lab: Lab, cluster: Cluster, tmp_path: Path) -> None:
    arguments = options(cluster, tmp_path, "", "note", "note_also")
    with lab.command("cluster", *arguments) as process:
        assert process.wait() == 0, process.output
    (run,) = lab.runs()
    add_with_run(lab, "noted", run)
    with lab.command("cluster", *arguments) as process:
        assert process.wait() == 0, process.output

    both = {key: points_in(lab.store, run) for run in lab.runs() for key in [run.info.run_id]}
    noted_twice = [(0, 0.5), (1, 0.25), (2, 0.5), (3, 0.25)]
    assert both.pop(run.info.run_id) == {
        "noted_metrics.loss": noted_twice,
        "also_metrics.loss": NOTED,
    }
    assert [*both.values()] == [{"also_metrics.loss": NOTED}]


def test_workers_have_credentials_and_secrets_without_a_run_of_their_own(
    lab: Lab, cluster: Cluster, tmp_path: Path
) -> None:
    client = MlflowClient(f"sqlite:///{lab.store}")
    run = client.create_run("0")
    add_with_run(lab, "looked", run)
    lab.configure(credentials="store")
    lab.add(
        "local/credentials.yml",
        "store: {MLFLOW_TRACKING_TOKEN: open}\nother: {password: sesame-1234}\n",
    )
    with lab.command("cluster", *options(cluster, tmp_path, "sesame-1234", "look")) as process:
        assert process.wait() == 0, process.output

    external, own = lab.runs()
    assert points_in(lab.store, external) == {
        "looked_metrics.token": [(0, 1.0)],
        "looked_metrics.hidden": [(0, 1.0)],
    }
    assert (own.info.status, points_in(lab.store, own)) == ("FINISHED", {"own.looked": [(0, 1.0)]})


def add_with_run(lab: Lab, name: str, run: Run) -> None:
    what = f"{{type: lab.tracking.MlflowMetricsDataset, run_id: {run.info.run_id}}}"
    lab.add("base/catalog.yml", f"{name}_metrics: {what}\n")
