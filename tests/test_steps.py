"""Points without a step count on from what the run has, which is looked up once."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import pytest
from faults import Server
from helpers import Lab
from kedro.runner import ParallelRunner, SequentialRunner, ThreadRunner
from lab.tracking.dataset import MlflowMetricsDataset
from lab.tracking.delivery.binding import Binding
from lab.tracking.delivery.delivery import delivery_to
from lab.tracking.delivery.outbox import Outbox
from lab.tracking.delivery.route import Destination
from lab.tracking.store.errors import StoreUnavailableError
from lab.tracking.store.mlflow_store import MlflowStore, store_at
from mlflow import MlflowClient

SHARED = "{type: lab.tracking.MlflowMetricsDataset, prefix: shared}"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs whose last steps the store was asked for."""
    asked: list[str] = []
    ask = MlflowStore.last_steps

    def last_steps(self: MlflowStore, run_id: str) -> dict[str, int]:
        asked.append(run_id)
        return ask(self, run_id)

    monkeypatch.setattr(MlflowStore, "last_steps", last_steps)
    return asked


@pytest.mark.parametrize("runner", [SequentialRunner, ThreadRunner])
def test_overlapping_datasets_count_on_from_each_other_and_ask_once_each(
    lab: Lab, runner: type, requests: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    lab.add("base/catalog.yml", f"\nleft_metrics: {SHARED}\nright_metrics: {SHARED}\n")

    lab.run("own_key", node_names=["left", "right"], runner=runner())

    assert [step for step, _ in lab.points()["shared.loss"]] == list(range(100))
    assert len(requests) == 2
    assert len([record for record in caplog.records if "both write" in record.msg]) == 1


@pytest.mark.slow
def test_of_overlapping_datasets_in_two_processes_every_point_is_there(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes that run at the same time may give two points one step: both are kept."""
    monkeypatch.setenv("KEDRO_MP_CONTEXT", "spawn")
    lab.add("base/catalog.yml", f"\nleft_metrics: {SHARED}\nright_metrics: {SHARED}\n")

    lab.run("own_key", node_names=["left", "right"], runner=ParallelRunner(max_workers=2))

    points = lab.points()["shared.loss"]
    assert sorted(value for _, value in points) == [0.25] * 50 + [0.5] * 50
    for value in (0.25, 0.5):  # each dataset's own steps follow each other
        own = [step for step, each in points if each == value]
        assert own == list(range(own[0], own[0] + 50))


def test_nodes_in_two_processes_one_after_the_other_count_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEDRO_MP_CONTEXT", "spawn")
    prefixed = "{type: lab.tracking.MlflowMetricsDataset, prefix: baseline}"
    lab.add("base/catalog.yml", f"\nfirst_metrics: {prefixed}\nsecond_metrics: {prefixed}\n")

    lab.run("same_key", runner=ParallelRunner(max_workers=2))

    assert lab.points() == {"baseline.score": [(0, 0.5), (1, 1.5)]}


@pytest.mark.parametrize("runner", [SequentialRunner, ThreadRunner])
def test_the_step_after_one_that_a_node_logged_itself_is_the_next(lab: Lab, runner: type) -> None:
    lab.run("own_key", node_names=["log"], runner=runner())

    assert lab.points() == {"same_metrics.loss": [(9, 0.9), (10, 0.1)]}


def test_where_every_point_has_its_step_nothing_is_asked(lab: Lab, requests: list[str]) -> None:
    dataset, _ = external(lab)

    dataset.save({"loss": {"value": 0.5, "step": 3}})
    assert requests == []
    dataset.save({"loss": 0.4, "other": 1.0})
    dataset.save({"loss": 0.3, "new": [1.0, 2.0]})

    assert len(requests) == 1
    assert [point["step"] for point in dataset.load()["loss"]] == [3, 4, 5]


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (Binding("a", "m", ".", None), Binding("b", "m", ".", None), True),
        (Binding("a", "m", ".", None), Binding("b", "m.loss", ".", None), True),
        (Binding("a", "m", ".", None), Binding("b", "mm", ".", None), False),
        (Binding("a", "", ".", None), Binding("b", "m", ".", None), True),
        (Binding("a", "m", ".", None), Binding("b", "", ".", None, key="m.loss"), True),
        (Binding("a", "m", ".", None), Binding("b", "", ".", None, key="m"), False),
        (Binding("a", "", ".", None, key="m"), Binding("b", "", ".", None, key="mm"), False),
        (Binding("a", "", ".", None, key="m"), Binding("b", "", ".", None, key="m"), True),
    ],
)
def test_which_datasets_may_write_the_same_key(one: Binding, other: Binding, overlap: bool) -> None:
    assert (one.overlaps(other), other.overlaps(one)) == (overlap, overlap)


def external(lab: Lab, *overlapping: str, name: str = "m") -> tuple[MlflowMetricsDataset, Any]:
    uri = f"sqlite:///{lab.store}"
    outbox = Outbox(lab.outbox, uri)
    run_id = (lab.runs() or [MlflowClient(uri).create_run("0")])[0].info.run_id
    dataset = MlflowMetricsDataset()
    destination = Destination(uri, run_id, outbox, is_external=True)
    dataset.bind(Binding(name, "m", ".", destination, overlapping=overlapping))
    return dataset, destination


def test_a_key_that_an_external_run_has_is_not_taken_for_another_datasets(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, destination = external(lab)
    MlflowClient(destination.tracking_uri).log_metric(destination.run_id, "m.loss", 1.0, step=4)
    dataset, _ = external(lab, "other")

    dataset.save({"loss": 0.5})

    assert not [record for record in caplog.records if "both write" in record.msg]
    assert [point["step"] for point in dataset.load()["loss"]] == [4, 5]


def test_in_an_outage_it_is_said_that_the_steps_of_an_external_run_are_not_known(
    lab: Lab,
    server: Server,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lab.tracking.store.mlflow_store.RETRY_SECONDS", 1.0)
    client = MlflowClient(server.url)
    run_id = client.create_run("0").info.run_id
    client.log_metric(run_id, "m.loss", 1.0, step=4)
    outbox = Outbox(lab.outbox, server.url)
    dataset = MlflowMetricsDataset()
    dataset.bind(Binding("m", "m", ".", Destination(server.url, run_id, outbox, is_external=True)))
    server.stop()

    dataset.save({"loss": 0.5})
    dataset.save({"loss": 0.4})

    said = [r.getMessage() for r in caplog.records if "points without a step" in r.getMessage()]
    assert len(said) == 1
    assert run_id in said[0]


def test_threads_that_write_one_key_share_no_step(lab: Lab) -> None:
    first, destination = external(lab, "n")
    second, _ = external(lab, "m", name="n")
    delivery_to(destination).open()

    def write(dataset: MlflowMetricsDataset) -> None:
        for _ in range(200):
            dataset.save({"loss": 0.5})

    threads = [threading.Thread(target=write, args=(each,)) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    delivery_to(destination).close()

    assert [step for step, _ in lab.points()["m.loss"]] == list(range(400))


def test_nan_from_a_server_is_the_same_point_as_nan_from_the_outbox(
    lab: Lab, server: Server
) -> None:
    run_id = MlflowClient(server.url).create_run("0").info.run_id
    MlflowClient(server.url).log_metric(run_id, "m.loss", math.nan, timestamp=1, step=0)

    by_server = store_at(server.url).histories(run_id, "m.")
    by_file = store_at(f"sqlite:///{lab.store}").histories(run_id, "m.")

    assert len({*by_server["m.loss"], *by_file["m.loss"]}) == 1


def test_threads_that_read_have_the_callers_deadline(
    lab: Lab, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(server.url)
    run_id = client.create_run("0").info.run_id
    client.log_metric(run_id, "m.loss", 0.5)
    store = store_at(server.url)
    left: list[float] = []
    seconds_left = store.retry.seconds_left

    def noted() -> float:
        left.append(seconds_left())
        return left[-1]

    monkeypatch.setattr(store.retry, "seconds_left", noted)
    store._client = None  # made anew, with that

    with store.deadline(5.0):
        store.histories(run_id, "m.")

    assert len(left) >= 2
    assert max(left) <= 5.0


def test_in_an_outage_the_outbox_is_not_read_for_each_save(
    lab: Lab, tmp_path: Path, requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{lab.store}"
    run_id = MlflowClient(uri).create_run("0").info.run_id
    outbox = Outbox(tmp_path / "mlflow-spool.db", uri)
    dataset = MlflowMetricsDataset()
    dataset.bind(Binding("a", "a", ".", Destination(uri, run_id, outbox, is_external=True)))
    assert dataset.binding
    assert dataset.binding.destination
    delivery = delivery_to(dataset.binding.destination).open()
    delivery.route.breaker.record_failure(StoreUnavailableError(uri, ConnectionError("gone")))
    read: list[str] = []
    all_waiting = Outbox.all_waiting

    def counted(self: Outbox, run_id: str) -> Any:
        read.append(run_id)
        return all_waiting(self, run_id)

    monkeypatch.setattr(Outbox, "all_waiting", counted)

    delivery.route.breaker.seconds_left = lambda: 60.0  # type: ignore[method-assign]
    for _ in range(50):
        delivery.look_up_steps("a", again=False)

    assert (len(read), requests) == (1, [])
    delivery.route.breaker.record_success()
    del delivery.route.breaker.seconds_left
    delivery.look_up_steps("a", again=False)
    assert requests == [run_id]
    delivery.close()
