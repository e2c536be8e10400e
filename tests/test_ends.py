"""The end of an MLflow run is the truth, however the Kedro run ends."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pytest
from databases import unavailable
from helpers import (
    KEDRO,
    Lab,
    Project,
    points_in,
    register_hooks,
    runs_in,
    wait_until,
    waiting_in,
)
from kedro.framework.hooks import hook_impl
from kedro.runner import ThreadRunner
from lab.tracking.process.state import process_state
from mlflow import MlflowClient
from mlflow.entities import Run

BEFORE = {"before_metrics.score": [(0, 0.5)]}
BOTH = {**BEFORE, "after_metrics.score": [(0, 1.0)]}


def test_a_good_run_is_finished(lab: Lab) -> None:
    lab.run("ends", params={"end": "well"})

    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    assert "kedro.error" not in run.data.tags
    assert mlflow.active_run() is None
    assert lab.points() == BOTH


@pytest.mark.parametrize("runner", [None, ThreadRunner])
def test_an_error_of_a_node_is_recorded_and_keeps_what_was_saved(
    lab: Lab, caplog: pytest.LogCaptureFixture, runner: Any
) -> None:
    with pytest.raises(ValueError, match="the data is gone"):
        lab.run("ends", params={"end": "error"}, runner=runner and runner())

    (run,) = lab.runs()
    assert run.info.status == "FAILED"
    assert run.data.tags["kedro.error"] == "ValueError: the data is gone: https://example.com/data"
    assert mlflow.active_run() is None
    assert lab.points() == BEFORE
    assert '--from-nodes "measure"' in caplog.text  # Kedro's hint for resuming


def closed() -> None:
    """Wait for runs that nobody holds any more to be closed, which a thread does."""
    for thread in threading.enumerate():
        if thread.name == "mlflow-killed":
            thread.join()


@pytest.mark.parametrize("end", ["interrupt", "exit"])
def test_an_interruption_that_the_caller_survives_is_killed(lab: Lab, end: str) -> None:
    with pytest.raises((KeyboardInterrupt, SystemExit)) as caught:
        lab.run("ends", params={"end": end})
    del caught  # with its traceback goes the catalog: the Kedro run is over
    closed()

    (run,) = lab.runs()
    assert run.info.status == "KILLED"
    assert mlflow.active_run() is None
    assert lab.points() == BEFORE


def test_after_an_interruption_in_a_notebook_the_next_run_is_one_of_its_own(lab: Lab) -> None:
    with pytest.raises(KeyboardInterrupt) as kept:  # as IPython keeps the last traceback
        lab.run("ends", params={"end": "interrupt"})
    assert [run.info.status for run in lab.runs()] == ["RUNNING"]
    lab.run("ends", params={"end": "well"})
    del kept

    killed, finished = lab.runs()
    assert killed.info.end_time <= finished.info.start_time
    assert (killed.info.status, finished.info.status) == ("KILLED", "FINISHED")
    assert points_in(lab.store, killed) == BEFORE
    assert points_in(lab.store, finished) == BOTH
    assert mlflow.active_run() is None


def test_an_error_with_odd_bytes_is_recorded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise ValueError("bad file caf\udce9.csv")

    monkeypatch.setattr("lab.pipelines.ends.sys.exit", fail)
    # Kedro logs the error, and pytest-xdist can't pass such a text on.
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)

    with pytest.raises(ValueError, match="bad file"):
        lab.run("ends", params={"end": "exit"})

    (run,) = lab.runs()
    assert run.info.status == "FAILED"
    assert run.data.tags["kedro.error"] == "ValueError: bad file caf?.csv"


class Wordless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("runner", [None, ThreadRunner])
def test_an_error_without_a_text_is_recorded(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, runner: Any
) -> None:
    def fail(*arguments: Any) -> None:
        raise Wordless

    monkeypatch.setattr("lab.pipelines.ends.sys.exit", fail)

    with pytest.raises((Wordless, RuntimeError)):
        lab.run("ends", params={"end": "exit"}, runner=runner and runner())

    (run,) = lab.runs()
    assert run.info.status == "FAILED"
    assert run.data.tags["kedro.error"].startswith(("Wordless, whose text", "RuntimeError: no"))
    assert mlflow.active_run() is None


def test_an_error_of_another_hook_without_a_text_is_recorded(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        @hook_impl
        def after_pipeline_run(self) -> None:
            raise Wordless

    register_hooks(monkeypatch, Failing())

    with pytest.raises(RuntimeError, match="no words"):  # of Kedro's, which logs the error
        lab.run("ends", params={"end": "well"})

    (run,) = lab.runs()
    assert run.info.status == "FAILED"
    assert run.data.tags["kedro.error"] == "Wordless, whose text can't be had (RuntimeError)"


def test_the_next_run_is_one_of_its_own(lab: Lab) -> None:
    with pytest.raises(ValueError, match="the data is gone"):
        lab.run("ends", params={"end": "error"})
    lab.run("ends", params={"end": "well"})

    assert [run.info.status for run in lab.runs()] == ["FAILED", "FINISHED"]


def test_the_end_says_where_the_charts_are(
    lab: Lab,
    make_store: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def end_of_run(store: Path) -> str:
        lab.store = store
        lab.configure(tracking_uri=f"sqlite:///{store}")
        capsys.readouterr()
        lab.run("ends", params={"end": "well"})
        info = lab.runs()[-1].info
        *_, what, page = capsys.readouterr().out.splitlines()
        end = f"#/experiments/{info.experiment_id}/runs/{info.run_id}/model-metrics"
        assert page == f"http://127.0.0.1:5000/{end}?workflowType=machine_learning"
        return what

    assert end_of_run(lab.store) == "Its charts, with `kedro metrics ui`:"
    assert end_of_run(make_store("the other's.db")) == "Its charts, with `kedro metrics ui`:"


class _Failing:
    def __init__(self, event: str) -> None:
        self.event = event

    @hook_impl
    def before_pipeline_run(self) -> None:
        if self.event == "before_pipeline_run":
            raise RuntimeError("another hook fails")

    @hook_impl
    def after_pipeline_run(self) -> None:
        if self.event == "after_pipeline_run":
            raise RuntimeError("another hook fails")


@pytest.mark.parametrize("event", ["before_pipeline_run", "after_pipeline_run"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_failure_of_another_hook_leaves_no_run_open(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, event: str, order: int
) -> None:
    register_hooks(monkeypatch, _Failing(event), order=order)

    with pytest.raises(RuntimeError, match="another hook fails"):
        lab.run("ends", params={"end": "well"})

    (run,) = lab.runs()
    assert run.info.status == "FAILED"
    assert run.data.tags["kedro.error"] == "RuntimeError: another hook fails"


@pytest.fixture
def external(lab: Lab) -> str:
    """The id of an MLflow run that somebody else has opened."""
    return str(MlflowClient(f"sqlite:///{lab.store}").create_run("0").info.run_id)


@pytest.mark.parametrize("how", ["parameter", "environment", "active"])
@pytest.mark.parametrize("end", ["well", "error"])
def test_an_external_run_is_used_and_left_open(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, external: str, how: str, end: str
) -> None:
    params = {"end": end}
    if how == "parameter":
        params["mlflow_run_id"] = external
    elif how == "environment":
        monkeypatch.setenv("MLFLOW_RUN_ID", external)
    else:
        mlflow.set_tracking_uri(f"sqlite:///{lab.store}")
        monkeypatch.delenv("MLFLOW_TRACKING_URI")  # set_tracking_uri has set it
        mlflow.start_run(external)

    try:
        lab.run("ends", params=params)
    except ValueError:
        assert end == "error"

    if how == "active":
        active = mlflow.active_run()
        assert active is not None
        assert active.info.run_id == external
    (run,) = lab.runs()
    assert run.info.run_id == external
    assert run.info.status == "RUNNING"
    assert points_in(lab.store, run) == (BOTH if end == "well" else BEFORE)


def test_an_external_run_that_is_mended_has_no_error(lab: Lab, external: str) -> None:
    with pytest.raises(ValueError, match="the data is gone"):
        lab.run("ends", params={"end": "error", "mlflow_run_id": external})
    assert "the data is gone" in lab.runs()[0].data.tags["kedro.error"]

    lab.run("ends", params={"end": "well", "mlflow_run_id": external})

    assert "kedro.error" not in lab.runs()[0].data.tags


def test_the_parameter_comes_before_the_environment(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, external: str
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)

    lab.run("ends", params={"end": "well", "mlflow_run_id": external})

    assert [run.info.run_id for run in lab.runs()] == [external]


@pytest.mark.parametrize("run_id", ["0" * 32, "no such run", "../../etc"])
def test_a_run_that_does_not_exist_is_an_error(lab: Lab, run_id: str) -> None:
    with pytest.raises(Exception, match=r"has no run .*runtime parameter mlflow_run_id"):
        lab.run("ends", params={"end": "well", "mlflow_run_id": run_id})

    assert lab.runs() == []


def test_a_deleted_run_is_an_error(lab: Lab, external: str) -> None:
    MlflowClient(f"sqlite:///{lab.store}").delete_run(external)

    with pytest.raises(Exception, match="is deleted; restore it"):
        lab.run("ends", params={"end": "well", "mlflow_run_id": external})


@pytest.mark.parametrize("runner", ["SequentialRunner", "ThreadRunner", "ParallelRunner"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_kills_the_run_and_the_process(
    lab: Lab, tmp_path: Path, runner: str, number: signal.Signals
) -> None:
    waiting = tmp_path / "waiting"
    saved = BEFORE
    options = f"--runner={runner}", f"--params=end=wait:{waiting}"
    with lab.command("ends", *options) as process:
        process.wait_until(waiting.exists)

        # Ctrl-C in a terminal goes to the group of processes, SIGTERM to the one that is meant.
        if number is signal.SIGINT:
            process.signal_group(number)
        else:
            process.signal(number)
        if runner == "ThreadRunner" and number is signal.SIGINT:
            waiting.unlink()  # Kedro waits for its threads, which end what they do
            saved = BOTH
        status = process.wait()

    # Without the hook: Click's "Aborted!" and 1 for Ctrl-C, death by SIGTERM.
    assert status == (1 if number is signal.SIGINT else -signal.SIGTERM), process.output
    (run,) = runs_in(lab.store)
    assert run.info.status == "KILLED"
    assert points_in(lab.store, run) == saved


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT], ids=["hangup", "quit"])
def test_a_closed_terminal_kills_the_run_and_the_process(
    lab: Lab, tmp_path: Path, number: signal.Signals
) -> None:
    waiting = tmp_path / "waiting"
    with lab.command("ends", f"--params=end=wait:{waiting}") as process:
        process.wait_until(waiting.exists)

        process.signal(number)

        assert process.wait(20) == -number, process.output
    (run,) = lab.runs()
    assert run.info.status == "KILLED"
    assert lab.points() == BEFORE


def as_first_process() -> list[str]:
    """What a command is to begin with to be process 1, as in a container."""
    for options in (["-pf"], ["-Urpf"]):
        unshare = ["unshare", *options, "--mount-proc"]
        with suppress(FileNotFoundError):
            if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode == 0:
                return unshare
    unavailable("needs unshare(1), and the right to make namespaces")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT], ids=["sigterm", "quit"])
def test_a_signal_ends_the_first_process_of_a_container(
    lab: Lab, tmp_path: Path, number: signal.Signals
) -> None:
    waiting = tmp_path / "waiting"
    options = f"--conf-source={lab.conf}", f"--params=end=wait:{waiting}"
    command = [*as_first_process(), str(KEDRO), "run", "--pipelines=ends", *options]
    with Project(lab.path).started(*command) as process:
        process.wait_until(waiting.exists)
        pid = process.running.pid
        (first,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

        os.kill(int(first), number)

        assert process.wait(20) == 128 + number, process.output
    (run,) = lab.runs()
    assert run.info.status == "KILLED"
    assert lab.points() == BEFORE


def test_a_script_that_handles_sigterm_itself_goes_on_doing_so(lab: Lab) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        lab.run("ends", params={"end": "well"})
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_after_a_run_signals_are_as_before(lab: Lab) -> None:
    lab.run("ends", params={"end": "well"})

    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1


def test_sigterm_during_a_long_call_into_c(lab: Lab, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import hashlib, sys
sys.path.insert(0, {str(lab.path / "src")!r})
from pathlib import Path
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
import lab.pipelines.ends as ends

bootstrap_project(Path({str(lab.path)!r}))
def wait(measured, end):
    Path({str(tmp_path / "waiting")!r}).touch()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)  # without the GIL; no Python handler runs
    return {{"score": 1.0}}
ends.end = wait
with KedroSession.create(conf_source={str(lab.conf)!r}, project_path={str(lab.path)!r},
                         runtime_params={{"end": "wait"}}) as session:
    session.run(pipeline_names=["ends"])
"""
    )
    with Project(lab.path).started(sys.executable, script) as process:
        process.wait_until((tmp_path / "waiting").exists)

        process.signal(signal.SIGTERM)

        assert process.wait(20) == -signal.SIGTERM
    assert [run.info.status for run in lab.runs()] == ["KILLED"]


