"""One measured piece of work in a process of its own: prints its seconds as JSON.

Run by ``bench.py`` as ``python cases.py CASE WHO STORE``, with the interpreter of that WHO's
environment: ``ours``, ``peer`` (kedro-mlflow), or what is the least that it can take: ``floor``
(MLflow's client alone), ``post`` (no client) or ``least`` (Kedro's saves, and three requests).
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import mlflow
import numpy as np
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric

if TYPE_CHECKING:
    from lab.tracking.delivery.binding import Binding
    from lab.tracking.delivery.route import Destination

logging.disable(logging.INFO)  # Kedro's own lines on the terminal are nobody's work


def rows(count: int) -> dict[str, Any]:
    return {"loss": [{"value": 1 / (1 + step), "step": step} for step in range(count)]}


def dataset(who: str, store: str) -> tuple[Any, str]:
    """A metrics dataset that writes to a new MLflow run, and the run's id."""
    mlflow.set_tracking_uri(store)
    run_id = MlflowClient().create_run("0").info.run_id
    if who == "peer":
        from kedro_mlflow.io.metrics import MlflowMetricsHistoryDataset

        return MlflowMetricsHistoryDataset(prefix="bench", run_id=run_id), run_id
    from ours.tracking import MlflowMetricsDataset

    return MlflowMetricsDataset(prefix="bench", run_id=run_id), run_id


def log_in_chunks(run_id: str, values: Any) -> None:
    """The floor: MLflow's client, a thousand points a request."""
    client, now = MlflowClient(), int(time.time() * 1000)
    for start in range(0, len(values), 1000):
        part = values[start : start + 1000]
        metrics = [Metric("loss", value, now, start + i) for i, value in enumerate(part)]
        client.log_batch(run_id, metrics, synchronous=True)


def measured(work: Callable[[], object]) -> dict[str, float]:
    start = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - start}


def save(who: str, store: str, count: int) -> dict[str, float]:
    target, run_id = dataset("peer" if who == "peer" else "ours", store)
    target.save({"warm": [{"value": 1.0, "step": 1}]})
    data = rows(count)
    values = [point["value"] for point in data["loss"]]
    if who == "floor":
        return measured(lambda: log_in_chunks(run_id, values))
    if who == "post":
        return measured(plain_post(store, run_id, values))
    return measured(lambda: target.save(data))


def plain_post(store: str, run_id: str, values: list[float]) -> Callable[[], object]:
    """The same points in one request, without MLflow's client."""
    now = int(time.time() * 1000)
    metrics = [
        {"key": "bench.loss", "value": value, "timestamp": now, "step": step}
        for step, value in enumerate(values)
    ]
    session, url = requests.Session(), f"{store}/api/2.0/mlflow/runs"
    session.get(f"{url}/get", params={"run_id": run_id}).raise_for_status()  # connected
    body: Any = {"run_id": run_id, "metrics": metrics}
    return lambda: session.post(f"{url}/log-batch", json=body).raise_for_status()


