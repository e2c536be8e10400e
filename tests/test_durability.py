"""What ``save()`` has returned for is on disk within a second, whatever happens then."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click
import pytest
from faults import Server, outage_after
from helpers import KEDRO, Lab, Points, Process, Project, free_port, points_in, runs_in
from lab.tracking.delivery.outbox import Outbox, Request, RunEnd, choose_outbox
from lab.tracking.names import Tag
from lab.tracking.points import Point
from test_config import unwritable

# `make chaos` sets it.
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "5"))
# What the promise allows to be lost.
WINDOW_SECONDS = 1.0


class Diary:
    """What the pipeline ``timed`` has saved, and when."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def saved(self, before: float) -> list[int]:
        """The steps for which ``save()`` had returned before a time."""
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return [int(line[0]) for line in lines if len(line) == 2 and float(line[1]) < before]

    def has(self, steps: int) -> bool:
        return self.path.exists() and self.path.read_text().count("\n") >= steps


@pytest.fixture
def served(
    make_project: Callable[..., Project], store: Path, tmp_path: Path
) -> Iterator[tuple[Project, Server]]:
    """A project with the pipeline ``timed``, and a server that it writes to."""
    project = make_project("timed")
    project.store = store
    with Server(store, tmp_path) as server:
        project.write("conf/local/mlflow.yml", f"tracking_uri: {server.url}\n")
        yield project, server


def missing(
    project: Project, diary: Diary, before: float, name: str = "timed_metrics"
) -> list[int]:
    """The steps that were saved before a time and that the newest run does not have, each once."""
    runs = [run for run in runs_in(project.store) if Tag.PARENT_RUN not in run.data.tags]
    found: Points = points_in(project.store, runs[-1])
    for key in (f"{name}.loss", f"{name}.accuracy"):
        steps = [step for step, _ in found.get(key, [])]
        assert len(steps) == len(set(steps)), "a point is there twice"
        if lost := sorted(set(diary.saved(before)) - set(steps)):
            return lost
    return []


def sync(project: Project) -> str:
    return project.kedro("metrics", "sync").stdout


def started(project: Project, diary: Diary) -> Process:
    return project.started(KEDRO, "run", f"--params=diary={diary.path}")


def wait_for(process: Process, diary: Diary, steps: int) -> None:
    """Wait until so many steps have been saved."""
    process.wait_until(lambda: diary.has(steps))


@contextmanager
def silent(server: Server, state: str) -> Iterator[None]:
    """The server is hung, killed, restarted or none of these when the block begins.

    It answers when the block has ended.
    """
    if state == "hung":
        server.signal_group(signal.SIGSTOP)
    elif state != "none":
        server.stop(signal.SIGKILL)
    if state == "restarted":
        server.start()
    yield
    if state == "hung":
        server.signal_group(signal.SIGCONT)
    elif state == "killed":
        server.start()


@pytest.mark.slow
@pytest.mark.parametrize("state", ["hung", "killed"])
def test_a_killed_process_whose_server_does_not_answer_loses_at_most_a_second(
    served: tuple[Project, Server], tmp_path: Path, state: str
) -> None:
    project, server = served
    diary = Diary(tmp_path / "diary")
    with started(project, diary) as process:
        process.wait_until(lambda: diary.has(100))
        with silent(server, state):
            process.wait_until(lambda: diary.has(400))
            killed = time.time()
            process.signal_group(signal.SIGKILL)
            process.wait()
    sync(project)

    assert missing(project, diary, killed - WINDOW_SECONDS) == []
    assert [run.info.status for run in project.runs()] == ["KILLED"]


