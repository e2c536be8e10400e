"""The way of requests to one MLflow run: store, outbox and drain, whatever fails between them."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faults import Server, outage_after
from helpers import Lab, points_in, wait_until, waiting_in
from kedro.io import DatasetError
from lab.tracking.delivery import route as routes
from lab.tracking.delivery.delivery import Delivery, delivery_to
from lab.tracking.delivery.outbox import Outbox, Request, RunEnd
from lab.tracking.delivery.route import Destination, Route, send
from lab.tracking.points import Point, by_key, parse
from lab.tracking.process.state import process_state
from lab.tracking.store.errors import StoreUnavailableError, TrackingError
from lab.tracking.store.mlflow_store import MlflowStore
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from test_outages import count, meanwhile


@pytest.fixture
def destination(lab: Lab, tmp_path: Path) -> Destination:
    """A new run in an SQLite store, with an outbox."""
    uri = f"sqlite:///{lab.store}"
    run_id = MlflowClient(uri).create_run("0").info.run_id
    return Destination(uri, run_id, Outbox(tmp_path / "mlflow-spool.db", uri))


def outbox_of(destination: Destination) -> Outbox:
    assert destination.outbox
    return destination.outbox


def point(step: int) -> Request:
    return Request([Point("k", float(step), step, step)])


def save(delivery: Delivery, step: int) -> None:
    metrics = by_key(parse({"loss": {"value": float(step), "step": step}}), "x", ".")
    delivery.send(metrics, delivery.steps.number(metrics, "x"))


def end(status: str) -> RunEnd:
    return RunEnd(status, time.time_ns() // 1_000_000)


def soon() -> float:
    """Until when a process waits that is told to end, on the monotonic clock."""
    return time.monotonic() + routes.HASTY_SECONDS


def status_of(destination: Destination) -> str:
    client = MlflowClient(destination.tracking_uri)
    return str(client.get_run(destination.run_id).info.status)


# The outbox can't be had


@pytest.mark.slow
def test_an_outbox_that_is_locked_for_long_costs_no_point(
    lab: Lab, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A backup, a viewer: while the store is hung, and after it answers again."""
    monkeypatch.setattr("lab.tracking.delivery.outbox.OUTBOX_BUSY_SECONDS", 0.2)
    lab.configure(tracking_uri=server.url)
    running = tmp_path / "running"
    running.touch()

    def act() -> None:
        try:
            wait_until(lambda: count(lab.store) > 0)
            server.signal_group(signal.SIGSTOP)
            wait_until(lambda: lab.outbox.exists() and waiting_in(lab.outbox))
            with closing(sqlite3.connect(lab.outbox, isolation_level=None)) as database:
                wait_until(lambda: _is_locked(database))
                server.signal_group(signal.SIGCONT)
                before = count(lab.store)
                wait_until(lambda: count(lab.store) > before + 1000)
                database.execute("ROLLBACK")
        finally:
            server.signal_group(signal.SIGCONT)
            running.unlink()

    with meanwhile(act):
        lab.run("endless", params={"until_removed": str(running)})

    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    steps = len(running.with_suffix(".yields").read_text().splitlines())
    found = points_in(lab.store, run)
    assert {len(points) for points in found.values()} == {steps}
    assert waiting_in(lab.outbox) == []


def _is_locked(database: sqlite3.Connection) -> bool:
    try:
        database.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        return False
    return True


