"""A run of a part of a pipeline reads the metrics that an earlier run has made."""

from __future__ import annotations

import re
import sqlite3
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest
from faults import Server
from helpers import KEDRO, Lab, Project, points_in, runs_in
from kedro.framework.session import KedroSession
from kedro.io import DataCatalog, DatasetError
from kedro.pipeline import Node, Pipeline
from kedro.runner import ParallelRunner, SequentialRunner, ThreadRunner
from lab.tracking.dask.runner import DaskRunner
from lab.tracking.dataset import MlflowMetricsDataset
from lab.tracking.delivery.binding import Binding
from lab.tracking.store.errors import TrackingError
from lab.tracking.store.mlflow_store import store_at
from mlflow import MlflowClient

VERDICT = {"verdict_metrics.score": [(0, 0.5)], "verdict_metrics.losses": [(0, 2.0)]}
PARAMS = {"judge": "well"}
RUNNERS = [SequentialRunner, ThreadRunner, ParallelRunner]


def only(lab: Lab, number: int) -> dict[str, list[tuple[int, float]]]:
    return points_in(lab.store, lab.runs()[number])


def run_nodes(lab: Lab, make: Callable[[DataCatalog], list[Node]], **runtime: Any) -> None:
    """Run nodes that are made for the catalog of the run, with these runtime parameters."""
    session = lab.session()
    context: Any = session.load_context()
    catalog: Any = context.catalog
    pipeline = Pipeline(make(catalog))
    params: dict[str, Any] = {"project_path": str(lab.path), "runtime_params": runtime}
    params |= {"kedro_version": "1", "pipeline_names": ["x"]}
    given: Any = {"run_params": params, "pipeline": pipeline, "catalog": catalog}
    manager: Any = session._hook_manager
    manager.hook.before_pipeline_run(**given)
    SequentialRunner().run(pipeline, catalog, manager)
    manager.hook.after_pipeline_run(**given, run_result={})


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(
    "part",
    [{"node_names": ["judge"]}, {"from_nodes": ["judge"]}, {"from_inputs": ["chain_metrics"]}],
)
def test_a_part_reads_what_the_newest_run_has(
    lab: Lab, caplog: pytest.LogCaptureFixture, runner: type, part: dict[str, list[str]]
) -> None:
    lab.run("chain", params=PARAMS, tags=["train"])
    made = lab.runs()[-1].info.run_id
    lab.run("everything", node_names=["a"])  # it has no chain_metrics

    lab.run("chain", params=PARAMS, runner=runner(), **part)

    assert only(lab, -1) == VERDICT
    assert f"'chain_metrics' is there in an earlier MLflow run, {made}." in caplog.text


@pytest.mark.slow
def test_what_kedro_says_after_a_failure_resumes_the_run(
    make_project: Callable[..., Project],
) -> None:
    project = make_project("chain")
    failed = project.attempt(KEDRO, "run", "--params=judge=error")
    found = re.search(r'--from-nodes "([^"]+)"', failed.stdout + failed.stderr)
    assert found

    project.kedro("run", "--params=judge=well", f"--from-nodes={found[1]}")

    assert [run.info.status for run in project.runs()] == ["FAILED", "FINISHED"]
    assert points_in(project.store, project.runs()[-1]) == VERDICT


def test_what_no_run_has_is_an_error_before_any_node_runs(lab: Lab) -> None:
    lab.run("everything", node_names=["a"])

    with pytest.raises(TrackingError, match=r"^'chain_metrics' is an input .* 'chain_metrics\.'; "):
        lab.run("chain", params=PARAMS, node_names=["judge"])

    assert only(lab, -1) == {}
    assert lab.runs()[-1].info.status == "FAILED"


def test_a_deleted_run_is_not_read(lab: Lab) -> None:
    lab.run("chain", params=PARAMS, node_names=["train"])
    MlflowClient(f"sqlite:///{lab.store}").delete_run(lab.runs()[0].info.run_id)

    with pytest.raises(TrackingError, match="none of the newest 10,000 MLflow runs"):
        lab.run("chain", params=PARAMS, node_names=["judge"])