def test_signals_are_watched_for_by_the_main_threads_run_though_another_threads_came_first(
    lab: Lab,
) -> None:
    state, uri = process_state(), f"sqlite:///{lab.store}"
    other = threading.Thread(target=state.begin_tracking, args=(uri, {}, "other"))
    other.start()
    other.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    state.begin_tracking(uri, {}, "main")
    is_watched = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    state.end_tracking("other")
    state.end_tracking("main")

    assert is_watched
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_while_an_event_loop_has_the_wakeup_fd(lab: Lab, tmp_path: Path) -> None:
    waiting = tmp_path / "waiting"
    with lab.command("ends", f"--params=end=loop:{waiting}") as process:
        process.wait_until(waiting.exists)

        process.signal(signal.SIGTERM)

        assert process.wait(20) == -signal.SIGTERM, process.output
    (run,) = lab.runs()
    assert run.info.status == "KILLED"
    assert lab.points() == BEFORE


@pytest.mark.slow
@pytest.mark.parametrize(("child", "status"), [("exit", 7), ("sigterm", -signal.SIGTERM)])
def test_the_end_of_a_forked_process_is_not_the_end_of_the_run(
    lab: Lab, child: str, status: int
) -> None:
    with lab.command("forks", f"--params=child={child}") as process:
        assert process.wait() == 0, process.output

    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    assert lab.points() == {
        "parent_metrics.score": [(0, 0.5)],
        "child_metrics.status": [(0, status)],
    }