def test_an_error_that_is_raised_again_is_no_circle(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The save raises it, then the end of the run: rich, which prints it, would never end."""

    def refuse(self: Any, points: Any) -> None:
        raise ConnectionError("the store is gone")

    monkeypatch.setattr(Delivery, "_write", refuse)

    with pytest.raises(DatasetError) as caught:
        lab.run("flow", params={"yields": 1000, "pause": 0.01})

    seen: list[BaseException] = []
    error: BaseException | None = caught.value
    while error:
        assert error not in seen
        seen.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert isinstance(seen[-1], ConnectionError)


def test_what_the_store_refuses_is_another_error_each_time(destination: Destination) -> None:
    route = Route(destination)
    route.write(Request(params={"a": "1"}))
    outbox_of(destination).add(destination.run_id, Request(params={"a": "2"}))

    with pytest.raises(TrackingError, match="can't be written to sqlite:") as first:
        route.end(None)
    with pytest.raises(TrackingError, match="metrics sync --discard") as second:
        route.write(point(0))

    assert first.value is not second.value


# The end of a run


@pytest.mark.parametrize("status", ["FINISHED", "KILLED"])
def test_a_run_whose_points_are_refused_has_an_end(destination: Destination, status: str) -> None:
    route = Route(destination)
    route.write(Request(params={"a": "1"}))
    outbox_of(destination).add(destination.run_id, Request(params={"a": "2"}))
    outbox_of(destination).add(destination.run_id, point(0))

    with pytest.raises(TrackingError, match="can't be written"):
        route.end(end(status))
    if status == "KILLED":
        with pytest.raises(TrackingError, match="can't be written"):
            route.end(end(status))

    run = MlflowClient(destination.tracking_uri).get_run(destination.run_id)
    assert run.info.status == ("KILLED" if status == "KILLED" else "FAILED")
    assert ("can't be written" in run.data.tags.get("kedro.error", "")) is (status == "FINISHED")


def test_all_is_closed_though_the_first_fails(lab: Lab, destination: Destination) -> None:
    """The store refuses what is written to the run itself, not to one that the catalog names."""
    client = MlflowClient(destination.tracking_uri)
    named = client.create_run("0").info.run_id
    lab.add("base/catalog.yml", f"b_metrics: {{type: {MLFLOW_METRICS}, run_id: {named}}}")
    close = Delivery.close

    def refused(self: Delivery) -> None:
        close(self)
        if self.destination.run_id != named:
            raise MlflowException("refused")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(MlflowException, match="refused"):
        patch.setattr(Delivery, "close", refused)
        lab.run("everything", node_names=["a", "b"])

    assert process_state().deliveries == {}
    assert process_state().open_runs == []
    assert [run.info.status for run in lab.runs()] == ["RUNNING", "RUNNING", "FAILED"]
    assert points_in(lab.store, client.get_run(named))["b_metrics.score"] == [(0, 0.5)]


MLFLOW_METRICS = "lab.tracking.MlflowMetricsDataset"


@pytest.mark.slow
def test_who_ends_a_run_does_not_wait_for_its_parameters(
    lab: Lab, server: Server, tmp_path: Path
) -> None:
    run_id = MlflowClient(server.url).create_run("0").info.run_id
    outbox = Outbox(tmp_path / "mlflow-spool.db", server.url)
    route = Route(Destination(server.url, run_id, outbox))
    route.write(point(0))
    server.signal_group(signal.SIGSTOP)
    try:
        # Parameters wait 20 s for the store, which may refuse them.
        logging = threading.Thread(target=route.write, args=(Request(params={"a": "1"}),))
        logging.start()
        wait_until(lambda: not route._pending.done())
        began = time.monotonic()
        route.end(end("KILLED"), soon())
        took = time.monotonic() - began
        is_logging = logging.is_alive()
    finally:
        server.signal_group(signal.SIGCONT)
    logging.join()

    assert is_logging
    assert took < 10
    assert '"KILLED"' in waiting_in(outbox.path)[0][1]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """From its call on, the store takes so many seconds more for each request."""

    def slow_down(seconds: float) -> None:
        def slowly(*arguments: Any) -> None:
            time.sleep(seconds)
            send(*arguments)

        monkeypatch.setattr(routes, "send", slowly)

    monkeypatch.setattr(routes, "CONFIRM_SECONDS", 0.02)
    return slow_down


def test_who_is_told_to_end_waits_for_a_store_that_is_slow(
    destination: Destination, slow: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an SQLite file is on a busy machine, and a server that is far away."""
    monkeypatch.setattr(routes, "HASTY_SECONDS", 60.0)
    route = Route(destination)
    route.write(point(0))
    route.end(None)  # the store has confirmed the point
    slow(0.1)
    route.write(point(1))
    route.write(point(2))

    route.end(end("KILLED"), soon())

    assert status_of(destination) == "KILLED"
    assert waiting_in(outbox_of(destination).path) == []


def test_who_is_told_to_end_waits_for_seconds_however_much_waits(
    destination: Destination, slow: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "HASTY_SECONDS", 1.0)
    route = Route(destination)
    for number in range(60):  # each is a request
        outbox_of(destination).add(destination.run_id, Request(params={f"a{number}": "1"}))
    route.write(point(0))
    slow(0.5)

    route.end(end("KILLED"), soon())

    assert '"KILLED"' in waiting_in(outbox_of(destination).path)[-1][1]
    assert status_of(destination) == "RUNNING"
    slow(0.0)
    route.end(None)
    assert status_of(destination) == "KILLED"


@pytest.mark.timeout(60)
def test_who_is_told_to_end_does_not_wait_when_another_run_has_taken_the_time(
    destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()

    def held(*arguments: Any) -> None:
        answers.wait()
        send(*arguments)

    monkeypatch.setattr(routes, "send", held)
    for limit in "HASTY_SECONDS", "RETRY_SECONDS":
        monkeypatch.setattr(routes, limit, 1000.0)
    route = Route(destination)
    without_outbox = Route(replace(destination, outbox=None))

    route.end(end("KILLED"), until=time.monotonic())

    assert '"KILLED"' in waiting_in(outbox_of(destination).path)[0][1]
    answers.set()
    route.end(None)
    assert status_of(destination) == "KILLED"
    # There it is tried once, as there is no other place for it.
    without_outbox.end(end("FAILED"), until=time.monotonic())
    assert status_of(destination) == "FAILED"


# No thread can be started


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, none can: a container's limit is reached, or Python 3.12 exits."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    return lambda: monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.mark.timeout(60)
def test_points_are_written_where_no_thread_can_be_started(
    destination: Destination, no_threads: Callable[[], None]
) -> None:
    delivery = delivery_to(destination)
    delivery.open()
    no_threads()

    save(delivery, 0)
    save(delivery, 1)
    delivery.close()
    delivery.route.end(end("FINISHED"))

    assert status_of(destination) == "FINISHED"
    assert MlflowClient(destination.tracking_uri).get_run(destination.run_id).data.metrics
    assert not outbox_of(destination).path.exists()


@pytest.mark.timeout(60)
def test_in_an_outage_points_wait_where_no_thread_can_be_started(
    lab: Lab, destination: Destination, no_threads: Callable[[], None]
) -> None:
    delivery = delivery_to(destination)
    delivery.open()
    error = StoreUnavailableError(destination.tracking_uri, ConnectionError("gone"))
    delivery.route.breaker.record_failure(error)
    no_threads()

    save(delivery, 0)
    save(delivery, 1)
    delivery.close()
    delivery.route.end(end("KILLED"), soon())

    assert len(waiting_in(outbox_of(destination).path)) == 3
    assert status_of(destination) == "RUNNING"


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_hung_store_is_asked_for_seconds_where_no_thread_can_be_started(
    server: Server, tmp_path: Path, no_threads: Callable[[], None]
) -> None:
    run_id = MlflowClient(server.url).create_run("0").info.run_id
    outbox = Outbox(tmp_path / "mlflow-spool.db", server.url)
    delivery = delivery_to(Destination(server.url, run_id, outbox))
    delivery.open()
    delivery.route.write(point(0))
    server.signal_group(signal.SIGSTOP)
    no_threads()
    try:
        began = time.monotonic()
        save(delivery, 1)
        delivery.close()
        delivery.route.end(end("KILLED"), soon())
        took = time.monotonic() - began
    finally:
        server.signal_group(signal.SIGCONT)

    assert took < 10
    assert len(waiting_in(outbox.path)) == 2


# The store can be read, and not written: its disk is full, a permission has been withdrawn


@pytest.fixture
def locked(destination: Destination) -> Iterator[sqlite3.Connection]:
    """The store, in a transaction that another process does not end; readers see it as it was."""
    path = destination.tracking_uri.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as database:
        yield database


@pytest.mark.slow  # MLflow has SQLite wait 20 s for a lock
def test_a_store_that_can_be_read_does_not_answer_who_writes(
    destination: Destination, locked: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    route = Route(destination)
    with outage_after(1):
        route.write(point(0))
        locked.execute("BEGIN IMMEDIATE")
        route.write(point(1))
        wait_until(lambda: route.breaker.error)

        wait_until(lambda: not route.breaker.seconds_left())
        assert route.last_steps() == ({"k": 1}, True)
        assert route.histories("k") == {"k": [(0, 0, 0.0), (1, 1, 1.0)]}
        assert route.breaker.error

        locked.execute("ROLLBACK")
        wait_until(lambda: waiting_in(outbox_of(destination).path) == [])
    assert route.breaker.error is None
    told = [r.getMessage() for r in caplog.records if destination.tracking_uri in r.getMessage()]
    assert ["does not answer" in text for text in told] == [True, False]


def test_steps_that_the_store_gives_while_it_takes_no_points_are_known(
    destination: Destination, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that others have written to: its points count on, and no tried ones are repeated."""
    Route(destination).write(point(0))
    shared = replace(destination, is_external=True)
    delivery = delivery_to(shared).open()
    error = StoreUnavailableError(destination.tracking_uri, ConnectionError("its disk is full"))
    delivery.route.breaker.record_failure(error, is_write=True)
    delivery.route.breaker.allow()

    delivery.look_up_steps("x", again=False)

    assert delivery.steps.answered == {"x": True}
    assert "begin at 0" not in caplog.text
    delivery.close()


# What happens at the same time


@pytest.mark.parametrize("read", ["histories", "last_steps"])
def test_a_load_misses_nothing_that_is_sent_meanwhile(
    destination: Destination, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    """A request goes from the outbox to the store just when the store has been read."""
    route = Route(destination)
    outbox_of(destination).add(destination.run_id, point(0))
    outbox_of(destination).add(destination.run_id, point(1))
    ask: Any = getattr(MlflowStore, read)

    def then_drain(*arguments: Any) -> Any:
        found = ask(*arguments)
        route.end(None)
        return found

    monkeypatch.setattr(MlflowStore, read, then_drain)

    found: Any = route.histories("k") if read == "histories" else route.last_steps()[0]

    assert waiting_in(outbox_of(destination).path) == []
    assert found == {"k": [(0, 0, 0.0), (1, 1, 1.0)] if read == "histories" else 1}


def test_a_drain_that_ends_does_not_stop_the_next_one(
    destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has found nothing that waits; before its thread ends, something does."""
    drain = Route(destination)._drain
    assert drain
    done: Future[None] = Future()
    done.set_result(None)
    threads: list[threading.Thread] = []
    may_end = threading.Event()

    def send_oldest() -> bool:
        threads.append(threading.current_thread())
        if len(threads) == 1:
            drain.is_active = False
            drain.start(done)
        else:
            may_end.wait(30)
        return False

    monkeypatch.setattr(drain, "_send_oldest", send_oldest)
    drain.start(done)
    wait_until(lambda: len(threads) > 1)
    threads[0].join()
    was_active = drain.is_active
    may_end.set()
    wait_until(lambda: not drain.is_active)

    assert was_active


def test_who_opens_a_delivery_that_has_just_been_closed_gets_the_next_one(
    destination: Destination,
) -> None:
    """Two Kedro runs use the same external run: the second begins just as the first ends."""
    first = delivery_to(destination)
    first.open()
    found = delivery_to(destination)
    first.close()
    second = found.open()

    assert delivery_to(destination) is second
    assert second is not first
    save(second, 0)
    second.close()
    assert process_state().deliveries == {}


def test_an_error_of_any_kind_on_a_thread_is_raised(
    destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(*arguments: Any) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(routes, "send", leave)
    delivery = delivery_to(destination)
    delivery.open()
    save(delivery, 0)

    with pytest.raises(SystemExit):
        delivery.flush()


def test_what_the_store_confirms_late_is_not_sent_again(
    destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first request to a database is slow; a second one would be refused as a double."""
    sent: list[int] = []
    original = MlflowStore.log_points

    def log_slowly(self: MlflowStore, run_id: str, points: Any) -> None:
        sent.append(points[0].step)
        if len(sent) == 1:
            wait_until(lambda: outbox_of(destination).waiting(run_id))
        original(self, run_id, points)

    monkeypatch.setattr(MlflowStore, "log_points", log_slowly)
    route = Route(destination)
    route.write(point(1))
    route.write(point(2))
    route.end(end("FINISHED"))

    assert sent == [1, 2]
    assert route.count_waiting() is None
    assert status_of(destination) == "FINISHED"