@pytest.mark.slow
@pytest.mark.parametrize("state", ["hung", "killed", "none"])
def test_a_process_that_is_told_to_end_waits_for_no_store(
    served: tuple[Project, Server], tmp_path: Path, state: str
) -> None:
    """A container has ten seconds from SIGTERM to SIGKILL."""
    project, server = served
    diary = Diary(tmp_path / "diary")
    with started(project, diary) as process:
        process.wait_until(lambda: diary.has(100))
        with silent(server, state):
            process.wait_until(lambda: diary.has(300))
            told = time.time()
            process.signal(signal.SIGTERM)
            assert process.wait(10) == -signal.SIGTERM, process.output
    sync(project)

    assert missing(project, diary, told) == []
    assert [run.info.status for run in project.runs()] == ["KILLED"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pipeline", "runner", "state", "number"),
    [
        ("timed_within", "SequentialRunner", "hung", signal.SIGTERM),
        ("timed", "ParallelRunner", "hung", signal.SIGTERM),
        ("timed", "ParallelRunner", "killed", signal.SIGINT),
    ],
    ids=["nested, sigterm", "workers, sigterm", "workers, ctrl-c"],
)
def test_nor_does_it_wait_for_the_store_of_nested_runs(  # noqa: PLR0917
    served: tuple[Project, Server],
    tmp_path: Path,
    pipeline: str,
    runner: str,
    state: str,
    number: signal.Signals,
) -> None:
    project, server = served
    project.add_pipeline("timed_within")
    diary = Diary(tmp_path / "diary")
    options = f"--pipelines={pipeline}", f"--runner={runner}", f"--params=diary={diary.path}"
    with project.started(KEDRO, "run", *options) as process:
        process.wait_until(lambda: diary.has(100))
        with silent(server, state):
            process.wait_until(lambda: diary.has(300))
            told = time.time()
            if number is signal.SIGINT:  # as a terminal sends it
                process.signal_group(number)
            else:
                process.signal(number)
            process.wait(10)
    sync(project)

    assert missing(project, diary, told - WINDOW_SECONDS, f"{pipeline}_metrics") == []
    assert {run.info.status for run in project.runs()} == {"KILLED"}, process.output


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_any_end_of_any_process_at_any_time(served: tuple[Project, Server], tmp_path: Path) -> None:
    """The server is killed, hung or started again, the process killed or told to end."""
    project, server = served
    dice = random.Random(ROUNDS)
    for number in range(ROUNDS):
        diary = Diary(tmp_path / f"diary{number}")
        fault = dice.choice(["killed", "hung", "restarted", "none"])
        end = dice.choice([signal.SIGKILL, signal.SIGTERM, None])
        with started(project, diary) as process:
            wait_for(process, diary, dice.randint(1, 200))
            with silent(server, fault):
                seen = len(diary.saved(time.time()))
                wait_for(process, diary, seen + dice.randint(1, 300))
                ended = time.time()
                if end is None:
                    # Its end may wait for the server for 20 s.
                    diary = Diary(diary.path.rename(diary.path.with_suffix(".kept")))
                    assert process.wait(120) == 0, process.output
                    ended = time.time() + WINDOW_SECONDS
                else:
                    send = process.signal_group if end is signal.SIGKILL else process.signal
                    send(end)
                    process.wait(60)
        sync(project)
        lost = missing(project, diary, ended - WINDOW_SECONDS)
        assert lost == [], (number, fault, end, process.output)
        print(f"{number}: server {fault}, process {end and end.name}: nothing missing")  # noqa: T201


@pytest.mark.slow
def test_after_an_outage_the_points_are_sent_while_the_node_goes_on(
    served: tuple[Project, Server], tmp_path: Path
) -> None:
    project, server = served
    diary = Diary(tmp_path / "diary")

    def points() -> int:
        with closing(sqlite3.connect(project.store, timeout=30)) as database:
            number: int = database.execute("SELECT count(*) FROM metrics").fetchone()[0]
            return number

    with started(project, diary) as process:
        process.wait_until(lambda: diary.has(50))
        server.signal_group(signal.SIGSTOP)
        process.wait_until(lambda: diary.has(300))
        server.signal_group(signal.SIGCONT)
        process.wait_until(lambda: points() > 2 * 300)
        saved = diary.path.rename(diary.path.with_suffix(".kept"))
        assert process.wait() == 0, process.output

    assert missing(project, Diary(saved), time.time()) == []
    assert [run.info.status for run in project.runs()] == ["FINISHED"]
    assert "Nothing to sync" in sync(project)


# Where the outbox is


