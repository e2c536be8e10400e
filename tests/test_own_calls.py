"""The MLflow calls of nodes, datasets and other hooks go to the run, wherever they are made."""

from __future__ import annotations

import copy
import importlib
import json
import os
import pickle
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import mlflow
import pytest
from helpers import (
    BESIDE,
    Lab,
    examples,
    points_in,
    register_hooks,
    runs_in,
    wait_until,
)
from kedro.framework.hooks import hook_impl
from kedro.framework.session import KedroServiceSession
from kedro.io import AbstractDataset
from kedro.runner import ParallelRunner, SequentialRunner, ThreadRunner
from lab.tracking import MlflowMetricsDataset
from lab.tracking.config import current_config
from lab.tracking.process.mlflow_globals import user_environment
from lab.tracking.process.state import process_state
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.tracking import fluent

NO_GENERATOR = ["first_act", "second_act"]
GENERATOR = ["stream_act", "third_act"]
RUNNERS = pytest.mark.parametrize(
    "make_runner",
    [SequentialRunner, ThreadRunner, lambda: SequentialRunner(is_async=True)],
    ids=["sequential", "thread", "async"],
)


@pytest.fixture
def acts() -> Iterator[dict[str, Callable[[], object]]]:
    """What the nodes of the pipeline ``acts`` do."""
    module: Any = importlib.import_module("lab.pipelines.acts")
    yield module.ACTS
    module.ACTS.clear()


def experiment_of(lab: Lab, run: Run) -> str:
    client = MlflowClient(f"sqlite:///{lab.store}")
    return str(client.get_experiment(run.info.experiment_id).name)


def settings() -> tuple[object, ...]:
    """What a Kedro run sets in the process, and has to put back; usage statistics are MLflow's."""
    names = (name for name in os.environ if "MLFLOW" in name and "TELEMETRY" not in name)
    ours = {name: os.environ[name] for name in names}
    return ours, mlflow.get_tracking_uri(), fluent._active_experiment_id


# Nested runs


def test_a_nested_run_and_a_search_are_in_the_projects_experiment(
    lab: Lab, acts: dict[str, Callable[[], object]]
) -> None:
    found: list[Any] = []

    def search() -> None:
        with mlflow.start_run(run_name="child", nested=True):
            mlflow.log_metric("inner", 1.0)
        found.extend(mlflow.search_runs(output_format="list"))

    acts["first"] = search
    lab.run("acts", params={"number": 1}, node_names=NO_GENERATOR)

    parent, child = lab.runs()
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert [experiment_of(lab, run) for run in (child, parent)] == ["lab", "lab"]
    assert {run.info.run_id for run in found} == {child.info.run_id, parent.info.run_id}
    assert child.info.artifact_uri.startswith((lab.store.parent / "mlartifacts").as_uri())


def leave_open() -> None:
    mlflow.start_run(run_name="left", nested=True)
    mlflow.start_run(run_name="left within", nested=True)


