"""The client of a tracking server makes MLflow's own requests, and differs in waiting only."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import mlflow
import pytest
import requests
from databases import unavailable
from lab.tracking.store.client import _with_globals, make_client
from lab.tracking.store.mlflow_store import Retry
from mlflow import MlflowClient
from mlflow.entities import (
    Metric,
    Param,
    RunStatus,
    RunTag,
    ViewType,
)
from mlflow.store.tracking.rest_store import RestStore
from packaging.version import Version

TIMEOUT = 7.5


class _Retry(Retry):
    def seconds_left(self) -> float:
        return TIMEOUT


RETRY = _Retry()
# Not by a name of MLflow's own, which may change: then the tests would skip where they must fail.
HAS_WORKSPACES = Version(mlflow.__version__) >= Version("3.10")

# What the store's methods get, by the name of the argument; any other is a text.
ARGUMENTS: dict[str, Any] = {
    "metric": Metric("m", 0.5, 1, 2),
    "metrics": [Metric("m", 0.5, 1, 2)],
    "param": Param("p", "v"),
    "params": [Param("p", "v")],
    "tag": RunTag("t", "v"),
    "tags": [RunTag("t", "v")],
    "run_status": RunStatus.FINISHED,
    "run_view_type": ViewType.ACTIVE_ONLY,
    "experiment_ids": ["1"],
    "end_time": 5,
    "start_time": 5,
    "max_results": 3,
    "timestamp_ms": 5,
    "execution_time_ms": 5,
    "max_timestamp_millis": 5,
    "version": 1,
    "sample_rate": 0.5,
}
# The methods with which a run is written and read; and one each of MLflow's other routes.
USED = {
    *("create_experiment", "get_experiment", "get_experiment_by_name", "search_experiments"),
    *("create_run", "get_run", "search_runs", "update_run_info", "log_batch", "delete_run"),
    *("get_metric_history", "delete_tag", "set_tag"),
}


_numbers = itertools.count()


class Network:
    """In place of a network: notes each request, and gives the answer that a test has set."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.waits: list[tuple[Any, Any]] = []
        self.status, self.body = 200, "{}"
        self.special: dict[str, tuple[int, str]] = {}  # by the end of the path

    def send(self, session: Any, request: Any, **options: Any) -> requests.Response:
        path = re.sub(r"https?://\w+\.invalid", "", request.url)
        headers = {name: value for name, value in sorted(request.headers.items())}
        self.seen.append((request.method, path, headers, request.body, options.get("verify")))
        self.waits.append((session.get_adapter(request.url).max_retries.total, options["timeout"]))
        response = requests.Response()
        response.url, response.request = request.url, request
        endings = (answer for end, answer in self.special.items() if path.endswith(end))
        response.status_code, body = next(endings, (self.status, self.body))
        response._content = body.encode()
        return response


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    network = Network()
    monkeypatch.setattr(
        requests.Session,
        "send",
        lambda session, request, **options: network.send(session, request, **options),  # noqa: PLW0108
    )
    for name, value in {"USERNAME": "me", "PASSWORD": "hunter2"}.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    yield network


@pytest.fixture
def stores() -> Mapping[str, Any]:
    """Of two hosts that are new in each test: MLflow remembers what a server can do."""
    number = next(_numbers)
    ours = make_client(f"http://ours{number}.invalid/x", RETRY)
    theirs = MlflowClient(f"http://theirs{number}.invalid/x")
    assert type(theirs._tracking_client.store) is RestStore
    return {"ours": ours._tracking_client.store, "theirs": theirs._tracking_client.store}


def outcome(network: Network, call: Callable[[], Any]) -> tuple[Any, ...]:
    """What a call returns or raises, and the requests that it makes."""
    network.seen = []
    network.waits = []
    try:
        result = repr(call())
    except Exception as error:
        result = f"{type(error)} {error} {getattr(error, 'error_code', '')}"
    return re.sub(r"0x[0-9a-f]+|(theirs|ours)\d+", "", result), network.seen


