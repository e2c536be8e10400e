"""A process that was killed outright leaves its run RUNNING; the next run closes it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import KEDRO, Lab, Process, Project, flat, points_in, wait_until
from lab.tracking.delivery.opening import _close_dead_runs
from lab.tracking.names import Tag
from lab.tracking.process.liveness import is_gone, joint_tags, process_tags
from lab.tracking.store.mlflow_store import store_at
from mlflow import MlflowClient
from sqlalchemy import event

BEFORE = {"before_metrics.score": [(0, 0.5)]}


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    return make_project("ends")


@contextmanager
def waiting_run(project: Project, file: Path, params: str = "") -> Iterator[Process]:
    """A run that waits in its second node; what the first returned is in the store."""
    with project.started(KEDRO, "run", f"--params=end=wait:{file}{params}") as process:
        process.wait_until(file.exists)
        run = project.runs()[-1]
        client = MlflowClient(f"sqlite:///{project.store}")
        process.wait_until(lambda: client.get_run(run.info.run_id).data.metrics)
        yield process


@pytest.mark.slow
def test_a_killed_run_is_closed_by_the_next_and_a_living_one_is_not(
    project: Project, tmp_path: Path
) -> None:
    with (
        waiting_run(project, tmp_path / "dead") as dead,
        waiting_run(project, tmp_path / "living") as living,
    ):
        dead.signal(signal.SIGKILL)
        dead.wait()
        assert [run.info.status for run in project.runs()] == ["RUNNING", "RUNNING"]

        done = project.kedro("run", "--params=end=well")

        killed, running, finished = project.runs()
        statuses = [run.info.status for run in (killed, running, finished)]
        assert statuses == ["KILLED", "RUNNING", "FINISHED"]
        assert killed.data.tags["kedro.error"] == "The process was killed."
        assert points_in(project.store, killed) == BEFORE
        logged = flat(done.stdout + done.stderr)
        assert f"The MLflow run {killed.info.run_id}, whose process is gone, is KILLED." in logged
        (tmp_path / "living").unlink()
        assert living.wait() == 0
    assert [run.info.status for run in project.runs()] == ["KILLED", "FINISHED", "FINISHED"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "while"])
def test_a_run_that_another_process_uses_is_not_closed(
    project: Project, tmp_path: Path, moment: str
) -> None:
    """The process that opened it is killed before the run is resumed, or while it is."""

    def status_after_another_run() -> str:
        project.kedro("run", "--params=end=well")
        return str(project.runs()[0].info.status)

    with waiting_run(project, tmp_path / "opener") as opener, ExitStack() as stack:

        def kill_opener() -> None:
            opener.signal(signal.SIGKILL)
            opener.wait()

        stack.callback(kill_opener)
        if moment == "before":
            stack.close()
        resume = f",mlflow_run_id={project.runs()[0].info.run_id}"
        with waiting_run(project, tmp_path / "resumed", resume) as resumed:
            stack.close()

            assert status_after_another_run() == "RUNNING"

            resumed.signal(signal.SIGKILL)
            resumed.wait()
    assert status_after_another_run() == "KILLED"


def test_a_run_that_a_catalog_names_is_not_closed_while_it_is_used(lab: Lab) -> None:
    client = MlflowClient(f"sqlite:///{lab.store}")
    experiment = client.create_experiment("lab")
    named = client.create_run(experiment, tags={**process_tags(), Tag.PROCESS: "999999 1"})
    foreign = client.create_run(experiment)
    lab.add(
        "base/catalog.yml",
        "".join(
            f"{name}_metrics:\n  type: lab.tracking.MlflowMetricsDataset\n"
            f"  run_id: {run.info.run_id}\n"
            for name, run in (("before", named), ("after", foreign))
        ),
    )

    lab.run("ends", params={"end": "well"})

    _close_dead_runs(store_at(f"sqlite:///{lab.store}"), experiment, ())
    tags = [client.get_run(run.info.run_id).data.tags for run in (named, foreign)]
    assert [Tag.PROCESS in each for each in tags] == [True, False]
    assert {run.info.status for run in lab.runs()} == {"RUNNING"}


def test_who_uses_a_run() -> None:
    ours = process_tags()
    gone, parent = "999999 1", f"{os.getppid()}"
    one, two, other = ({**ours, Tag.PROCESS: text} for text in (gone, f"{gone}, {parent}", parent))
    elsewhere = {**ours, Tag.MACHINE: "another"}

    assert joint_tags({}) == joint_tags(ours) == {}  # somebody else's; already known
    assert joint_tags(one) == {Tag.PROCESS: ours[Tag.PROCESS]}
    assert joint_tags(two) == joint_tags(other) == {Tag.PROCESS: f"{parent}, {ours[Tag.PROCESS]}"}
    assert not is_gone({**two, **joint_tags(two)})
    assert not is_gone(two)
    assert is_gone({**ours, Tag.PROCESS: f"{gone}, 999998 1"})
    several = {**elsewhere, **joint_tags(elsewhere)}
    assert not is_gone({**several, Tag.PROCESS: gone})
    assert joint_tags(several) == {}


def test_this_process_is_there() -> None:
    assert not is_gone(process_tags())


def test_a_process_that_has_ended_is_gone() -> None:
    process = subprocess.Popen(["sleep", "60"])
    pid, _, began = process_tags()[Tag.PROCESS].partition(" ")
    tags = {**process_tags(), Tag.PROCESS: f"{process.pid}"}
    assert not is_gone(tags)
    process.kill()
    process.wait()
    assert is_gone(tags)
    # The same id, given to a later process.
    assert is_gone({**process_tags(), Tag.PROCESS: f"{pid} {int(began) - 1}"})


def test_a_zombie_is_gone() -> None:
    process = subprocess.Popen(["sleep", "0"])
    began = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    stat = Path(f"/proc/{process.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z")
    assert is_gone({**process_tags(), Tag.PROCESS: f"{process.pid} {began}"})
    process.wait()


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {Tag.PROCESS: "1"},
        {**process_tags(), Tag.MACHINE: "another"},
        {**process_tags(), Tag.PROCESS: ""},
        {**process_tags(), Tag.PROCESS: "x"},
    ],
)
def test_what_can_not_be_known_is_not_gone(tags: dict[str, str]) -> None:
    assert not is_gone(tags)


def test_a_process_of_another_user_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert not is_gone({**process_tags(), Tag.PROCESS: "1 1"})


def test_runs_of_others_are_left(lab: Lab) -> None:
    client = MlflowClient(f"sqlite:///{lab.store}")
    experiment = client.create_experiment("lab")
    foreign = [
        client.create_run(experiment),
        client.create_run(experiment, tags={Tag.MACHINE: "another", Tag.PROCESS: "999999 1"}),
        client.create_run("0", tags={**process_tags(), Tag.PROCESS: "999999 1"}),  # experiment
    ]
    dead = client.create_run(experiment, tags={**process_tags(), Tag.PROCESS: "999999 1"})

    lab.run("everything", node_names=["a"])

    assert client.get_run(dead.info.run_id).info.status == "KILLED"
    assert {client.get_run(run.info.run_id).info.status for run in foreign} == {"RUNNING"}


def test_runs_nested_in_a_dead_one_are_closed_with_it(lab: Lab) -> None:
    client = MlflowClient(f"sqlite:///{lab.store}")
    experiment = client.create_experiment("lab")

    def family(tags: dict[str, str]) -> list[str]:
        ids: list[str] = []
        for _ in range(3):
            ids.append(client.create_run(experiment, tags=tags).info.run_id)
            tags = {Tag.PARENT_RUN: ids[-1]}
        return ids

    dead = family({**process_tags(), Tag.PROCESS: "999999 1"})
    living = [*family(process_tags()), *family({})]

    lab.run("everything", node_names=["a"])

    assert {client.get_run(run_id).info.status for run_id in dead} == {"KILLED"}
    assert {client.get_run(run_id).info.status for run_id in living} == {"RUNNING"}


def test_a_dead_run_is_found_among_living_ones(lab: Lab) -> None:
    client = MlflowClient(f"sqlite:///{lab.store}")
    experiment = client.create_experiment("lab")
    living = [client.create_run(experiment, tags=process_tags()) for _ in range(5)]
    dead = client.create_run(experiment, tags={**process_tags(), Tag.PROCESS: "999999 1"})

    lab.run("everything", node_names=["a"])

    assert client.get_run(dead.info.run_id).info.status == "KILLED"
    assert {client.get_run(run.info.run_id).info.status for run in living} == {"RUNNING"}


def test_looking_for_dead_runs_does_not_go_through_the_tags_of_all_runs(lab: Lab) -> None:
    """With 22,000 runs that took 190 ms instead of 3 to 9."""
    client = MlflowClient(f"sqlite:///{lab.store}")
    experiment = client.create_experiment("lab")
    store = store_at(f"sqlite:///{lab.store}")
    with sqlite3.connect(lab.store) as database:
        runs = [f"{number:032x}" for number in range(22_000)]
        database.executemany(
            "INSERT INTO runs (run_uuid, name, status, start_time, end_time, lifecycle_stage,"
            " artifact_uri, experiment_id, user_id, source_type)"
            " VALUES (?, 'a', 'FINISHED', 1, 9, 'active',"
            f" '/some/where/mlartifacts/lab', {int(experiment)}, 'u', 'LOCAL')",
            [(run,) for run in runs],
        )
        database.executemany(
            "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
            [(*tag, run) for run in runs for tag in process_tags().items()],
        )
    steps = 0

    def count(connection: Any, record: Any) -> None:
        def step() -> None:
            nonlocal steps
            steps += 1

        connection.set_progress_handler(step, 1000)

    client.search_runs([experiment], max_results=1)
    engine: Any = store.call(lambda client: client._tracking_client.store.engine)
    engine.dispose()
    event.listen(engine, "connect", count)
    _close_dead_runs(store, experiment, ())
    event.remove(engine, "connect", count)
    engine.dispose()

    assert 0 < steps < 500, "thousands of instructions of SQLite's, for a scan of the runs alone"