@RUNNERS
@pytest.mark.parametrize("end", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_that_a_node_leaves_open_ends_with_the_run_around_it(
    lab: Lab, acts: dict[str, Callable[[], object]], make_runner: Callable[[], Any], end: str
) -> None:
    def fail() -> None:
        mlflow.log_metric("own.after", 1.0)
        if end != "FINISHED":
            leave_open()
            raise ValueError("gone") if end == "FAILED" else KeyboardInterrupt

    acts.update(first=leave_open, second=fail)
    try:
        lab.run("acts", params={"number": 1}, node_names=NO_GENERATOR, runner=make_runner())
    except (ValueError, KeyboardInterrupt):
        assert end != "FINISHED"
    process_state().kill_interrupted_runs()

    parent, *left = lab.runs()
    assert len(left) == (2 if end == "FINISHED" else 4)
    assert {run.info.status for run in lab.runs()} == {end}
    assert parent.data.metrics["own.after"] == 1.0
    assert not any(run.data.metrics for run in left)
    assert {run.info.end_time for run in lab.runs()} == {parent.info.end_time}
    assert mlflow.active_run() is None


@pytest.mark.parametrize("runner", [SequentialRunner, ThreadRunner])
def test_a_run_that_a_generator_node_leaves_open_is_not_the_next_nodes(
    lab: Lab, acts: dict[str, Callable[[], object]], runner: type
) -> None:
    acts["after yields"] = leave_open
    acts["second"] = lambda: mlflow.log_metric("own.after", 1.0)

    lab.run("acts", params={"number": 1}, node_names=GENERATOR, runner=runner())

    (parent,) = (run for run in lab.runs() if run.data.metrics)
    assert "own.after" in parent.data.metrics
    assert [run.info.status for run in lab.runs()] == ["FINISHED"] * 3


def test_a_node_that_ends_the_run_itself_does_not_take_it_from_the_next(
    lab: Lab, acts: dict[str, Callable[[], object]]
) -> None:
    acts["first"] = mlflow.end_run
    acts["second"] = lambda: mlflow.log_metric("own.after", 1.0)

    lab.run("acts", params={"number": 1}, node_names=NO_GENERATOR)

    (run,) = lab.runs()
    assert run.data.metrics["own.after"] == 1.0


def test_another_hooks_run_around_each_node_is_left_to_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, acts: dict[str, Callable[[], object]]
) -> None:
    class PerNode:
        @hook_impl
        def before_node_run(self, node: Any) -> None:
            mlflow.start_run(run_name=node.name, nested=True)

        @hook_impl
        def after_node_run(self) -> None:
            mlflow.end_run()

    register_hooks(monkeypatch, PerNode())
    for node in ("first", "second"):
        acts[node] = lambda: mlflow.log_metric("own", 1.0)

    lab.run("acts", params={"number": 1}, node_names=NO_GENERATOR)

    assert [run.info.status for run in lab.runs()] == ["FINISHED"] * 3
    assert {run.info.run_name for run in lab.runs() if "own" in run.data.metrics} == {
        "first_act",
        "second_act",
    }


def test_the_last_active_run_is_ours(lab: Lab) -> None:
    lab.run("acts", params={"number": 1}, node_names=NO_GENERATOR)

    mlflow.set_tracking_uri(f"sqlite:///{lab.store}")
    last = mlflow.last_active_run()
    assert last is not None
    assert [run.info.run_id for run in lab.runs()] == [last.info.run_id]


# Threads


class Calling(AbstractDataset[Any, Any]):
    """A dataset in memory that tells MLflow what it does."""

    def __init__(self, name: str) -> None:
        self.name = name

    def load(self) -> Any:
        mlflow.set_tag(f"load {self.name}", self.data)
        return self.data

    def save(self, data: Any) -> None:
        mlflow.set_tag(f"save {self.name}", data)
        self.data = data

    def _describe(self) -> dict[str, str]:
        return {}


class CallingHooks:
    """Hooks that tell MLflow what Kedro does."""

    @hook_impl
    def before_dataset_loaded(self, dataset_name: str) -> None:
        mlflow.set_tag(f"before_dataset_loaded {dataset_name}", "yes")

    @hook_impl
    def after_dataset_loaded(self, dataset_name: str) -> None:
        mlflow.set_tag(f"after_dataset_loaded {dataset_name}", "yes")

    @hook_impl
    def before_node_run(self, node: Any) -> None:
        mlflow.set_tag(f"before_node_run {node.name}", "yes")

    @hook_impl
    def after_node_run(self, node: Any) -> None:
        mlflow.set_tag(f"after_node_run {node.name}", "yes")

    @hook_impl
    def before_dataset_saved(self, dataset_name: str) -> None:
        mlflow.set_tag(f"before_dataset_saved {dataset_name}", "yes")

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        mlflow.set_tag(f"after_dataset_saved {dataset_name}", "yes")


CALLS = {
    *(f"{event} {name}" for event in ("save", "load") for name in ("act_one",)),
    "save act_two",
    *(f"{when}_node_run {node}" for when in ("before", "after") for node in NO_GENERATOR),
    *(
        f"{when}_dataset_loaded {name}"
        for when in ("before", "after")
        for name in ("params:number", "act_one")
    ),
    *(
        f"{when}_dataset_saved {name}"
        for when in ("before", "after")
        for name in ("act_one_metrics", "act_one", "act_two_metrics", "act_two")
    ),
}


def add_calling_datasets(lab: Lab) -> None:
    for name in ("act_one", "act_two"):
        lab.add("base/catalog.yml", f"\n{name}: {{type: {__name__}.Calling, name: {name}}}\n")