INTERRUPTED = """
%load_ext kedro.ipython
%reload_kedro --params=end=interrupt
from mlflow import MlflowClient
from mlflow.entities import Run
try:
    session.run(pipeline_names=["ends"])
except KeyboardInterrupt as interrupt:
    KEEP
%reload_kedro --params=end=END
print("STATUS", [run.info.status for run in MlflowClient("sqlite:///mlflow.db").search_runs(["1"])])
session.run(pipeline_names=["ends"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["kept = interrupt", "pass"], ids=["kept", "dropped"])
def test_after_ctrl_c_and_reload_kedro_the_next_run_is_one_of_its_own(
    make_project: Callable[..., Project], tmp_path: Path, keep: str
) -> None:
    """The interrupted run is kept by its traceback, as IPython keeps the last one, or it is not."""
    project = make_project("ends")
    waiting = tmp_path / "waiting"
    notebook = tmp_path / "notebook.ipy"
    notebook.write_text(INTERRUPTED.replace("KEEP", keep).replace("END", f"wait:{waiting}"))

    command = (sys.executable, "-m", "IPython", notebook)
    with project.started(*command, IPYTHONDIR=str(tmp_path / "ipython")) as process:
        process.wait_until(waiting.exists)
        interrupted, running = project.runs()
        process.signal(signal.SIGTERM)
        status = process.wait()

    assert "STATUS ['KILLED']" in process.output
    assert (interrupted.info.status, running.info.status) == ("KILLED", "RUNNING")
    assert status == -signal.SIGTERM, process.output
    assert [run.info.status for run in project.runs()] == ["KILLED", "KILLED"]
    assert [points_in(project.store, run) for run in project.runs()] == [BEFORE, BEFORE]


def delivered(project: Project) -> list[Run]:
    """The runs, with what waits in the outbox: no process that is told to end waits for long.

    On a busy machine an SQLite file may take longer to confirm all that is left, too.
    """
    if project.outbox.exists() and waiting_in(project.outbox):
        project.kedro("metrics", "sync")
    return project.runs()


def points_of_diary(project: Project, number: int) -> list[tuple[int, float]]:
    """Those of the last run, if there are so many."""
    points = points_in(project.store, delivered(project)[-1]).get("diary_metrics.loss", [])
    return points if len(points) >= number else []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("runner", ["SequentialRunner", "ThreadRunner", "ParallelRunner"])
def test_a_signal_at_any_moment(
    make_project: Callable[..., Project], tmp_path: Path, runner: str
) -> None:
    """Never RUNNING afterwards, and nothing is missing that was saved."""
    project = make_project("slow_stream")
    dice = random.Random(runner)
    seen = 0
    for moment in range(20):
        diary = tmp_path / f"diary{moment}"
        with project.started(
            KEDRO, "run", f"--runner={runner}", f"--params=diary={diary}"
        ) as process:
            # From before MLflow is imported to after the last point.
            pause = dice.uniform(0.3, 1.2) if moment < 5 else 0
            while not pause and not diary.exists() and process.running.poll() is None:
                time.sleep(0.01)
            time.sleep(pause or dice.uniform(0, 4))
            if moment % 3 == 0:  # as a terminal sends it
                process.signal_group(signal.SIGINT)
            elif moment % 3 == 1:  # a container
                process.signal(signal.SIGTERM)
            else:  # a scheduler
                process.signal_group(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                # Ctrl-C just when ParallelRunner, before any hook, starts its multiprocessing
                # manager: Python's exit waits for that (multiprocessing.util._exit_function).
                # One presses again.
                process.signal_group(signal.SIGINT)
                process.wait(30)
            runs = delivered(project)
            assert {run.info.status for run in runs} <= {"KILLED", "FINISHED"}, moment
            if len(runs) > seen:
                seen = len(runs)
                saved = diary.read_text().split() if diary.exists() else []
                # A worker that has got no signal goes on, and writes within a second; at the end of
                # this block it is killed.
                written = wait_until(partial(points_of_diary, project, len(saved))) if saved else []
                assert [step for step, _ in written] == list(range(len(written))), moment
    assert seen >= 10