def test_a_project_that_can_not_be_written_has_its_outbox_elsewhere(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    with unwritable(lab.path):
        lab.run("everything", node_names=["a"])
        outbox = choose_outbox(None, lab.path, "http://127.0.0.1:1")

    assert outbox is not None
    assert tmp_path / "state" in outbox.path.parents
    assert (
        f"{lab.path}/mlflow-spool.db can't be written; the outbox is {outbox.path}" in caplog.text
    )
    outbox.add("abc", Request([Point("k", 1.0, 0, 0)]))
    assert outbox.path.stat().st_mode & 0o777 == 0o600


def test_the_outbox_is_where_mlflow_yml_says(lab: Lab, tmp_path: Path) -> None:
    outbox = choose_outbox(str(tmp_path / "volume"), lab.path, "http://127.0.0.1:1")

    assert outbox == Outbox(tmp_path / "volume" / "mlflow-spool.db", "http://127.0.0.1:1")


def test_without_any_place_for_the_outbox_the_start_says_so(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    with unwritable(lab.path), unwritable(tmp_path / "state"):
        lab.run("everything", node_names=["a"])

    assert "Set 'outbox' in mlflow.yml to a folder that can be written" in caplog.text
    assert [run.info.status for run in lab.runs()] == ["FINISHED"]


@pytest.mark.slow
def test_a_run_that_must_deliver_ends_with_an_error_that_says_what_waits(
    lab: Lab, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lab.tracking.run import TrackedRun

    log_params = TrackedRun.log_params

    def then_stop(self: TrackedRun, parameters: dict[str, str]) -> None:
        log_params(self, parameters)
        server.stop(signal.SIGKILL)

    monkeypatch.setattr(TrackedRun, "log_params", then_stop)
    lab.configure(tracking_uri=server.url, require_delivery=True)

    waiting = pytest.raises(click.ClickException, match="is FINISHED, but 3 points of it wait in /")
    with outage_after(2), waiting:
        lab.run("everything", node_names=["a"])

    server.start()
    assert lab.sync()[0]
    (run,) = lab.runs()
    assert run.info.status == "FINISHED"


def test_a_run_that_must_deliver_and_began_in_the_outbox_ends_with_an_error(lab: Lab) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    lab.configure(tracking_uri=url, on_outage="spool", require_delivery=True)

    waits = f"is FINISHED, but it waits in {re.escape(str(lab.outbox))}; 'require_delivery'"
    with pytest.raises(click.ClickException, match=waits):
        lab.run("everything", node_names=["a"])

    assert [run.info.status for run in runs_in(lab.outbox)] == ["FINISHED"]


# The outbox itself


def test_what_waits_is_given_back_as_it_was(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "mlflow-spool.db", "http://joe:hunter2@127.0.0.1:5000")
    requests = [
        Request([Point("k", float("inf"), 0, 1, None), Point("ä", -0.0, -3, 2, "model")]),
        Request(params={"a": "1"}),
        Request(end=RunEnd("FAILED", 3, "ValueError: x")),
    ]
    for request in requests:
        outbox.add("run", request)
        outbox.add("other", Request(params={"b": "2"}))

    found = [request for _, request in outbox.waiting("run")]
    assert [request.to_json() for request in found] == [each.to_json() for each in requests]
    assert found[0].points == requests[0].points
    assert [run_id for _, run_id in outbox.runs()] == ["run", "other"]
    assert b"hunter2" not in outbox.path.read_bytes()
    first, *others = [number for number, _ in outbox.waiting("run")]
    outbox.remove([first])
    assert [number for number, _ in outbox.waiting("run")] == others
    assert outbox.discard("other") == 3
    assert [run_id for _, run_id in outbox.runs()] == ["run"]


def test_a_file_that_is_gone_is_not_made_again_by_what_has_been_sent(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "mlflow-spool.db", "http://127.0.0.1:5000")
    outbox.add("run", Request(params={"a": "1"}))
    ((number, _),) = outbox.waiting("run")
    outbox.path.unlink()

    outbox.remove([number])

    assert not outbox.path.exists()
    outbox.add("run", Request(params={"a": "1"}))
    assert outbox.path.stat().st_mode & 0o777 == 0o600


def test_many_requests_are_read_in_parts_and_in_order(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "mlflow-spool.db", "http://127.0.0.1:5000")
    for step in range(450):
        outbox.add("run", Request([Point("k", 1.0, step, 0)]))

    steps = [request.points[0].step for request in outbox.all_waiting("run")]

    assert steps == list(range(450))


def test_nothing_waits_where_there_is_no_file(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "mlflow-spool.db", "http://127.0.0.1:5000")

    assert outbox.runs() == []
    assert list(itertools.islice(outbox.all_waiting("run"), 1)) == []
    assert not outbox.path.exists()