@RUNNERS
def test_the_calls_of_other_hooks_and_datasets_go_to_the_run(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, make_runner: Callable[[], Any]
) -> None:
    register_hooks(monkeypatch, CallingHooks())
    add_calling_datasets(lab)

    lab.run("acts", params={"number": 1}, node_names=NO_GENERATOR, runner=make_runner())

    (run,) = lab.runs()
    assert set(run.data.tags) >= CALLS


@RUNNERS
def test_runs_at_once_on_threads_keep_their_calls_apart(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, make_runner: Callable[[], Any]
) -> None:
    register_hooks(monkeypatch, CallingHooks())
    add_calling_datasets(lab)
    session = KedroServiceSession.create(
        project_path=lab.path, conf_source=str(lab.conf), serving_mode=True
    )

    def run_one(number: int) -> None:
        session.run(
            pipeline_names=["acts"],
            node_names=NO_GENERATOR,
            runtime_params={"number": number},
            runner=make_runner(),
        )

    with session, ThreadPoolExecutor(3) as pool:
        list(pool.map(run_one, range(6)))

    runs = lab.runs()
    assert [run.info.status for run in runs] == ["FINISHED"] * 6
    for run in runs:
        number = run.data.params["number"]
        assert set(run.data.tags) >= CALLS
        assert [run.data.tags[tag] for tag in ("save act_one", "load act_one", "save act_two")] == [
            number
        ] * 3
    assert {run.data.params["number"] for run in runs} == set(map(str, range(6)))


def test_a_thread_of_two_runs_in_turns_is_in_the_right_one(lab: Lab) -> None:
    """As a runner of somebody's own may have it: the hooks are called on the thread of another."""
    from lab.tracking.process.active_runs import ActiveOnThreads

    uri = f"sqlite:///{lab.store}"
    mlflow.set_tracking_uri(uri)
    client = MlflowClient(uri)
    entities = [client.create_run("0") for _ in range(2)]
    ids = [run.info.run_id for run in entities]
    a, b = (ActiveOnThreads(mlflow.ActiveRun(run), ids.__contains__) for run in entities)
    for active, node in ((a, 1), (b, 2), (a, 3), (b, 4)):
        active.enter(node)
        current = mlflow.active_run()
        assert current is not None
        assert current.info.run_id == active.run.info.run_id
        mlflow.start_run(nested=True)
        active.leave()
    assert len(a.end()) == 2
    current = mlflow.active_run()
    assert current is not None
    assert current.info.run_id == ids[1]
    b.end()
    assert mlflow.active_run() is None


@RUNNERS
def test_in_runs_within_the_callers_own_each_has_its_nodes_calls(
    lab: Lab, acts: dict[str, Callable[[], object]], make_runner: Callable[[], Any]
) -> None:
    """A sweep in one process."""
    mlflow.set_tracking_uri(f"sqlite:///{lab.store}")
    experiment = MlflowClient().create_experiment("lab")

    with mlflow.start_run(experiment_id=experiment) as parent:
        for number in range(2):
            acts["first"] = partial(mlflow.log_param, "own", number)
            params = {"number": number, "mlflow_parent_run_id": parent.info.run_id}
            lab.run("acts", params=params, node_names=NO_GENERATOR, runner=make_runner())
            current = mlflow.active_run()
            assert current is not None
            assert current.info.run_id == parent.info.run_id
        mlflow.log_param("own", "parent")

    runs = {run.data.params["own"]: run for run in lab.runs()}
    assert runs["parent"].info.run_id == parent.info.run_id
    assert [runs[number].data.metrics["act_one_metrics.score"] for number in "01"] == [0.0, 1.0]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


# The process


def test_a_process_that_a_node_starts_sees_the_run_s_store_and_experiment(
    lab: Lab, tmp_path: Path, acts: dict[str, Callable[[], object]]
) -> None:
    script = "import mlflow; mlflow.start_run(run_name='sub'); mlflow.end_run()"

    def start() -> None:
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)

    acts["first"] = start
    lab.run("acts", params={"number": 1}, node_names=NO_GENERATOR)

    sub = next(run for run in lab.runs() if run.info.run_name == "sub")
    assert experiment_of(lab, sub) == "lab"
    assert sub.info.status == "FINISHED"


