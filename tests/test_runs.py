"""A run of a pipeline puts every point into one MLflow run, under the right key and step."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import pytest
from helpers import KEDRO, Lab, Project, points_in, runs_in
from kedro.runner import ParallelRunner, SequentialRunner, ThreadRunner
from mlflow import MlflowClient

CONTRACT_CATALOG = """
my_model_metrics:
  type: my_project.tracking.MlflowMetricsDataset      # keys: my_model_metrics.metric1, ...

my_other_metrics:
  type: my_project.tracking.MlflowMetricsDataset
  prefix: foo                                          # keys: foo.metric1, foo.metric2
"""

CONTRACT_PIPELINE = """
from kedro.pipeline import Pipeline, node


def metrics_node() -> dict[str, dict[str, float] | list[dict[str, float]]]:
    return {
        "metric1": {"value": 1.1, "step": 1},
        "metric2": [{"value": 1.1, "step": 1}, {"value": 1.2, "step": 2}],
    }


def create_pipeline(**kwargs):
    return Pipeline([
        node(metrics_node, inputs=None, outputs="my_model_metrics", name="log_metrics"),
        node(metrics_node, inputs=None, outputs="my_other_metrics", name="log_others"),
    ])
"""


@pytest.mark.parametrize("separator", [".", "/"])
def test_the_contract(bake: Callable[..., Path], separator: str) -> None:
    answers = {"project_name": "My Project", "include_example": "no", "separator": separator}
    project = Project(bake(**answers))
    project.write("conf/base/catalog.yml", CONTRACT_CATALOG)
    project.write("src/my_project/pipelines/contract/__init__.py", CONTRACT_PIPELINE)

    project.kedro("run")  # the store does not exist yet

    (run,) = project.runs()
    assert run.info.status == "FINISHED"
    assert points_in(project.store, run) == {
        f"my_model_metrics{separator}metric1": [(1, 1.1)],
        f"my_model_metrics{separator}metric2": [(1, 1.1), (2, 1.2)],
        f"foo{separator}metric1": [(1, 1.1)],
        f"foo{separator}metric2": [(1, 1.1), (2, 1.2)],
    }


PREFIXES = [
    "my_model_metrics",
    "baseline",
    "a_metrics",
    "b_metrics",
    "one.part_metrics",
    "two.part_metrics",
]
ALL_BUT_STREAM = {f"{prefix}.score": [(0, 0.5)] for prefix in PREFIXES} | {
    f"{prefix}.curve": [(0, 0.1), (1, 0.2)] for prefix in PREFIXES
}
STREAM = {"stream_metrics.loss": [(epoch, 1 / (1 + epoch)) for epoch in range(20)]}
NO_GENERATOR = ["explicit", "prefixed", "a", "b", "one.part", "two.part"]


@pytest.mark.parametrize(
    ("make_runner", "nodes", "context"),
    [
        pytest.param(SequentialRunner, None, None, id="sequential"),
        pytest.param(
            lambda: SequentialRunner(is_async=True), NO_GENERATOR, None, id="sequential-async"
        ),
        pytest.param(ThreadRunner, None, None, id="thread"),
        pytest.param(
            lambda: ThreadRunner(is_async=True),
            None,
            None,
            id="thread-async",
            marks=pytest.mark.filterwarnings("ignore:'ThreadRunner' doesn't support:UserWarning"),
        ),
        pytest.param(ParallelRunner, None, "fork", id="fork"),
        pytest.param(ParallelRunner, None, "spawn", id="spawn"),
        pytest.param(ParallelRunner, None, "forkserver", id="forkserver"),
        pytest.param(
            lambda: ParallelRunner(is_async=True), NO_GENERATOR, "spawn", id="spawn-async"
        ),
    ],
)
def test_every_runner_fills_exactly_one_run(
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    make_runner: Callable[[], Any],
    nodes: list[str] | None,
    context: str | None,
) -> None:
    if context:
        monkeypatch.setenv("KEDRO_MP_CONTEXT", context)

    lab.run("everything", runner=make_runner(), node_names=nodes)

    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    assert points_in(lab.store, run) == ALL_BUT_STREAM | ({} if nodes else STREAM)


@pytest.mark.parametrize("option", ["--async", "--runner-params=is_async=True"])
def test_asynchronous_saves_by_the_command_line(lab: Lab, option: str) -> None:
    nodes = f"--nodes={','.join(NO_GENERATOR)}"

    with lab.command("everything", nodes, option) as process:
        assert process.wait() == 0, process.output

    assert "Asynchronous mode is enabled" in process.output
    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    assert lab.points() == ALL_BUT_STREAM


def test_a_worker_process_counts_on_from_where_the_run_is(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.run("everything", node_names=["a"])
    (run,) = lab.runs()

    monkeypatch.setenv("KEDRO_MP_CONTEXT", "spawn")
    given = {"mlflow_run_id": run.info.run_id}
    lab.run("everything", node_names=["a", "b"], runner=ParallelRunner(), params=given)

    assert lab.points() == {
        "a_metrics.score": [(0, 0.5), (1, 0.5)],
        "a_metrics.curve": [(0, 0.1), (1, 0.2), (2, 0.1), (3, 0.2)],
        "b_metrics.score": [(0, 0.5)],
        "b_metrics.curve": [(0, 0.1), (1, 0.2)],
    }


@pytest.mark.parametrize("runner", [SequentialRunner, ThreadRunner])
def test_a_nodes_own_mlflow_calls_go_to_the_same_run(lab: Lab, runner: type) -> None:
    lab.run("own_calls", runner=runner())

    (run,) = lab.runs()
    assert set(run.data.metrics) == {"own.one", "own.two", "one_metrics.score", "two_metrics.score"}
    assert run.data.params == {"own.one": "1", "own.two": "1"}
    artifacts = lab.store.parent / "mlartifacts" / "lab" / run.info.run_id / "artifacts"
    assert {path.name for path in artifacts.iterdir()} == {"one.json", "two.json"}


def test_the_example_draws_curves_and_is_accurate(example: Project) -> None:
    example.kedro("run")

    (run,) = example.runs()
    points = points_in(example.store, run)
    assert {key: len(values) for key, values in points.items()} == {
        "training_metrics.loss": 20,
        "training_metrics.accuracy": 20,
        "best.training_metrics.loss": 1,
        "best.training_metrics.accuracy": 1,
        "best.my_model_metrics.accuracy": 1,
        "best.my_model_metrics.loss": 1,
        "my_model_metrics.accuracy": 1,
        "my_model_metrics.loss": 20,
        "baseline.accuracy": 1,
    }
    for key in ("training_metrics.loss", "my_model_metrics.loss"):
        assert [step for step, _ in points[key]] == list(range(20))
    ((step, accuracy),) = points["my_model_metrics.accuracy"]
    assert step == 19
    assert accuracy > 0.9
    assert points["training_metrics.loss"][-1][1] < points["training_metrics.loss"][0][1]


def test_the_example_keeps_its_model_in_the_run(example: Project) -> None:
    example.kedro("run", "--params=training.epochs=2")

    (run,) = example.runs()
    client = MlflowClient(f"sqlite:///{example.store}")
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert (model.name, model.source_run_id) == ("classifier", run.info.run_id)
    location = Path(model.artifact_location.removeprefix("file://"))
    assert (location / "requirements.txt").exists()
    assert location.is_relative_to(example.path / "mlartifacts")


@pytest.mark.slow
def test_the_example_makes_no_run_where_tracking_is_off(example: Project) -> None:
    example.write("conf/local/mlflow.yml", "track: never\n")

    example.kedro("run", "--params=training.epochs=2")

    assert example.runs() == []
    assert not (example.path / "mlartifacts").exists()
    assert not (example.path / "mlruns").exists()


@pytest.mark.slow
def test_the_example_prints_little_and_no_colours_into_a_pipe(
    bake: Callable[..., Path], tmp_path: Path
) -> None:
    """At most 110 lines of 80 columns at its first run, in which a store is made."""
    project = Project(bake(project_name="My Project"))

    lines = terminal(project, tmp_path, KEDRO, "run")
    piped = project.kedro("run")

    assert len(lines) <= 110, "\n".join(lines)
    assert any("FINISHED" in line for line in lines)
    assert "\x1b" not in piped.stdout + piped.stderr


def terminal(project: Project, folder: Path, *command: str | Path) -> list[str]:
    """The lines that a command leaves in a terminal of 80 columns."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
    environment = project.environment(TERM="xterm-256color")
    del environment["COLUMNS"]
    with subprocess.Popen(
        command, cwd=project.path, env=environment, stdin=other, stdout=other, stderr=other
    ) as process:
        os.close(other)
        printed = b""
        with suppress(OSError):  # Linux's way to say that the other end is closed
            while part := os.read(main, 65536):
                printed += part
        os.close(main)
    assert process.returncode == 0, printed.decode()
    return printed.decode().split("\n")  # a live line goes back, by a carriage return