def arguments_of(method: Any) -> dict[str, Any]:
    parameters = inspect.signature(method).parameters.values()
    required = [p for p in parameters if p.default is p.empty and p.kind not in (2, 4)]
    return {p.name: ARGUMENTS.get(p.name, "x1") for p in required}


METHODS = sorted(
    name
    for name, value in inspect.getmembers(RestStore, inspect.isfunction)
    if not name.startswith("_") and not name.endswith("_async")
)
ANSWERS = [
    (200, "{}"),
    (200, "no JSON"),
    (400, '{"error_code": "INVALID_PARAMETER_VALUE", "message": "m"}'),
    (404, '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "m"}'),
    (404, "no route"),
    (500, '{"error_code": "INTERNAL_ERROR", "message": "m"}'),
    (503, "<html>"),
]


@pytest.mark.parametrize(("status", "body"), ANSWERS)
@pytest.mark.filterwarnings("ignore")  # MLflow's, of methods that it does not want any more
def test_each_method_makes_mlflows_own_requests(
    network: Network, stores: Mapping[str, Any], status: int, body: str
) -> None:
    network.status, network.body = status, body
    asked = set()
    for name in METHODS:
        outcomes = []
        for store in stores.values():
            method = getattr(store, name)
            arguments = arguments_of(method)
            outcomes.append(outcome(network, partial(method, **arguments)))
        assert outcomes[0] == outcomes[1], name
        asked |= {name} if network.seen else set()

    assert asked >= USED
    assert len(asked) > len(METHODS) / 2


@pytest.mark.parametrize("name", sorted(USED))
def test_each_request_is_made_once_within_its_timeout(
    network: Network, stores: Mapping[str, Any], name: str
) -> None:
    """Also with an MLflow whose functions have changed: they make their requests through ours."""
    method = getattr(stores["ours"], name)
    outcome(network, lambda: method(**arguments_of(method)))

    assert network.waits
    assert {wait for wait in network.waits} == {(0, TIMEOUT)}


def test_all_but_the_making_of_a_request_is_mlflows(stores: Mapping[str, Any]) -> None:
    ours, theirs = stores["ours"], stores["theirs"]

    assert type(ours) is type(theirs) is RestStore
    assert vars(ours).keys() - vars(theirs).keys() == {"_call_endpoint"}


def test_what_mlflow_keeps_in_its_store_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later MLflow may give its store more than the host's credentials."""
    store: Any = RestStore(lambda: None)
    store.more = "kept"
    utils = "mlflow.tracking._tracking_service.utils"
    monkeypatch.setattr(f"{utils}._get_store", lambda *arguments: store)
    client: Any = make_client("http://other.invalid", RETRY)

    assert client._tracking_client.store.more == "kept"
    assert client._tracking_client.store is not store


def test_a_function_with_other_globals_is_else_the_same() -> None:
    outside = 1

    def function(a: int, b: int = 2, *, c: int = 3) -> tuple[Any, ...]:
        """Its text."""
        return a, b, c, outside, len("abcd")

    same = _with_globals(function, len=lambda text: 5)

    assert same(0) == (0, 2, 3, 1, 5)
    assert list(inspect.signature(same).parameters) == ["a", "b", "c"]
    assert function(0) == (0, 2, 3, 1, 4)


@pytest.mark.parametrize(
    "answer", [(404, "no route"), (200, "{}"), (200, '{"workspaces_enabled": true}'), (500, "x")]
)
def test_nothing_is_written_outside_of_a_workspace(
    network: Network,
    stores: Mapping[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    answer: tuple[int, str],
) -> None:
    if not HAS_WORKSPACES:
        unavailable("MLflow before 3.10 has no workspaces")
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team")
    network.special = {"/server-info": answer, "/server-features": answer}

    outcomes = [
        outcome(network, partial(store.create_experiment, "e")) for store in stores.values()
    ]

    assert outcomes[0] == outcomes[1]
    made = [seen for seen in network.seen if seen[0] == "POST"]
    if answer[1] == '{"workspaces_enabled": true}':
        (request,) = made
        assert "team" in request[2].values()
    else:
        assert made == []