@pytest.mark.parametrize("end", ["well", "badly"])
def test_settings_are_put_back_whatever_a_node_sets(  # noqa: PLR0917
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    make_store: Callable[[str], Path],
    acts: dict[str, Callable[[], object]],
    end: str,
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of the user")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    other = make_store("other.db")

    def change() -> None:
        assert "MLFLOW_RUN_ID" not in os.environ  # start_run(nested=True) would resume it
        mlflow.set_tracking_uri(f"sqlite:///{other}")
        mlflow.set_experiment("another")
        if end == "badly":
            raise ValueError("gone")

    acts["first"] = change
    run = MlflowClient(f"sqlite:///{lab.store}").create_run("0")
    before = settings()
    try:
        params = {"number": 1, "mlflow_run_id": run.info.run_id}
        lab.run("acts", params=params, node_names=NO_GENERATOR)
    except ValueError:
        assert end == "badly"

    assert settings() == before


def test_what_a_run_has_set_is_not_the_user_s_choice(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, acts: dict[str, Callable[[], object]]
) -> None:
    """In this process, and in one that a node starts; what a node sets itself is."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of the user")
    found: list[Any] = []

    def look() -> None:
        script = (
            "import json; from lab.tracking.process.mlflow_globals import user_environment as user;"
            "print(json.dumps(user()))"
        )
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(lab.path / "src"), *BESIDE])}
        done = subprocess.run(
            [sys.executable, "-c", script], env=env, capture_output=True, check=True
        )
        found.extend([json.loads(done.stdout.splitlines()[-1]), user_environment()])
        lab.context()
        found.append(current_config())
        os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:1"
        found.append(user_environment())

    lab.configure(experiment="lab")
    acts["first"] = look
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{lab.store}")
    (lab.conf / "local" / "mlflow.yml").unlink()
    lab.run("acts", params={"number": 1}, node_names=NO_GENERATOR)

    *seen, config, changed = found
    for environment in seen:
        assert environment["MLFLOW_EXPERIMENT_NAME"] == "of the user"
        assert environment["MLFLOW_TRACKING_URI"] == f"sqlite:///{lab.store}"
        assert "MLFLOW_EXPERIMENT_ID" not in environment
    assert (config.experiment, config.tracking_uri) == ("of the user", f"sqlite:///{lab.store}")
    assert changed["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:1"


def test_a_kedro_run_within_a_node_has_a_run_store_and_settings_of_its_own(
    lab: Lab,
    make_store: Callable[[str], Path],
    tmp_path: Path,
    acts: dict[str, Callable[[], object]],
) -> None:
    (tmp_path / "inner").mkdir()
    inner = Lab(lab.path, tmp_path / "inner", make_store("inner.db"))
    acts["first"] = lambda: inner.run("everything", node_names=["a"])
    acts["second"] = lambda: mlflow.log_metric("own.after", 1.0)
    before = settings()

    lab.run("acts", params={"number": 1}, node_names=NO_GENERATOR)

    (outer_run,), (inner_run,) = lab.runs(), runs_in(inner.store)
    assert outer_run.data.metrics["own.after"] == 1.0
    assert (outer_run.info.status, inner_run.info.status) == ("FINISHED", "FINISHED")
    assert "a_metrics.score" in points_in(inner.store, inner_run)
    assert settings() == before


def test_other_credentials_of_a_second_run_at_once_are_warned_of(
    lab: Lab,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    acts: dict[str, Callable[[], object]],
) -> None:
    (tmp_path / "inner").mkdir()
    inner = Lab(lab.path, tmp_path / "inner", lab.store)
    inner.configure(credentials="mlflow")
    inner.add("local/credentials.yml", "mlflow: {MLFLOW_TRACKING_USERNAME: somebody}\n")
    acts["first"] = lambda: inner.run("everything", node_names=["a"])

    lab.run("acts", params={"number": 1}, node_names=NO_GENERATOR)

    (warning,) = [r.getMessage() for r in caplog.records if "different 'credentials'" in r.msg]
    assert "those of the first" in warning


# Worker processes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("context", "is_async"),
    [("fork", False), ("spawn", False), ("forkserver", False), ("spawn", True)],
)
def test_the_calls_of_worker_processes_go_to_the_run(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, context: str, is_async: bool
) -> None:
    """It is given and stays open: no worker ends it. What nodes leave open ends with the run."""
    monkeypatch.setenv("KEDRO_MP_CONTEXT", context)
    client = MlflowClient(f"sqlite:///{lab.store}")
    given = client.create_run(client.create_experiment("lab"), run_name="given").info.run_id

    runner = ParallelRunner(max_workers=1, is_async=is_async)
    lab.run("leaves", runner=runner, params={"mlflow_run_id": given})

    runs = {run.info.run_name: run for run in lab.runs()}
    assert {name: run.info.status for name, run in runs.items()} == {
        "given": "RUNNING",
        **dict.fromkeys(["one", "in one", "two", "in two"], "FINISHED"),
    }
    assert set(runs["given"].data.metrics) == {
        "own.one",
        "own.two",
        "leaves_one_metrics.score",
        "leaves_two_metrics.score",
    }
    for name in ("one", "two"):
        assert runs[name].data.tags["mlflow.parentRunId"] == given
    assert {experiment_of(lab, run) for run in runs.values()} == {"lab"}


def test_a_dataset_that_is_unpickled_elsewhere_sets_nothing(
    lab: Lab, tmp_path: Path, acts: dict[str, Callable[[], object]]
) -> None:
    file = tmp_path / "dataset.pickle"
    before: list[Any] = []

    class Keep:
        @hook_impl
        def before_node_run(self, catalog: Any) -> None:
            dataset = catalog.get("act_one_metrics")
            assert isinstance(dataset, MlflowMetricsDataset)
            file.write_bytes(pickle.dumps(dataset))
            before.append((settings(), mlflow.active_run()))
            pickle.loads(file.read_bytes())
            copy.deepcopy(dataset)
            assert (settings(), mlflow.active_run()) == before[-1]

    with pytest.MonkeyPatch.context() as monkeypatch:
        register_hooks(monkeypatch, Keep())
        lab.run("acts", params={"number": 1}, node_names=NO_GENERATOR)

    script = f"""
import os, pickle, sys
before = dict(os.environ)
pickle.load(open({str(file)!r}, "rb"))
assert dict(os.environ) == before
assert "mlflow" not in sys.modules
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(lab.path / "src"), *BESIDE])}
    subprocess.run([sys.executable, "-c", script], env=env, check=True)
    assert before


