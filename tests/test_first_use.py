"""A store that is not there yet, or is another MLflow's; many processes at once."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from conftest import KEDRO, STARTER, Lab, Project, points_in
from faults import free_port

PYTHON = sys.executable
KEYS, YIELDS = 200, 5  # of lab/flow.py: 1,000 points


@pytest.fixture
def project(bake: Callable[..., Path]) -> Project:
    """A project without a store, with a pipeline that saves 1,000 points."""
    project = Project(bake(include_example="no"))
    flow = (STARTER / "tests/lab/flow.py").read_text()
    project.write("src/PACKAGE/pipelines/flow/__init__.py", flow)
    project.write("conf/base/parameters.yml", f"yields: {YIELDS}\npause: 0\n")
    return project


def start(project: Project, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [KEDRO, "run", *arguments],
        cwd=project.path,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def expected() -> dict[str, list[tuple[int, float]]]:
    return {
        f"flow_metrics.k{key}": [(step, key + step / 1000) for step in range(YIELDS)]
        for key in range(KEYS)
    }


@pytest.mark.slow
def test_8_first_runs_at_once(project: Project) -> None:
    processes = [start(project) for _ in range(8)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]

    assert [process.returncode for process in processes] == [0] * 8, outputs
    runs = project.runs()
    assert [run.info.status for run in runs] == ["FINISHED"] * 8
    assert [points_in(project.store, run) for run in runs] == [expected()] * 8
    assert not (project.path / "mlflow-spool.db").exists()


def test_two_first_runs_at_once(project: Project) -> None:
    processes = [start(project) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]

    assert [process.returncode for process in processes] == [0] * 2, outputs
    assert [run.info.status for run in project.runs()] == ["FINISHED"] * 2


MAKE = "from {package}.tracking.sqlite import prepare; prepare('sqlite:///mlflow.db')"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_who_is_interrupted_leaves_no_half_made_store(project: Project, how: int) -> None:
    making = [PYTHON, "-c", MAKE.format(package=project.package)]
    process = subprocess.Popen(making, cwd=project.path, env=project.environment())
    new = project.path / ".mlflow.db-new"
    while not new.exists() or new.stat().st_size == 0:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(how)
    process.wait(30)
    assert not project.store.exists()

    project.kedro("run")

    assert [run.info.status for run in project.runs()] == ["FINISHED"]
    assert not new.exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_first_run_killed_at_any_moment(project: Project) -> None:
    for moment in range(12):
        process = start(project)
        time.sleep(0.8 + 0.2 * moment)
        process.kill()
        process.communicate()
        done = project.attempt(KEDRO, "run")
        assert done.returncode == 0, done.stdout + done.stderr
        assert project.runs()[-1].info.status == "FINISHED"
        project.store.unlink()


def refused(lab: Lab) -> str:
    with pytest.raises(click.ClickException) as caught:
        lab.run("everything", node_names=["a"])
    message = caught.value.format_message()
    assert "\n" not in message
    return message


def test_a_store_of_an_older_mlflow_is_told_and_left_as_it_is(lab: Lab) -> None:
    with closing(sqlite3.connect(lab.store)) as database, database:
        database.execute("DROP TABLE webhooks")  # a table that came late
        database.execute("UPDATE alembic_version SET version_num = '0584bdc529eb'")
    before = lab.store.read_bytes()

    message = refused(lab)

    assert "its tables (0584bdc529eb) are of an older MLflow than this one" in message
    assert f"save a copy and run `mlflow db upgrade sqlite:///{lab.store}`" in message
    assert lab.store.read_bytes() == before


def test_a_store_of_a_newer_mlflow_is_told(lab: Lab) -> None:
    with closing(sqlite3.connect(lab.store)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'fedcba987654'")

    message = refused(lab)

    assert "its tables (fedcba987654) are of a newer MLflow than this one" in message
    assert "pip install --upgrade mlflow" in message


def test_half_a_store_is_told(lab: Lab) -> None:
    with closing(sqlite3.connect(lab.store)) as database, database:
        database.execute("DROP TABLE alembic_version")

    assert "it has other tables than MLflow's, or half of them" in refused(lab)


def test_an_empty_file_becomes_a_store(lab: Lab) -> None:
    lab.store.write_bytes(b"")

    lab.run("everything", node_names=["a"])

    assert [run.info.status for run in lab.runs()] == ["FINISHED"]


def test_a_store_that_another_program_is_making(lab: Lab, empty_store: Path) -> None:
    """As `mlflow ui` does: version by version, in place."""
    with closing(sqlite3.connect(lab.store)) as database, database:
        (head,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        database.execute("UPDATE alembic_version SET version_num = '0584bdc529eb'")

    def finish() -> None:
        time.sleep(2)
        with closing(sqlite3.connect(lab.store)) as database, database:
            database.execute("UPDATE alembic_version SET version_num = ?", [head])

    with ThreadPoolExecutor(1) as pool:
        finishing = pool.submit(finish)
        lab.run("everything", node_names=["a"])
        finishing.result()

    assert [run.info.status for run in lab.runs()] == ["FINISHED"]


@contextmanager
def kedro_server(project: Project) -> Iterator[str]:
    port = free_port()
    command = [str(KEDRO), "server", "start", "--host=127.0.0.1", f"--port={port}"]
    log = (project.path / "server.log").open("w")
    process = subprocess.Popen(
        command, cwd=project.path, env=project.environment(), stdout=log, stderr=log
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{url}/health").close()
                break
            except OSError:
                assert process.poll() is None, Path(log.name).read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_16_requests_at_once_to_kedro_server(project: Project) -> None:
    """On a store that is not there yet; Kedro's run ids of so many are sometimes equal."""

    def post(number: int) -> dict[str, Any]:
        body = json.dumps({"params": {"pause": number / 1e9}}).encode()
        request = urllib.request.Request(
            f"{url}/run", data=body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            told: dict[str, Any] = json.load(answer)
            return told

    with kedro_server(project) as url, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(post, range(16)))

    assert [answer["status"] for answer in answers] == ["success"] * 16, answers
    runs = project.runs()
    assert [run.info.status for run in runs] == ["FINISHED"] * 16
    assert sorted(float(run.data.params["pause"]) for run in runs) == [n / 1e9 for n in range(16)]
    assert [points_in(project.store, run) for run in runs] == [expected()] * 16


@pytest.fixture
def small(project: Project, tmp_path: Path) -> Iterator[tuple[Project, list[str], str]]:
    """The project on a file system of 4 MB; where none can be mounted, with a quota as small.

    With it, what a command is to begin with, and what SQLite calls it.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    small = Project(Path(shutil.copytree(project.path, disk / "project")))
    try:
        if mounted:
            yield small, [], "database or disk is full"
        else:
            yield small, ["bash", "-c", 'ulimit -f 2000; exec "$@"', "-"], "disk I/O error"
    finally:
        if mounted:
            subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_told_at_once_and_what_was_written_stays(
    small: tuple[Project, list[str], str],
) -> None:
    project, limited, full = small
    project.write(
        "conf/local/mlflow.yml",
        f"tracking_uri: http://127.0.0.1:{free_port()}\non_outage: spool\n",
    )

    done = project.attempt(*limited, KEDRO, "run", "--params=yields=200")

    assert done.returncode == 1
    told = " ".join((done.stdout + done.stderr).split())
    assert full in told
    spool = project.path / "mlflow-spool.db"
    with closing(sqlite3.connect(f"file:{spool}?mode=ro", uri=True)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (points,) = database.execute("SELECT count(*) FROM metrics").fetchone()
    assert points >= 1000
