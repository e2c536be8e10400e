"""Small saves are batched; none is left behind, and none fails unseen."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from faults import FaultyProxy, Server
from helpers import Lab, wait_until
from kedro.pipeline import Node, Pipeline
from kedro.runner import ParallelRunner, SequentialRunner, ThreadRunner
from lab.tracking.delivery import delivery
from lab.tracking.delivery.delivery import LIMIT, Batcher
from lab.tracking.store.errors import StoreUnavailableError


class Sink:
    """Takes requests as a store does; can be held up, and can fail."""

    def __init__(self) -> None:
        self.requests: list[list[Any]] = []
        self.open = threading.Event()
        self.open.set()
        self.error: Exception | None = None

    def send(self, points: list[Any]) -> None:
        self.open.wait(30)
        if self.error:
            raise self.error
        self.requests.append(points)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def batcher(sink: Sink) -> Iterator[Batcher]:
    batcher = Batcher(sink.send)
    yield batcher
    sink.open.set()
    sink.error = None
    if not batcher._error:
        batcher.close()


def test_small_saves_are_one_request_in_order(sink: Sink, batcher: Batcher) -> None:
    for number in range(300):
        batcher.add([number, -number])  # type: ignore[list-item]
    batcher.flush()

    written = [point for request in sink.requests for point in request]
    assert written == [point for number in range(300) for point in (number, -number)]
    assert len(sink.requests) <= 3


def test_a_request_takes_no_more_than_it_may(sink: Sink, batcher: Batcher) -> None:
    sink.open.clear()
    batcher.add(list(range(2500)))  # type: ignore[arg-type]
    sink.open.set()
    batcher.flush()

    assert [len(request) for request in sink.requests] == [1000, 1000, 500]


def test_a_point_does_not_wait_for_a_flush(sink: Sink, batcher: Batcher) -> None:
    batcher.add([1])  # type: ignore[list-item]

    wait_until(lambda: sink.requests, 10)


def test_a_slow_store_slows_the_producer_down(sink: Sink, batcher: Batcher) -> None:
    sink.open.clear()
    put = 0

    def produce() -> None:
        nonlocal put
        for _ in range(3 * LIMIT // 100):
            batcher.add(list(range(100)))  # type: ignore[arg-type]
            put += 100

    producer = threading.Thread(target=produce)
    producer.start()
    producer.join(1)
    assert producer.is_alive()
    assert put <= LIMIT + 2000
    sink.open.set()
    producer.join(30)
    batcher.flush()

    assert sum(map(len, sink.requests)) == 3 * LIMIT


def test_a_flush_does_not_wait_for_what_is_put_after_it(sink: Sink, batcher: Batcher) -> None:
    """SIGTERM closes the run while the node goes on saving, faster than the store answers."""
    flushed = threading.Event()

    def produce() -> None:
        while not flushed.is_set():
            batcher.add([0])  # type: ignore[list-item]

    def store_slowly(points: list[Any]) -> None:
        flushed.wait(0.01)
        sink.requests.append(points)

    batcher._write = store_slowly
    producer = threading.Thread(target=produce)
    producer.start()
    wait_until(lambda: sink.requests)
    flush = threading.Thread(target=batcher.flush)
    flush.start()
    flush.join(30)
    is_waiting = flush.is_alive()
    flushed.set()
    producer.join()
    flush.join()

    assert not is_waiting


def test_what_the_store_refused_is_raised_by_the_next_call(sink: Sink, batcher: Batcher) -> None:
    sink.error = ConnectionError("the store is gone")
    batcher.add([1])  # type: ignore[list-item]

    with pytest.raises(ConnectionError, match="the store is gone"):
        batcher.flush()
    with pytest.raises(ConnectionError, match="the store is gone"):
        batcher.add([2])  # type: ignore[list-item]
    with pytest.raises(ConnectionError, match="the store is gone"):
        batcher.close()


def test_what_waits_behind_a_refused_request_is_written(sink: Sink, batcher: Batcher) -> None:
    """It may be another dataset's."""

    def refuse_first(points: list[Any]) -> None:
        if 0 in points:
            raise ValueError("the store takes no 0")
        sink.requests.append(points)

    batcher._write = refuse_first
    batcher.add(list(range(2500)))  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="takes no 0"):
        batcher.close()
    assert [point for request in sink.requests for point in request] == list(range(1000, 2500))


