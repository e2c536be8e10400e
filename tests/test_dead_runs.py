"""A process that was killed outright leaves its run RUNNING; the next run closes it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import KEDRO, STARTER, Lab, Project, points_in
from mlflow import MlflowClient
from tracking.liveness import MACHINE, PROCESS, is_gone, process_tags


@pytest.fixture
def project(bake: Callable[..., Path], store: Path) -> Project:
    project = Project(bake(include_example="no"))
    store.rename(project.store)
    ends = (STARTER / "tests/lab/ends.py").read_text()
    project.write("src/PACKAGE/pipelines/ends/__init__.py", ends)
    return project


def start(project: Project, tmp_path: Path, name: str) -> subprocess.Popen[bytes]:
    """A run that waits in its second node."""
    waiting = tmp_path / name
    process = subprocess.Popen(
        [KEDRO, "run", f"--params=end=wait:{waiting}"],
        cwd=project.path,
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not waiting.exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)  # until the first node's points are written
    return process


def test_a_killed_run_is_closed_by_the_next_and_a_living_one_is_not(
    project: Project, tmp_path: Path
) -> None:
    dead = start(project, tmp_path, "dead")
    living = start(project, tmp_path, "living")
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    assert [run.info.status for run in project.runs()] == ["RUNNING", "RUNNING"]

    done = project.kedro("run", "--params=end=well")

    killed, running, finished = project.runs()
    statuses = [run.info.status for run in (killed, running, finished)]
    assert statuses == ["KILLED", "RUNNING", "FINISHED"]
    assert killed.data.tags["kedro.error"] == "The process was killed."
    assert points_in(project.store, killed) == {"before_metrics.score": [(0, 0.5)]}
    assert f"The MLflow run {killed.info.run_id}, whose process is gone, is KILLED." in " ".join(
        (done.stdout + done.stderr).split()
    )
    (tmp_path / "living").unlink()
    assert living.wait(60) == 0
    assert [run.info.status for run in project.runs()] == ["KILLED", "FINISHED", "FINISHED"]


def test_this_process_is_there() -> None:
    assert not is_gone(process_tags())


def test_a_process_that_has_ended_is_gone() -> None:
    process = subprocess.Popen(["sleep", "60"])
    pid, _, began = process_tags()[PROCESS].partition(" ")
    tags = {**process_tags(), PROCESS: f"{process.pid}"}
    assert not is_gone(tags)
    process.kill()
    process.wait()
    assert is_gone(tags)
    # The same id, given to a later process.
    assert is_gone({**process_tags(), PROCESS: f"{pid} {int(began) - 1}"})


def test_a_zombie_is_gone() -> None:
    process = subprocess.Popen(["sleep", "0"])
    began = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert is_gone({**process_tags(), PROCESS: f"{process.pid} {began}"})
    process.wait()


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {PROCESS: "1"},
        {**process_tags(), MACHINE: "another"},
        {**process_tags(), PROCESS: ""},
        {**process_tags(), PROCESS: "x"},
    ],
)
def test_what_can_not_be_known_is_not_gone(tags: dict[str, str]) -> None:
    assert not is_gone(tags)


def test_a_process_of_another_user_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert not is_gone({**process_tags(), PROCESS: "1 1"})


def test_runs_of_others_are_left(lab: Lab) -> None:
    client = MlflowClient(f"sqlite:///{lab.store}")
    experiment = client.create_experiment("lab")
    foreign = [
        client.create_run(experiment),
        client.create_run(experiment, tags={MACHINE: "another", PROCESS: "999999 1"}),
        client.create_run("0", tags={**process_tags(), PROCESS: "999999 1"}),  # experiment
    ]
    dead = client.create_run(experiment, tags={**process_tags(), PROCESS: "999999 1"})

    lab.run("everything", node_names=["a"])

    assert client.get_run(dead.info.run_id).info.status == "KILLED"
    assert {client.get_run(run.info.run_id).info.status for run in foreign} == {"RUNNING"}
