"""Many Kedro runs at once in one process: whatever another thread does just now."""

from __future__ import annotations

import io
import logging
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import Lab, forget_store, wait_until
from lab.tracking.delivery.delivery import Delivery, delivery_to
from lab.tracking.delivery.route import Destination
from lab.tracking.names import Tag
from lab.tracking.points import Points
from lab.tracking.process import mlflow_globals
from lab.tracking.process.active_runs import is_executed
from lab.tracking.process.mlflow_globals import (
    RUN_ID,
    STORE,
    Default,
    _set_for_run,
    user_environment,
)
from lab.tracking.process.state import ProcessState
from lab.tracking.process.termination import TerminationWatch
from lab.tracking.reports.live import LiveLines, _Watched
from lab.tracking.reports.saving_once import KEDROS_LOGGER, SavingOnce
from lab.tracking.store.mlflow_store import Retry
from lab.tracking.store.queries import delete_tag
from mlflow import MlflowClient
from mlflow.tracking.default_experiment import registry as default_experiments
from rich.console import Console

SESSION = """
def run(catalog, act, ended):
    while not ended.is_set():
        act()
"""


def test_a_session_is_at_work_whenever_another_thread_asks() -> None:
    """Also while one of its context managers, a generator, is entered or left."""

    @contextmanager
    def managed() -> Iterator[None]:
        yield

    def act() -> None:
        with managed(), managed():
            pass

    kedro: dict[str, Any] = {"__name__": "kedro.framework.session"}
    exec(SESSION, kedro)
    catalog = object()
    ended = threading.Event()
    thread = threading.Thread(target=kedro["run"], args=(catalog, act, ended))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # both take turns as often as can be
    thread.start()
    try:
        wait_until(lambda: is_executed(id(catalog), thread))
        seen = {is_executed(id(catalog), thread) for _ in range(20_000)}
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        thread.join()

    assert seen == {True}
    assert not is_executed(id(catalog), thread)


def test_an_open_run_is_found_while_another_one_ends() -> None:
    state = ProcessState()

    class Ending:
        @property
        def catalog_id(self) -> int:
            state.open_runs.remove(self)  # as another thread does just now
            return 1

    own = SimpleNamespace(catalog_id=2)
    state.open_runs += [Ending(), own]

    assert state.run_of(2) is own


def test_a_tag_that_another_run_removes_at_once_is_removed(lab: Lab) -> None:
    client = MlflowClient(f"sqlite:///{lab.store}")
    run_id = client.create_run("0", tags={Tag.ERROR: "a"}).info.run_id

    class Late(MlflowClient):
        def delete_tag(self, run_id: str, key: str) -> None:
            client.delete_tag(run_id, key)
            super().delete_tag(run_id, key)

    delete_tag(Late(f"sqlite:///{lab.store}"), run_id, Tag.ERROR)

    assert Tag.ERROR not in client.get_run(run_id).data.tags