# Ctrl-C while the run is opened


def lines_of_the_start(lab: Lab) -> list[tuple[str, int]]:
    """The lines of ``tracking/`` that the main thread executes before the first node."""
    found: dict[tuple[str, int], None] = {}
    trace_start(found.setdefault)
    lab.run("acts", params={"number": 1}, node_names=NO_GENERATOR)
    return list(found)


def trace_start(at_line: Callable[[tuple[str, int]], object]) -> None:
    """Call a function at each line that opens a run, until a node runs."""
    names = {"_open", "open_run", "open", "open_destination", "_tracking", "_create"}
    names |= {"begin_tracking", "begin_experiment", "take_seat", "create_run"}

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        if code.co_name == "enter":
            sys.settrace(None)
        if "/lab/tracking/" not in code.co_filename or code.co_name not in names:
            return trace if event == "call" else None
        if event == "line":
            at_line((code.co_filename.rpartition("/tracking/")[2], frame.f_lineno))
        return trace

    sys.settrace(trace)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_at_any_line_that_opens_a_run_leaves_nothing_open(
    lab: Lab, acts: dict[str, Callable[[], object]]
) -> None:
    before = settings()
    lines = lines_of_the_start(lab)
    assert len(lines) > 60
    for line in random.Random(0).sample(lines, min(len(lines), examples(25))):

        def interrupt(at: tuple[str, int], line: tuple[str, int] = line) -> None:
            if at == line:
                sys.settrace(None)
                raise KeyboardInterrupt

        trace_start(interrupt)
        try:
            lab.run("acts", params={"number": 1}, node_names=NO_GENERATOR)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)

        assert not [run for run in lab.runs() if run.info.status == "RUNNING"], line
        assert settings() == before, line
        assert process_state().open_runs == [], line
        assert mlflow.active_run() is None, line
        wait_until(lambda: "mlflow-sigterm" not in [t.name for t in threading.enumerate()])
