"""A busy store: it answers, though not each thread of a process in time."""

from __future__ import annotations

import itertools
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from faults import SOON, FaultyProxy, Server
from helpers import Lab, Project, runs_in
from lab.tracking.delivery import opening
from lab.tracking.store import busy, mlflow_store
from lab.tracking.store.busy import MOST_AT_ONCE, Turns
from lab.tracking.store.errors import StoreUnavailableError
from lab.tracking.store.mlflow_store import (
    LONGEST_WAIT,
    RETRY_SECONDS,
    MlflowStore,
    Retry,
    store_at,
)


class Clock:
    """A time that passes by sleeping only."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (busy, mlflow_store):
        monkeypatch.setattr(module, "time", clock)
    return clock


def answer(retry: Retry) -> None:
    """The store answers another thread."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(retry, lambda: None).result()


def seconds_tried(clock: Clock, retry: Retry, meanwhile: Callable[[], object]) -> float:
    """For how long a request is tried that fails after 3 s, or when it has no more time."""
    began = clock.now

    def request() -> None:
        clock.sleep(min(3, retry.seconds_left()))
        meanwhile()
        raise TimeoutError

    with pytest.raises(TimeoutError):
        retry(request)
    return clock.now - began


def test_a_store_that_answers_other_threads_has_longer(clock: Clock) -> None:
    retry = Retry()
    with retry.deadline(8, if_busy=60):
        assert 60 - LONGEST_WAIT < seconds_tried(clock, retry, lambda: answer(retry)) <= 60


def test_and_no_longer_than_it_does(clock: Clock) -> None:
    retry, tries = Retry(), itertools.count()

    def thrice() -> None:
        if next(tries) < 3:
            answer(retry)

    with retry.deadline(8, if_busy=60):
        assert 3 * 3 + 8 - LONGEST_WAIT < seconds_tried(clock, retry, thrice) < 3 * 3 + 1 + 8


def test_what_it_answers_to_the_thread_itself_is_no_reason(clock: Clock) -> None:
    """Else each request of a start would have as long as all of them together."""
    retry = Retry()
    with retry.deadline(8, if_busy=60):
        for _ in range(5):
            retry(lambda: clock.sleep(1))
        assert seconds_tried(clock, retry, lambda: None) <= 3


@pytest.mark.parametrize("seconds", [None, 3.0])
def test_a_save_or_an_end_has_its_time_and_no_longer(clock: Clock, seconds: float | None) -> None:
    retry = Retry()
    with retry.deadline(seconds):
        limit = RETRY_SECONDS if seconds is None else seconds
        assert seconds_tried(clock, retry, lambda: answer(retry)) <= limit


def test_few_threads_open_runs_at_once_and_all_do() -> None:
    """However long all of them take together: a slow server answers."""
    answers = itertools.count()
    turns, within, seen = Turns(lambda: next(answers)), threading.Semaphore(MOST_AT_ONCE), []

    def open_run(number: int) -> None:
        with turns.take(seconds=0.01):
            assert within.acquire(blocking=False)
            time.sleep(0.05)
            within.release()
            seen.append(number)

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(open_run, range(64)))
    assert sorted(seen) == list(range(64))


def test_where_the_store_hangs_nobody_waits_for_all_before_them() -> None:
    turns, within = Turns(lambda: 7), threading.Barrier(MOST_AT_ONCE + 1)
    hang = threading.Event()

    def open_run() -> None:
        with turns.take(seconds=20):
            within.wait(20)
            hang.wait()
            raise TimeoutError

    with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        hung = [pool.submit(open_run) for _ in range(MOST_AT_ONCE)]
        within.wait(20)
        with turns.take(seconds=0.2):  # though none is free
            assert not any(one.done() for one in hung)
        hang.set()
    assert all(isinstance(one.exception(), TimeoutError) for one in hung)
    with ExitStack() as stack:  # all are free again
        for _ in range(MOST_AT_ONCE):
            stack.enter_context(turns.take(seconds=0))
        assert not turns._free.acquire(blocking=False)


def test_a_server_that_answers_nobody_is_not_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask it, and though to open its store asks nothing of it."""
    monkeypatch.setattr(opening, "START_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(12) as pool:
        store = MlflowStore(f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()

        def begin(user: int) -> None:
            with opening.tracking(store, {}, user):
                store.experiment_id("lab")

        starts = [pool.submit(begin, user) for user in range(12)]

    assert all(isinstance(start.exception(), StoreUnavailableError) for start in starts)
    assert time.monotonic() - began < SOON
    assert store.retry.answers == 0


@pytest.mark.slow
def test_a_run_begins_while_the_store_answers_others(
    lab: Lab, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "START_SECONDS", 5.0)
    ended = threading.Event()

    def read_on(store: MlflowStore) -> None:
        while not ended.wait(0.1):
            store.call(lambda client: client.get_experiment("0"))

    with FaultyProxy(server.url, share=0, timeout=1) as proxy, ThreadPoolExecutor(1) as pool:
        lab.configure(tracking_uri=proxy.url)
        reader = pool.submit(read_on, store_at(proxy.url))
        proxy.delays = {"experiments/get-by-name": 7.0}
        try:
            lab.run("everything", node_names=["a"])
        finally:
            ended.set()
        reader.result()

    assert proxy.delays == {}
    (run,) = lab.runs()
    assert run.info.status == "FINISHED"


LATE = """
import sys, time
from kedro.framework.cli.cli import main

class MlflowIsLate:
    real = staticmethod(time.monotonic)
    seconds = 0

    def find_spec(self, name, *rest):
        if name == "mlflow.version":  # which MLflow imports first
            MlflowIsLate.seconds += 100

sys.meta_path.insert(0, MlflowIsLate())
time.monotonic = lambda: MlflowIsLate.real() + MlflowIsLate.seconds
try:
    main()
finally:
    assert MlflowIsLate.seconds == 100
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "metrics show"])
def test_the_time_to_import_mlflow_is_not_the_stores(
    project: Project, tmp_path: Path, command: str
) -> None:
    """On a busy machine it takes longer than a store has to answer."""
    with (
        Server(project.store, tmp_path) as server,
        FaultyProxy(server.url, share=0, timeout=1) as proxy,
    ):
        project.write("conf/local/mlflow.yml", f"tracking_uri: {proxy.url}\n")
        if command != "run":
            project.kedro("run")
        proxy.delays = {"experiments/get-by-name": 1.5}
        project.command(sys.executable, "-c", LATE, *command.split())

    (run,) = runs_in(project.store)
    assert run.info.status == "FINISHED"