def test_two_datasets_that_write_one_key_are_warned_of(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    prefixed = "{type: lab.tracking.MlflowMetricsDataset, prefix: baseline}"
    lab.add("base/catalog.yml", f"\nfirst_metrics: {prefixed}\nsecond_metrics: {prefixed}\n")

    lab.run("same_key")

    (warning,) = [record.getMessage() for record in caplog.records if "both write" in record.msg]
    for name in ("'baseline.score'", "'first_metrics'", "'second_metrics'"):
        assert name in warning
    assert lab.points() == {"baseline.score": [(0, 0.5), (1, 1.5)]}


def test_a_shared_prefix_with_different_keys_is_not_warned_of(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    lab.run("everything", node_names=["prefixed", "a", "one.part"])

    assert not [record for record in caplog.records if "both write" in record.msg]


def test_a_transcoded_name_gives_the_prefix_without_the_format(lab: Lab) -> None:
    lab.add("base/catalog.yml", "\na_metrics@best: {type: lab.tracking.MlflowMetricsDataset}\n")
    catalog = lab.session().load_context().catalog

    assert catalog["a_metrics@best"]._describe()["prefix"] == "a_metrics"


def test_a_cached_metrics_dataset_is_bound(lab: Lab) -> None:
    cached = "{type: CachedDataset, dataset: {type: lab.tracking.MlflowMetricsDataset}}"
    lab.add("base/catalog.yml", f"\na_metrics: {cached}\n")

    lab.run("everything", node_names=["a"])

    assert lab.points() == {
        "a_metrics.score": [(0, 0.5)],
        "a_metrics.curve": [(0, 0.1), (1, 0.2)],
    }


def test_a_dataset_with_a_run_of_its_own_opens_no_other(lab: Lab) -> None:
    lab.run("everything", node_names=["b"])
    (run,) = lab.runs()
    own = f"{{type: lab.tracking.MlflowMetricsDataset, run_id: {run.info.run_id}}}"
    lab.add("base/catalog.yml", f"\na_metrics: {own}\n")

    result = lab.run("everything", node_names=["a"])

    assert lab.points()["a_metrics.score"] == [(0, 0.5)]
    assert result["a_metrics"].load() == {
        "score": {"value": 0.5, "step": 0},
        "curve": [{"value": 0.1, "step": 0}, {"value": 0.2, "step": 1}],
    }


def test_a_run_that_the_catalog_names_is_one_of_the_projects_store(
    lab: Lab, make_store: Callable[[str], Path]
) -> None:
    """Also where the caller has made one of another store active."""
    lab.run("everything", node_names=["explicit"])
    (run,) = lab.runs()
    own = f"{{type: lab.tracking.MlflowMetricsDataset, run_id: {run.info.run_id}}}"
    lab.add("base/catalog.yml", f"\na_metrics: {own}\n")
    other = make_store("other.db")
    mlflow.set_tracking_uri(f"sqlite:///{other}")

    with mlflow.start_run():
        lab.run("everything", node_names=["a", "b"])

    assert lab.points()["a_metrics.score"] == [(0, 0.5)]
    (active,) = runs_in(other)
    assert points_in(other, active).keys() == {"b_metrics.score", "b_metrics.curve"}


@pytest.mark.parametrize(("track", "runs"), [("never", 0), ("always", 1), ("auto", 0)])
def test_what_is_tracked_can_be_chosen(lab: Lab, track: str, runs: int) -> None:
    lab.configure(track=track)

    lab.run("plain")

    assert len(lab.runs()) == runs


def test_with_tracking_off_metrics_are_checked_and_not_written(lab: Lab) -> None:
    lab.configure(track="never")

    result = lab.run("everything", node_names=["a"])

    assert lab.runs() == []
    assert not result["a_metrics"].exists()
