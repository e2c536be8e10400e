"""The end of an MLflow run is the truth, however the Kedro run ends."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
from conftest import KEDRO, STARTER, Lab, Project, points_in, runs_in
from kedro.framework.hooks import hook_impl
from kedro.runner import ThreadRunner
from mlflow import MlflowClient

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
def test_an_error_of_a_node_is_told_and_keeps_what_was_saved(
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
    lab.run("ends", params={"end": "well"})
    assert sorted(run.info.status for run in lab.runs()) == ["FINISHED", "RUNNING"]
    del kept
    closed()

    killed, finished = sorted(lab.runs(), key=lambda run: str(run.info.status), reverse=True)
    assert (killed.info.status, finished.info.status) == ("KILLED", "FINISHED")
    assert points_in(lab.store, killed) == BEFORE
    assert points_in(lab.store, finished) == BOTH
    assert mlflow.active_run() is None


def test_an_error_with_odd_bytes_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.pipelines import ends

    def fail(*arguments: Any) -> None:
        raise ValueError("bad file caf\udce9.csv")

    monkeypatch.setattr(ends.sys, "exit", fail)
    # Kedro logs the error, and pytest-xdist can't pass such a text on.
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)

    with pytest.raises(ValueError, match="bad file"):
        lab.run("ends", params={"end": "exit"})

    (run,) = lab.runs()
    assert run.info.status == "FAILED"
    assert run.data.tags["kedro.error"] == "ValueError: bad file caf?.csv"


def test_the_next_run_is_one_of_its_own(lab: Lab) -> None:
    with pytest.raises(ValueError, match="the data is gone"):
        lab.run("ends", params={"end": "error"})
    lab.run("ends", params={"end": "well"})

    assert [run.info.status for run in lab.runs()] == ["FAILED", "FINISHED"]


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
    def register(manager: Any, hooks: Any) -> None:
        for hook in (*hooks, _Failing(event))[::order]:
            manager.register(hook)

    monkeypatch.setattr("kedro.framework.session.session._register_hooks", register)

    with pytest.raises(RuntimeError, match="another hook fails"):
        lab.run("ends", params={"end": "well"})

    (run,) = lab.runs()
    assert run.info.status == "FAILED"
    assert run.data.tags["kedro.error"] == "RuntimeError: another hook fails"


@pytest.fixture
def given(lab: Lab) -> str:
    """The id of an MLflow run that somebody else has opened."""
    return str(MlflowClient(f"sqlite:///{lab.store}").create_run("0").info.run_id)


@pytest.mark.parametrize("how", ["parameter", "environment", "active"])
@pytest.mark.parametrize("end", ["well", "error"])
def test_a_run_that_was_given_is_used_and_left_open(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, given: str, how: str, end: str
) -> None:
    params = {"end": end}
    if how == "parameter":
        params["mlflow_run_id"] = given
    elif how == "environment":
        monkeypatch.setenv("MLFLOW_RUN_ID", given)
    else:
        mlflow.set_tracking_uri(f"sqlite:///{lab.store}")
        monkeypatch.delenv("MLFLOW_TRACKING_URI")  # set_tracking_uri has set it
        mlflow.start_run(given)

    try:
        lab.run("ends", params=params)
    except ValueError:
        assert end == "error"

    if how == "active":
        active = mlflow.active_run()
        assert active is not None
        assert active.info.run_id == given
    (run,) = lab.runs()
    assert run.info.run_id == given
    assert run.info.status == "RUNNING"
    assert points_in(lab.store, run) == (BOTH if end == "well" else BEFORE)


def test_the_parameter_comes_before_the_environment(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)

    lab.run("ends", params={"end": "well", "mlflow_run_id": given})

    assert [run.info.run_id for run in lab.runs()] == [given]


@pytest.mark.parametrize("run_id", ["0" * 32, "no such run", "../../etc"])
def test_a_run_that_does_not_exist_is_told(lab: Lab, run_id: str) -> None:
    with pytest.raises(Exception, match=r"has no run .*runtime parameter mlflow_run_id"):
        lab.run("ends", params={"end": "well", "mlflow_run_id": run_id})

    assert lab.runs() == []


def test_a_deleted_run_is_told(lab: Lab, given: str) -> None:
    MlflowClient(f"sqlite:///{lab.store}").delete_run(given)

    with pytest.raises(Exception, match="is deleted; restore it"):
        lab.run("ends", params={"end": "well", "mlflow_run_id": given})


def _start(lab: Lab, runner: str, signal_file: Path) -> subprocess.Popen[str]:
    """`kedro run` in a process of its own, which waits inside its second node for a signal."""
    project = Project(lab.path)
    process = subprocess.Popen(
        [
            KEDRO,
            "run",
            "--pipelines=ends",
            f"--runner={runner}",
            f"--params=end=wait:{signal_file}",
            f"--conf-source={lab.conf}",
        ],
        cwd=lab.path,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not signal_file.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("runner", ["SequentialRunner", "ThreadRunner", "ParallelRunner"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_kills_the_run_and_the_process(
    lab: Lab, tmp_path: Path, runner: str, number: signal.Signals
) -> None:
    waiting = tmp_path / "waiting"
    process = _start(lab, runner, waiting)

    # Ctrl-C in a terminal goes to the group of processes, SIGTERM to the one that is meant.
    if number is signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    saved = BEFORE
    if runner == "ThreadRunner" and number is signal.SIGINT:
        waiting.unlink()  # Kedro waits for its threads, which end what they do
        saved = BOTH
    process.wait(timeout=60)
    with contextlib.suppress(ProcessLookupError):  # workers that SIGTERM has made orphans
        os.killpg(process.pid, signal.SIGKILL)
    output = process.communicate(timeout=10)[0]

    # Without the hook: Click's "Aborted!" and 1 for Ctrl-C, death by SIGTERM.
    assert process.returncode == (1 if number is signal.SIGINT else -signal.SIGTERM), output
    (run,) = runs_in(lab.store)
    assert run.info.status == "KILLED"
    assert points_in(lab.store, run) == saved


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
    process = subprocess.Popen([sys.executable, script], env=Project(lab.path).environment())
    while not (tmp_path / "waiting").exists():
        assert process.poll() is None
        time.sleep(0.05)

    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=20) == -signal.SIGTERM
    assert [run.info.status for run in lab.runs()] == ["KILLED"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("runner", ["SequentialRunner", "ThreadRunner", "ParallelRunner"])
def test_a_signal_at_any_moment(bake: Any, store: Path, tmp_path: Path, runner: str) -> None:
    """Never RUNNING afterwards, and nothing is missing that was saved."""
    project = Project(bake(include_example="no"))
    shutil.copy(store, project.store)
    stream = (STARTER / "tests/lab/slow_stream.py").read_text()
    project.write("src/PACKAGE/pipelines/slow_stream/__init__.py", stream)
    dice = random.Random(runner)
    seen = 0
    for moment in range(20):
        diary = tmp_path / f"diary{moment}"
        number = (signal.SIGINT, signal.SIGTERM)[moment % 2]
        process = subprocess.Popen(
            [KEDRO, "run", f"--runner={runner}", f"--params=diary={diary}"],
            cwd=project.path,
            env=project.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # From before MLflow is imported to after the last point.
        pause = dice.uniform(0.3, 1.2) if moment < 5 else 0
        while not pause and not diary.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(pause or dice.uniform(0, 4))
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGINT:  # as a terminal sends it
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            # Ctrl-C just when ParallelRunner, before any hook, starts its multiprocessing manager:
            # Python's exit waits for that (multiprocessing.util._exit_function). One presses again.
            os.killpg(process.pid, signal.SIGINT)
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):  # its workers outlive it
            os.killpg(process.pid, signal.SIGKILL)
        runs = project.runs()
        assert {run.info.status for run in runs} <= {"KILLED", "FINISHED"}, moment
        if len(runs) > seen:
            seen = len(runs)
            saved = diary.read_text().split() if diary.exists() else []
            points = points_in(project.store, runs[-1]).get("diary_metrics.loss", [])
            steps = [step for step, _ in points]
            assert steps == list(range(len(steps))), moment
            assert len(steps) >= len(saved), moment
    assert seen >= 10
