"""Nodes on the workers of a real Dask cluster: one MLflow run, every point once."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers import Lab, Process, flat, free_port, points_in, runs_in

pytestmark = pytest.mark.slow

STREAM = [(step, 1 / (1 + step)) for step in range(10)]
RUNNER = "--runner=lab.tracking.dask.DaskRunner"


class Cluster:
    """A scheduler and two workers, as processes of their own."""

    def __init__(self, folder: Path, source: Path) -> None:
        port = free_port()
        self.address = f"tcp://127.0.0.1:{port}"
        environment = {**os.environ, "PYTHONPATH": str(source)}
        dask = [sys.executable, "-m", "distributed.cli"]
        host = ["--host=127.0.0.1"]
        self.scheduler = Process(
            [*dask[:2], f"{dask[2]}.dask_scheduler", *host, f"--port={port}", "--no-dashboard"],
            folder / "scheduler.log",
            folder,
            environment,
        )
        options = ["--nthreads=1", "--nworkers=2", "--no-dashboard", f"--local-directory={folder}"]
        self.workers = Process(
            [*dask[:2], f"{dask[2]}.dask_worker", self.address, *host, *options],
            folder / "workers.log",
            folder,
            environment,
        )

    def __enter__(self) -> Cluster:
        with ExitStack() as starting:
            starting.enter_context(self.scheduler)
            starting.enter_context(self.workers)
            self.workers.wait_until(lambda: self.workers.output.count("Registered to:") >= 2)
            self.started = starting.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self.started.close()


@pytest.fixture
def cluster(lab: Lab, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, lab.path / "src") as cluster:
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
    with lab.command("cluster", *options(None, tmp_path, "", "on_left", "on_right")) as process:
        assert process.wait() == 0, process.output

    assert lab.points()["on_left_metrics.loss"] == STREAM
    assert len(runs_in(lab.store)) == 1
    assert "scheduler.py" not in process.output
    assert "Stopping worker" not in process.output


def test_the_node_of_a_lost_worker_runs_again_and_its_points_are_there_once(
    lab: Lab, cluster: Cluster, tmp_path: Path
) -> None:
    with lab.command("cluster", *options(cluster, tmp_path, "kill", "fall")) as process:
        assert process.wait() == 0, process.output

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
        "ValueError: the data is gone",
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


def test_a_cluster_that_can_not_be_reached_is_one_sentence(lab: Lab, tmp_path: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
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


@pytest.mark.parametrize("code", ["none", "other"])
def test_workers_without_the_project_s_code_are_named(lab: Lab, tmp_path: Path, code: str) -> None:
    source = tmp_path / "other"
    (source / "lab").mkdir(parents=True)
    if code == "other":
        (source / "lab" / "__init__.py").touch()
    else:
        (source / "lab").rmdir()
    with Cluster(tmp_path, source) as cluster:
        arguments = options(cluster, tmp_path, "", "on_left", "on_right")
        with lab.command("cluster", *arguments) as process:
            assert process.wait() == 1
    part = "has no package 'lab'" if code == "none" else "has another version of 'lab'"
    assert part in flat(process.output), process.output


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