def save_array(who: str, store: str, count: int) -> dict[str, float]:
    target, run_id = dataset("ours", store)
    target.save({"warm": 1.0})
    values = np.random.default_rng(0).normal(size=count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if who == "floor":
        result = measured(lambda: log_in_chunks(run_id, values.tolist()))
    else:
        result = measured(lambda: target.save({"loss": values}))
    result["mebibytes"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return result


def load(who: str, store: str, keys: int, count: int) -> dict[str, float]:
    target, run_id = dataset("ours", store)
    target.save({f"m{key}": np.arange(count) / 7 for key in range(keys)})
    client = MlflowClient()
    if who == "floor":

        def loop() -> None:
            for key in client.get_run(run_id).data.metrics:
                client.get_metric_history(run_id, key)

        return measured(loop)
    return measured(target.load)


class OneRequestEach:
    """What a save costs that is one request: the same dataset, without batching."""

    def __init__(self, to: Destination) -> None:
        self.run_id = to.run_id
        self.step = 0

    def __call__(self, data: dict[str, float]) -> None:
        client, now = MlflowClient(), int(time.time() * 1000)
        metrics = [Metric(f"bench.{k}", v, now, self.step) for k, v in data.items()]
        self.step += 1
        client.log_batch(self.run_id, metrics, synchronous=True)


class InMemory:
    """What Kedro takes for its saves: the points are only kept, and all written in the end."""

    kept: ClassVar[list[dict[str, float]]] = []
    to: ClassVar[Destination]

    def __init__(self, to: Destination) -> None:
        InMemory.to = to

    def __call__(self, data: dict[str, float]) -> None:
        self.kept.append(data)

    @classmethod
    def write(cls) -> None:
        # The pipeline has ended, and MLflow's own settings are what they were before it.
        client, now = MlflowClient(cls.to.tracking_uri), int(time.time() * 1000)
        metrics = [
            Metric(f"bench.{key}", value, now, step)
            for step, data in enumerate(cls.kept)
            for key, value in data.items()
        ]
        for start in range(0, len(metrics), 1000):
            part = metrics[start : start + 1000]
            client.log_batch(cls.to.run_id, part, synchronous=True)


def without_the_hook() -> None:
    """Kedro alone, with a metrics dataset that does nothing."""
    from kedro.framework.session import session
    from ours.tracking import MlflowMetricsDataset

    def save(self: Any, data: Any) -> None:
        pass

    MlflowMetricsDataset.save = save
    module: Any = session
    module._register_hooks = lambda *arguments: None


def run_pipeline(who: str, store: str, pipeline: str) -> dict[str, float]:
    """A Kedro run in a project of the starter or of the peer, without its start-up.

    Seconds from its first node until its end, and until its last node has ended.
    """
    from pathlib import Path

    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project
    from kedro.runner import SequentialRunner, ThreadRunner

    project = Path.cwd()
    bootstrap_project(project)
    if who in ("floor", "least"):
        from ours.tracking import MlflowMetricsDataset

        original = MlflowMetricsDataset.bind

        def bind(self: Any, binding: Binding) -> None:
            original(self, binding)
            assert binding.destination
            instead = OneRequestEach if who == "floor" else InMemory
            self.save = instead(binding.destination)

        MlflowMetricsDataset.bind = bind
    if who == "nothing":
        without_the_hook()
    clock: dict[str, float] = {}

    def until_end(original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options)
            clock["nodes"] = time.perf_counter()
            return result

        return run

    runner = ThreadRunner(max_workers=8) if pipeline == "many" else SequentialRunner()
    runner.run = until_end(runner.run)  # type: ignore[method-assign]
    lock = threading.Lock()

    def first_node(original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            with lock:
                clock.setdefault("start", time.perf_counter())
            return original(*arguments, **options)

        return run

    from kedro.pipeline.node import Node

    Node.run = first_node(Node.run)  # type: ignore[method-assign]
    with KedroSession.create(project_path=project) as session:
        assert isinstance(session, KedroSession)
        session.run(pipeline_names=[pipeline], runner=runner)
    if who == "least":
        InMemory.write()
    end, start = time.perf_counter(), clock["start"]
    return {"seconds": end - start, "nodes": clock["nodes"] - start}


def with_logs(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    logging.disable(logging.NOTSET)
    return work()


CASES: dict[str, Callable[[str, str], dict[str, float]]] = {
    "save-10k": lambda who, store: save(who, store, 10_000),
    "save-500": lambda who, store: save(who, store, 500),
    "array-100k": lambda who, store: save_array(who, store, 100_000),
    "array-1m": lambda who, store: save_array(who, store, 1_000_000),
    "load-200x100": lambda who, store: load(who, store, 200, 100),
    "load-1x100k": lambda who, store: load(who, store, 1, 100_000),
    "stream": lambda who, store: run_pipeline(who, store, "stream"),
    "logged-stream": lambda who, store: with_logs(lambda: run_pipeline(who, store, "stream")),
    "many": lambda who, store: run_pipeline(who, store, "many"),
}

if __name__ == "__main__":
    case, who, store = sys.argv[1:]
    print("RESULT", json.dumps(CASES[case](who, store)))