def test_an_external_run_that_has_it_comes_first(lab: Lab) -> None:
    lab.run("chain", params=PARAMS, node_names=["train"])
    (run,) = lab.runs()
    lab.run("chain", params=PARAMS, node_names=["train"])

    lab.run("chain", params={**PARAMS, "mlflow_run_id": run.info.run_id}, node_names=["judge"])

    assert only(lab, 0).items() >= VERDICT.items()
    assert len(lab.runs()) == 2


def test_an_external_run_that_has_not_reads_the_newest(lab: Lab) -> None:
    lab.run("everything", node_names=["a"])
    (run,) = lab.runs()
    lab.run("chain", params=PARAMS, node_names=["train"])

    lab.run("chain", params={**PARAMS, "mlflow_run_id": run.info.run_id}, node_names=["judge"])

    assert only(lab, 0).items() >= VERDICT.items()


def test_a_run_that_the_catalog_names_is_read_and_no_other(lab: Lab) -> None:
    lab.run("chain", params=PARAMS, node_names=["train"])
    lab.run("everything", node_names=["a"])
    first, second = (run.info.run_id for run in lab.runs())
    entry = "\nchain_metrics: {{type: lab.tracking.MlflowMetricsDataset, run_id: {}}}\n"
    catalog = lab.conf / "base" / "catalog.yml"
    before = catalog.read_text()

    catalog.write_text(before + entry.format(first))
    lab.run("chain", params=PARAMS, node_names=["judge"])
    assert only(lab, -1) == VERDICT

    catalog.write_text(before + entry.format(second))
    with pytest.raises(TrackingError, match=f"the MLflow run {second}, which the catalog names, "):
        lab.run("chain", params=PARAMS, node_names=["judge"])


def test_an_input_is_read_from_the_earlier_run_though_this_one_writes_the_key(lab: Lab) -> None:
    lab.run("chain", params=PARAMS, node_names=["train"])
    lab.add(
        "base/catalog.yml",
        "\nprevious_metrics: {type: lab.tracking.MlflowMetricsDataset, prefix: chain_metrics}\n",
    )
    seen: list[Any] = []
    run_nodes(
        lab,
        lambda catalog: [
            Node(lambda: ({"score": 0.7}, 1), None, ["chain_metrics", "one"], name="new"),
            Node(lambda old, one: seen.append(old), ["previous_metrics", "one"], None, name="old"),
        ],
    )

    assert seen[0]["score"] == {"value": 0.5, "step": 0}


@pytest.mark.parametrize("runner", RUNNERS)
def test_only_missing_outputs_runs_what_no_run_has(lab: Lab, runner: type) -> None:
    options: dict[str, Any] = {"params": PARAMS, "only_missing_outputs": True}
    lab.run("chain", params=PARAMS, node_names=["train"])

    lab.run("chain", runner=runner(), **options)
    assert only(lab, -1) == VERDICT  # the first node did not run; the second read its metrics

    lab.run("chain", runner=runner(), **options)
    assert only(lab, -1) == {}


def test_without_that_option_an_output_of_an_earlier_run_does_not_exist(lab: Lab) -> None:
    lab.run("chain", params=PARAMS)
    seen: list[bool] = []

    def make(catalog: DataCatalog) -> dict[str, float]:
        seen.append(catalog.exists("chain_metrics"))
        return {"score": 0.5}

    def look(catalog: DataCatalog, metrics: Any) -> None:
        seen.append(catalog.exists("chain_metrics"))

    run_nodes(
        lab,
        lambda catalog: [
            Node(lambda: make(catalog), None, "chain_metrics", name="make"),
            Node(lambda metrics: look(catalog, metrics), "chain_metrics", None, name="look"),
        ],
    )

    assert seen == [False, True]