def test_a_tag_that_stays_is_an_error(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    client = MlflowClient(f"sqlite:///{lab.store}")
    run_id = client.create_run("0", tags={Tag.ERROR: "a"}).info.run_id

    def refuse(*_: object) -> None:
        raise OSError("not today")

    monkeypatch.setattr(client, "delete_tag", refuse)

    with pytest.raises(OSError, match="not today"):
        delete_tag(client, run_id, Tag.ERROR)


def test_a_variable_that_is_removed_while_the_environment_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(STORE, "sqlite:///a.db")
    monkeypatch.setenv("ANOTHER", "a")

    def encode(key: str) -> Any:  # of each look into the environment
        monkeypatch.undo()
        os.environ.pop(STORE, None)
        os.environ["ANOTHER"] = "a"
        return os.environ.encodekey(key)

    monkeypatch.setattr(os.environ, "encodekey", encode)
    try:
        found = user_environment()
    finally:
        os.environ.pop("ANOTHER", None)

    assert STORE not in found
    assert found["ANOTHER"] == "a"


def test_what_the_user_has_set_is_seen_while_a_run_sets_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(RUN_ID, "the user's")
    monkeypatch.setenv(STORE, "the user's")
    seen = []

    def looking(change: Callable[..., None]) -> Callable[..., None]:
        def look_and_change(*arguments: Any) -> None:
            seen.append({user_environment().get(name) for name in (RUN_ID, STORE)})
            change(*arguments)

        return look_and_change

    for change in (os.putenv, os.unsetenv):
        monkeypatch.setattr(os, change.__name__, looking(change))
    try:
        _set_for_run({STORE: "sqlite:///a.db", RUN_ID: None})
        seen.append({user_environment().get(name) for name in (RUN_ID, STORE)})
    finally:
        os.environ.pop("KEDRO_MLFLOW_SET_BY_RUN", None)

    assert len(seen) > 3  # of three changes, and after them
    assert all(each == {"the user's"} for each in seen)


def test_the_filter_of_one_run_is_removed_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger(KEDROS_LOGGER)
    monkeypatch.setattr(logger, "filters", [])
    first, own, last = (SavingOnce(number) for number in range(3))
    for each in (first, own, last):
        each.begin()

    own.end()

    assert logger.filters == [first, last]
    with monkeypatch.context() as patch:
        patch.setattr(logger, "removeFilter", lambda _: logger.filters.remove(own))
        first.end()  # what another thread has removed already


@pytest.fixture
def destination(lab: Lab) -> Destination:
    run = MlflowClient(f"sqlite:///{lab.store}").create_run("0")
    return Destination(f"sqlite:///{lab.store}", run.info.run_id)


def test_who_begins_or_ends_to_observe_takes_nothing_from_others(destination: Destination) -> None:
    delivery = delivery_to(destination)
    seen: list[str] = []

    def once(*_: object) -> None:
        seen.append("once")
        delivery.observers.remove(once)
        delivery.observers.append(lambda *_: seen.append("later"))

    delivery.observers += [once, lambda *_: seen.append("always")]
    for value in (1.0, 2.0):
        delivery.send({"m.a": Points("a", (value,))}, {"m.a": (int(value),)})

    assert seen == ["once", "always", "always", "later"]


class Slow(dict[str, str]):
    """Credentials during whose use another thread goes as far as it can."""

    other: threading.Thread

    def __iter__(self) -> Iterator[str]:
        if self.other.ident is None:
            self.other.start()
            self.other.join(0.2)
        return super().__iter__()


def test_two_threads_that_point_mlflow_at_a_store_leave_one_default() -> None:
    """As a service does that makes a context for each request."""
    state, uri, first = ProcessState(), "sqlite:////nowhere/some.db", Slow(SECRET_A="a")
    first.other = threading.Thread(
        target=state.set_default_store, args=(Default(uri, {"SECRET_B": "b"}, lambda: "0"),)
    )
    providers = default_experiments._default_experiment_provider_registry._registry
    before = [*providers]
    forget_store()
    try:
        state.set_default_store(Default(uri, first, lambda: "0"))
        first.other.join()

        assert len(providers) == len(before) + 1
        assert "SECRET_A" not in os.environ  # the second has replaced the first
        assert os.environ["SECRET_B"] == "b"
        state.set_default_store(Default(uri, {}, lambda: "0"))
        assert "SECRET_B" not in os.environ
    finally:
        providers[:] = before
        mlflow_globals.set_environment(dict.fromkeys(["SECRET_A", "SECRET_B"]))
        forget_store()


def test_a_delivery_that_is_closed_leaves_the_next_one_registered(
    destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = delivery_to(destination).open()
    others: list[Delivery] = []
    assert delivery._batcher
    close = delivery._batcher.close

    def close_amid_others() -> None:
        if not others:
            others.append(delivery.open())
            delivery.close()
            others.append(delivery_to(destination).open())
        close()

    monkeypatch.setattr(delivery._batcher, "close", close_amid_others)

    delivery.close()

    same, following = others
    assert same is delivery
    assert delivery_to(destination) is following is not delivery


def test_one_run_at_a_time_shows_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, terminal)
    first, second, third = (LiveLines(Console(force_terminal=True)) for _ in range(3))

    def update(lines: LiveLines) -> object:
        for _ in range(2):
            lines.update("a", lambda: "step 1")
        return sys.stdout._lines if isinstance(sys.stdout, _Watched) else None

    assert update(first) is first
    assert update(second) is first
    first.stop()
    assert sys.stdout is terminal
    assert update(second) is second
    second.stop(for_good=True)
    assert update(second) is None
    assert update(third) is third
    third.stop(for_good=True)
    assert sys.stdout is terminal


def test_no_thread_goes_on_when_the_process_is_told_to_end() -> None:
    watch = TerminationWatch()
    watch._terminating.set()
    names = ("mlflow-sigterm", "another")
    threads = [
        threading.Thread(target=watch.wait_if_terminating, name=name, daemon=True) for name in names
    ]
    for thread in threads:
        thread.start()

    threads[0].join(60)
    threads[1].join(0.1)

    assert [thread.is_alive() for thread in threads] == [False, True]


def test_a_request_that_is_made_again_takes_no_random_number_of_the_users() -> None:
    answers = iter([ConnectionError("not yet"), ConnectionError("not yet"), None])

    def request() -> None:
        if error := next(answers):
            raise error

    before = random.getstate()
    Retry()(request)

    assert next(answers, "all asked") == "all asked"
    assert random.getstate() == before
