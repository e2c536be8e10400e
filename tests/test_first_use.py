"""A store that is not there yet, or is another MLflow's; many processes at once."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest
from helpers import (
    FLOW_YIELDS,
    KEDRO,
    HttpProcess,
    Lab,
    Project,
    flat,
    flow_points,
    free_port,
    points_in,
    run_at_once,
    wait_until,
)
from lab.tracking.delivery.outbox import Outbox
from lab.tracking.store.sqlite import make_or_check

PYTHON = sys.executable


@pytest.mark.slow
def test_8_first_runs_at_once(project: Project) -> None:
    run_at_once(project, 8)

    runs = project.runs()
    assert [run.info.status for run in runs] == ["FINISHED"] * 8
    points = [points_in(project.store, run) for run in runs]
    assert points == [flow_points(FLOW_YIELDS)] * 8
    # What the busy store did not confirm in time was there, and has been sent.
    assert Outbox(project.outbox, f"sqlite:///{project.store}").runs() == []


@pytest.mark.slow
def test_two_first_runs_at_once(project: Project) -> None:
    run_at_once(project, 2)

    assert [run.info.status for run in project.runs()] == ["FINISHED"] * 2


MAKE = """
from {package}.tracking.store.mlflow_store import MlflowStore
MlflowStore("sqlite:///mlflow.db").open()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_who_is_interrupted_leaves_no_half_made_store(project: Project, how: int) -> None:
    new = project.path / ".mlflow.db-new"
    with project.started(PYTHON, "-c", MAKE.format(package=project.package)) as process:
        process.wait_until(lambda: new.exists() and new.stat().st_size)
        process.signal(how)
        process.wait(30)
    assert not project.store.exists()

    project.kedro("run")

    assert [run.info.status for run in project.runs()] == ["FINISHED"]
    assert not new.exists()


def test_ctrl_c_twice_in_a_first_run_leaves_no_half_made_store(project: Project) -> None:
    new = project.path / ".mlflow.db-new"
    with project.started(KEDRO, "run") as process:
        process.wait_until(lambda: new.exists() and new.stat().st_size)
        process.signal(signal.SIGINT)
        wait_until(lambda: project.store.exists() or process.running.poll() is not None)
        process.signal(signal.SIGINT)
        process.wait()

    # Python drops the first Ctrl-C if it comes in a finalizer: then the store is made, and whole.
    assert not project.store.exists() or make_or_check(project.store) is None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_first_run_killed_at_any_moment(project: Project) -> None:
    """Before there is a file of the store, while it is made, and after."""
    dice = random.Random(0)
    new = project.path / ".mlflow.db-new"
    for moment in range(12):
        with project.started(KEDRO, "run") as process:
            if moment > 1:
                process.wait_until(lambda: new.exists() or project.store.exists())
            time.sleep(dice.uniform(0, 2))
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


def test_a_store_of_an_older_mlflow_is_refused_and_left_as_it_is(lab: Lab) -> None:
    with closing(sqlite3.connect(lab.store)) as database, database:
        database.execute("DROP TABLE webhooks")  # a table that came late
        database.execute("UPDATE alembic_version SET version_num = '0584bdc529eb'")
    before = lab.store.read_bytes()

    message = refused(lab)

    assert "its tables (0584bdc529eb) are of an older MLflow than this one" in message
    assert "run `kedro metrics upgrade`, which saves a copy" in message
    assert lab.store.read_bytes() == before


def test_a_store_of_a_newer_mlflow_is_refused(lab: Lab) -> None:
    with closing(sqlite3.connect(lab.store)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'fedcba987654'")

    message = refused(lab)

    assert "its tables (fedcba987654) are of a newer MLflow than this one" in message
    assert "pip install --upgrade mlflow" in message


def test_half_a_store_is_refused(lab: Lab) -> None:
    with closing(sqlite3.connect(lab.store)) as database, database:
        database.execute("DROP TABLE alembic_version")

    assert "it has other tables than MLflow's, or half of them" in refused(lab)


def test_an_empty_file_becomes_a_store(lab: Lab) -> None:
    lab.store.write_bytes(b"")

    lab.run("everything", node_names=["a"])

    assert [run.info.status for run in lab.runs()] == ["FINISHED"]


def test_a_store_that_another_program_is_making(lab: Lab) -> None:
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


def kedro_server(project: Project) -> HttpProcess:
    port = free_port()
    return HttpProcess(
        [KEDRO, "server", "start", "--host=127.0.0.1", f"--port={port}"],
        f"http://127.0.0.1:{port}",
        project.path / "server.log",
        project.path,
        project.environment(),
    )


@pytest.mark.slow
def test_16_requests_at_once_to_kedro_server(project: Project) -> None:
    """On a store that is not there yet; Kedro's run ids of so many are sometimes equal."""

    def post(number: int) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{server.url}/run",
            data=json.dumps({"params": {"pause": number / 1e9}}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            body: dict[str, Any] = json.load(answer)
            return body

    with kedro_server(project) as server, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(post, range(16)))

    assert [answer["status"] for answer in answers] == ["success"] * 16, answers
    runs = project.runs()
    assert [run.info.status for run in runs] == ["FINISHED"] * 16
    assert sorted(float(run.data.params["pause"]) for run in runs) == [n / 1e9 for n in range(16)]
    assert [points_in(project.store, run) for run in runs] == [flow_points(FLOW_YIELDS)] * 16


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


@pytest.mark.slow
def test_a_full_disk_is_raised_at_once_and_what_was_written_stays(
    small: tuple[Project, list[str], str],
) -> None:
    project, limited, full = small
    project.write(
        "conf/local/mlflow.yml",
        f"tracking_uri: http://127.0.0.1:{free_port()}\non_outage: spool\n",
    )

    done = project.attempt(*limited, KEDRO, "run", "--params=yields=200")

    assert done.returncode == 1
    assert full in flat(done.stdout + done.stderr)
    outbox = f"file:{project.outbox}?mode=ro"
    with closing(sqlite3.connect(outbox, uri=True)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (points,) = database.execute("SELECT count(*) FROM metrics").fetchone()
    assert points >= 1000