@pytest.mark.slow
def test_a_tracking_server_is_read_from_in_parts(lab: Lab, server: Server) -> None:
    lab.configure(tracking_uri=server.url)
    client = MlflowClient(server.url)
    client.search_experiments()  # the first request is slow
    lab.run("chain", params=PARAMS, node_names=["train"])
    experiment = lab.runs()[0].info.experiment_id
    for _ in range(25):  # more than the first part has
        client.create_run(experiment)

    lab.run("chain", params=PARAMS, node_names=["judge"])

    (run,) = [run for run in lab.runs() if run.data.metrics.keys() >= VERDICT.keys()]
    assert points_in(lab.store, run) == VERDICT


@pytest.fixture
def named(lab: Lab) -> Lab:
    """A run of the name ``shared`` with another score than a node makes; the entry names it."""
    client = MlflowClient(f"sqlite:///{lab.store}")
    run = client.create_run(client.create_experiment("lab"), run_name="shared")
    client.log_metric(run.info.run_id, "chain_metrics.score", 0.125)
    client.log_metric(run.info.run_id, "chain_metrics.loss", 0.3)
    entry = "{type: lab.tracking.MlflowMetricsDataset, load_args: {run: shared}}"
    lab.add("base/catalog.yml", f"\nchain_metrics: {entry}\n")
    return lab


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_run_that_load_args_name_is_read_in_every_process(named: Lab, runner: type) -> None:
    """A worker process has no configuration; here it is not within the project either."""
    named.run("chain", params=PARAMS, runner=runner())

    assert only(named, -1)["verdict_metrics.score"] == [(0, 0.125)]


@pytest.mark.slow
def test_a_run_that_load_args_name_is_read_on_a_cluster(named: Lab) -> None:
    named.run("chain", params=PARAMS, runner=DaskRunner(max_workers=1))

    assert only(named, -1)["verdict_metrics.score"] == [(0, 0.125)]


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_run_that_is_not_there_is_an_error_of_the_node_that_reads_it(
    named: Lab, runner: type
) -> None:
    client = MlflowClient(f"sqlite:///{named.store}")
    client.update_run(named.runs()[0].info.run_id, name="another")

    with pytest.raises(DatasetError, match=r"'chain_metrics' can't be read: .* no run 'shared'"):
        named.run("chain", params=PARAMS, runner=runner())

    assert only(named, -1)["chain_metrics.score"] == [(0, 0.5)]


def test_it_is_read_where_nothing_is_tracked(named: Lab) -> None:
    named.configure(track="never")
    seen: list[Any] = []

    run_nodes(named, lambda _: [Node(seen.append, "chain_metrics", None, name="use")])

    assert seen[0]["score"] == {"value": 0.125, "step": 0}
    assert len(named.runs()) == 1


READERS = """
chain_metrics:
  type: lab.tracking.MlflowMetricsDataset
  metrics: {loss: {greater_is_better: false}}
last_metrics:
  {type: lab.tracking.MlflowMetricsDataset, prefix: chain_metrics, load_args: {run: last}}
before_metrics:
  {type: lab.tracking.MlflowMetricsDataset, prefix: chain_metrics, load_args: {run: previous}}
"""


def save_and_read(lab: Lab, loss: float, reader: str, **runtime: Any) -> Any:
    """Save a metric, and read it by another entry of its prefix in the node after that."""
    seen: list[Any] = []

    def save() -> tuple[dict[str, float], str]:
        return {"loss": loss}, "saved"

    def read(metrics: Any, _: str) -> None:
        seen.append(metrics["loss"]["value"])

    def nodes(_: DataCatalog) -> list[Node]:
        return [
            Node(save, None, ["chain_metrics", "token"], name="save"),
            Node(read, [reader, "token"], None, name="read"),
        ]

    run_nodes(lab, nodes, **runtime)
    return seen[0]


def test_the_last_run_is_the_run_itself_with_what_it_has_just_saved(lab: Lab) -> None:
    """And which of its values is the best says the entry that writes them."""
    lab.add("base/catalog.yml", READERS)

    assert [save_and_read(lab, loss, "last_metrics") for loss in (0.5, 0.4)] == [0.5, 0.4]
    assert only(lab, -1)["best.chain_metrics.loss"] == [(0, 0.4)]