def test_an_outage_ends_the_writing(sink: Sink, batcher: Batcher) -> None:
    """Without an outbox: each request would take its time to find out."""
    error = StoreUnavailableError("http://somewhere", ConnectionError("gone"))
    tried: list[int] = []

    def fail(points: list[Any]) -> None:
        tried.append(len(points))
        raise error

    batcher._write = fail
    batcher.add(list(range(2500)))  # type: ignore[arg-type]

    with pytest.raises(StoreUnavailableError):
        batcher.close()
    assert tried == [1000]


def test_a_flush_that_is_interrupted_leaves_the_batching_as_it_was(
    sink: Sink, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "BATCH_SECONDS", 60)
    sink.open.clear()
    batcher.add([1])  # type: ignore[list-item]
    with monkeypatch.context() as patched:
        patched.setattr(batcher, "_wait", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            batcher.flush()
    sink.open.set()
    wait_until(lambda: sink.requests)
    batcher.add([2])  # type: ignore[list-item]
    threading.Event().wait(0.3)  # a batcher that does not wait would write it
    batcher.add([3])  # type: ignore[list-item]
    batcher.close()

    assert sink.requests == [[1], [2, 3]]


def _interrupt(condition: object) -> None:
    raise KeyboardInterrupt


def _refuse(self: Any, metrics: Any) -> None:
    raise ConnectionError("the store is gone: http://user:hunter2@example.com")


@pytest.mark.parametrize("runner", [SequentialRunner, ThreadRunner])
def test_a_write_that_fails_is_the_error_of_the_run(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, runner: type
) -> None:
    monkeypatch.setattr("lab.tracking.delivery.delivery.Delivery._write", _refuse)

    with pytest.raises(ConnectionError, match="the store is gone"):
        lab.run("everything", node_names=["a"], runner=runner())

    (run,) = lab.runs()
    assert run.info.status == "FAILED"
    assert "ConnectionError: the store is gone: http://example.com" in run.data.tags["kedro.error"]


def test_the_error_of_a_node_is_not_hidden_by_a_write_that_fails(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lab.tracking.delivery.delivery.Delivery._write", _refuse)

    with pytest.raises(ValueError, match="the data is gone"):
        lab.run("ends", params={"end": "error"})

    assert [run.info.status for run in lab.runs()] == ["FAILED"]
    assert "Points were not written to MLflow: the store is gone" in caplog.text
    (logged,) = [record.getMessage() for record in caplog.records if "Points were" in record.msg]
    assert "hunter2" not in logged


def test_what_was_saved_can_be_loaded_at_once(lab: Lab) -> None:
    seen: list[Any] = []

    def read() -> Iterator[dict[str, float]]:
        for epoch in range(3):
            yield {"loss": float(epoch)}
            seen.append(catalog.load("stream_metrics"))

    session = lab.session()
    context: Any = session.load_context()
    catalog = context.catalog
    pipeline = Pipeline([Node(read, None, "stream_metrics", name="read")])
    params = {"project_path": str(lab.path), "kedro_version": "1", "pipeline_names": ["read"]}
    manager: Any = session._hook_manager
    manager.hook.before_pipeline_run(run_params=params, pipeline=pipeline, catalog=catalog)
    SequentialRunner().run(pipeline, catalog, manager)
    manager.hook.after_pipeline_run(
        run_params=params, run_result={}, pipeline=pipeline, catalog=catalog
    )

    assert [len(np) if isinstance(np := entry["loss"], list) else 1 for entry in seen] == [1, 2, 3]


@pytest.mark.slow
def test_a_forked_worker_batches_what_a_generator_yields(
    lab: Lab, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In others Kedro (1.7) calls no hooks: each yield is a request."""
    monkeypatch.setenv("KEDRO_MP_CONTEXT", "fork")
    with FaultyProxy(server.url, 0, 10) as proxy:
        lab.configure(tracking_uri=proxy.url)
        lab.run("everything", runner=ParallelRunner(), node_names=["stream"])

    assert len(lab.points()["stream_metrics.loss"]) == 20
    assert sum("log-batch" in path for path in proxy.paths) < 10


@pytest.mark.parametrize("runner", [SequentialRunner, ParallelRunner])
def test_points_that_can_not_be_written_at_the_end_fail_the_run(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, runner: type[SequentialRunner | ParallelRunner]
) -> None:
    """Also of a node whose first output, which ends first, is none of metrics."""
    monkeypatch.setenv("KEDRO_MP_CONTEXT", "fork")

    with pytest.raises(Exception, match="no such table: metrics"):
        lab.run("two_streams", runner=runner(), params={"store": str(lab.store)})

    with closing(sqlite3.connect(lab.store)) as database, database:
        database.execute("ALTER TABLE lost RENAME TO metrics")
    assert [run.info.status for run in lab.runs()] == ["FAILED"]