def test_the_callers_run_is_the_same_by_a_relative_path(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a script in the project's folder writes it: ``sqlite:///mlflow.db``."""
    lab.add("base/catalog.yml", READERS)
    experiment = MlflowClient(f"sqlite:///{lab.store}").create_experiment("lab")
    monkeypatch.chdir(lab.store.parent)
    mlflow.set_tracking_uri(f"sqlite:///{lab.store.name}")

    with mlflow.start_run(experiment_id=experiment):
        assert save_and_read(lab, 0.5, "last_metrics") == 0.5


def test_the_run_before_a_run_within_another_is_not_the_one_before_that(lab: Lab) -> None:
    lab.add("base/catalog.yml", READERS)
    save_and_read(lab, 0.5, "last_metrics")
    client = MlflowClient(f"sqlite:///{lab.store}")
    parent = client.create_run(lab.runs()[0].info.experiment_id).info.run_id
    within = {"mlflow_parent_run_id": parent}

    assert save_and_read(lab, 0.4, "last_metrics", **within) == 0.4
    assert save_and_read(lab, 0.3, "before_metrics", **within) == 0.5


def test_a_catalog_is_of_its_own_context_whatever_is_made_later_and_on_any_thread(
    lab: Lab, tmp_path: Path
) -> None:
    """A look at another environment; an endpoint of a service, a page of Streamlit."""
    stores = {"prod": tmp_path / "prod.db", "local": lab.store}
    (lab.conf / "prod").mkdir()
    catalogs = {}
    for env, score in (("prod", 0.25), ("local", 0.5)):
        uri = f"sqlite:///{stores[env]}"
        (lab.conf / env / "mlflow.yml").write_text(f"tracking_uri: {uri}\nseparator: /\n")
        client = MlflowClient(uri)
        run = client.create_run(client.create_experiment("lab"))
        client.log_metric(run.info.run_id, "any_metrics/score", score)
        client.set_terminated(run.info.run_id)
        session = KedroSession.create(project_path=lab.path, conf_source=str(lab.conf), env=env)
        catalogs[env] = session.load_context().catalog

    def scores() -> dict[str, float]:
        return {env: each.load("any_metrics")["score"]["value"] for env, each in catalogs.items()}

    assert scores() == {"prod": 0.25, "local": 0.5}
    with ThreadPoolExecutor(1) as others:
        assert others.submit(scores).result() == {"prod": 0.25, "local": 0.5}

        def save() -> None:
            mlflow.set_tracking_uri(f"sqlite:///{stores['prod']}")
            with mlflow.start_run():
                catalogs["prod"].save("any_metrics", {"score": 0.125})

        others.submit(save).result()
    assert "any_metrics/score" in runs_in(stores["prod"])[-1].data.metrics


def test_outside_of_a_project_no_run_is_found_by_its_name(lab: Lab) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{lab.store}")

    with (
        mlflow.start_run(),
        pytest.raises(DatasetError, match="In which store the MLflow run 'shared' is"),
    ):
        MlflowMetricsDataset(prefix="a", load_args={"run": "shared"}).load()


@pytest.fixture
def keyed(lab: Lab) -> Lab:
    """A run that has the metric ``loss``, and a newer one that has only ``loss_val``."""
    entry = "{{type: lab.tracking.MlflowMetricsDataset, key: {}}}\n"
    for name, key in (("one_metric", "loss"), ("longer_metric", "loss_val")):
        lab.add("base/catalog.yml", f"\n{name}: {entry.format(key)}")
    both = Node(lambda: [0.5, 0.25], None, ["one_metric", "longer_metric"])
    run_nodes(lab, lambda _: [both])
    run_nodes(lab, lambda _: [Node(lambda: 0.75, None, "longer_metric")])
    return lab


def test_of_a_dataset_with_a_key_that_key_alone_is_read(keyed: Lab) -> None:
    both = keyed.runs()[0].info.run_id
    seen: list[Any] = []

    run_nodes(keyed, lambda _: [Node(seen.append, "one_metric", None, name="use")])
    catalog = keyed.context().catalog

    assert seen == [{"value": 0.5, "step": 0}] == [catalog.load("one_metric")]
    assert catalog.exists("one_metric")
    dataset = catalog["one_metric"]
    assert isinstance(dataset, MlflowMetricsDataset)
    preview: Any = dataset.preview()
    assert [curve["name"] for curve in preview["data"]] == ["loss"]
    read = MlflowMetricsDataset(key="loss", load_args={"run": both, "as": "frame"}).load()
    assert [*read["key"]] == ["loss"]


def test_a_key_that_no_run_has_is_an_error(keyed: Lab) -> None:
    keyed.add("base/catalog.yml", "part: {type: lab.tracking.MlflowMetricsDataset, key: los}\n")

    with pytest.raises(TrackingError, match=r"MLflow runs .* has the metric 'los'; run the nodes"):
        run_nodes(keyed, lambda _: [Node(print, "part", None, name="use")])

    assert not keyed.context().catalog.exists("part")
    with pytest.raises(DatasetError, match=r"no finished run .* has the metric 'los'; run the pip"):
        keyed.context().catalog.load("part")


def fill(store: Path, experiment: str, number: int) -> None:
    """Runs with ten metrics and two tags each, all of which have ended."""
    runs = [(uuid.uuid4().hex, 1000 + row) for row in range(number)]
    with sqlite3.connect(store) as database:
        database.executemany(
            "INSERT INTO runs (run_uuid, name, status, start_time, end_time, lifecycle_stage,"
            " artifact_uri, experiment_id, user_id, source_type)"
            " VALUES (?, 'a', 'FINISHED', ?, 9, 'active',"
            f" '/some/where/artifacts', {int(experiment)}, 'u', 'LOCAL')",
            runs,
        )
        database.executemany(
            "INSERT INTO tags (key, value, run_uuid) VALUES (?, 'x', ?)",
            [(f"kedro.{tag}", run) for run, _ in runs for tag in ("machine", "process")],
        )
        database.executemany(
            "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)"
            " VALUES (?, 0.5, 1, 1, 0, ?)",
            [(f"other_metrics.m{key}", run) for run, _ in runs for key in range(10)],
        )


def test_one_of_9_000_runs_is_found(lab: Lab) -> None:
    experiment = MlflowClient(f"sqlite:///{lab.store}").create_experiment("lab")
    fill(lab.store, experiment, 9_000)
    with sqlite3.connect(lab.store) as database:
        oldest = database.execute("SELECT run_uuid FROM runs ORDER BY start_time").fetchone()[0]
        database.execute(
            "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)"
            " VALUES ('Chain_metrics.a', 0.5, 1, 1, 0, ?), ('chain_metrics.a', 0.5, 1, 1, 0, ?)",
            (database.execute("SELECT max(run_uuid) FROM runs").fetchone()[0], oldest),
        )
    store = store_at(f"sqlite:///{lab.store}")

    found = store.newest_with(
        experiment,
        {name: Binding(name, name, ".", None).has for name in ("chain_metrics", "none_metrics")},
        False,
    )

    assert found == {"chain_metrics": oldest}


def test_runs_in_more_experiments_than_mlflow_gives_at_once(lab: Lab) -> None:
    client = MlflowClient(f"sqlite:///{lab.store}")
    with sqlite3.connect(lab.store) as database:
        database.executemany(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)"
            " VALUES (?, ?, '/mlartifacts', 'active')",
            [(number, f"e{number}") for number in range(1, 2_002)],
        )
    runs = [client.create_run(experiment) for experiment in ("0", "1", "1000", "2001")]

    found = store_at(f"sqlite:///{lab.store}").search_runs()

    assert {run.info.run_id for run in found} == {run.info.run_id for run in runs}
