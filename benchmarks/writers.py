"""Processes that write to one MLflow server at once: as a project does, or by ``log_batch``."""

from __future__ import annotations

import logging
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
from lab.tracking import MlflowMetricsDataset
from lab.tracking.delivery.binding import Binding
from lab.tracking.delivery.delivery import Delivery, delivery_to
from lab.tracking.delivery.outbox import Outbox
from lab.tracking.delivery.route import Destination
from mlflow import MlflowClient
from mlflow.entities import Metric

REQUEST = 1000  # points, the most that MLflow takes
SAVE = 10  # points


class Writer:
    """One run, in a process of its own; the connections are there before anything is measured."""

    def __init__(self, url: str, outbox: Path) -> None:
        self.client = MlflowClient(url)
        self.run_id = self.client.create_run("0").info.run_id
        self.step = 0
        self.destination = Destination(url, self.run_id, Outbox(outbox, url))
        self.dataset = MlflowMetricsDataset()
        self.dataset.bind(Binding("bench", "bench", ".", self.destination))

    def ours(self, points: int) -> None:
        """Saves of a few points, which the delivery batches."""
        delivery = delivery_to(self.destination).open()
        for start in range(self.step, self.step + points, SAVE):
            self.dataset.save({"loss": {step: step / 7 for step in range(start, start + SAVE)}})
        self._close(delivery)
        self.step += points

    def log_batch(self, points: int) -> None:
        """The same points in as few requests as MLflow allows."""
        end = self.step + points
        for start in range(self.step, end, REQUEST):
            now, steps = time.time_ns() // 1_000_000, range(start, min(start + REQUEST, end))
            metrics = [Metric("bench.loss", step / 7, now, step) for step in steps]
            self.client.log_batch(self.run_id, metrics, synchronous=True)
        self.step = end

    def _close(self, delivery: Delivery) -> None:
        delivery.close()
        delivery.route.end(None)  # as a run's end does: what waits is sent
        assert delivery.route.count_waiting() is None

    def our_yields(self, yields: int) -> None:
        """A generator node's saves, of three metrics each."""
        delivery = delivery_to(self.destination).open()
        for step in range(self.step, self.step + yields):
            self.dataset.save({name: {step: step / 7} for name in "abc"})
        self._close(delivery)
        self.step += yields

    def yield_batches(self, yields: int) -> None:
        """The same, each a request."""
        for step in range(self.step, self.step + yields):
            now = time.time_ns() // 1_000_000
            metrics = [Metric(f"bench.{name}", step / 7, now, step) for name in "abc"]
            self.client.log_batch(self.run_id, metrics, synchronous=True)
        self.step += yields


def _work(url: str, outbox: Path, environment: Mapping[str, str], orders: Connection) -> None:
    logging.disable(logging.WARNING)
    os.environ.update(environment)
    writer = Writer(url, outbox)
    for first in ("ours", "log_batch"):
        getattr(writer, first)(REQUEST)
    orders.send("ready")
    while order := orders.recv():
        name, number = order
        getattr(writer, name)(number)
        orders.send("done")


@dataclass(frozen=True)
class Compared:
    """Medians of several pairs; by group of processes, their CPU and how many cores were busy."""

    ours: float  # seconds
    other: float
    ratio: float  # of a pair: more is faster
    cpu: dict[str, tuple[float, float]]  # seconds, of ours and the other
    cores: dict[str, float]


class Writers:
    """So many of them, and how much CPU they and the servers take."""

    def __init__(self, orders: list[Connection], groups: Mapping[str, list[int]]) -> None:
        self._orders = orders
        self._groups = groups  # of processes, by name: their ids

    def measured(self, name: str, number: int) -> tuple[float, dict[str, float]]:
        """Seconds until all have done it, and CPU seconds by group of processes."""
        before, start = self._cpu(), time.perf_counter()
        for each in self._orders:
            each.send((name, number))
        for each in self._orders:
            each.recv()
        seconds = time.perf_counter() - start
        return seconds, {group: cpu - before[group] for group, cpu in self._cpu().items()}

    def compared(self, ours: str, other: str, number: int, pairs: int) -> Compared:
        """Measure both in turn, as many times."""
        seconds: dict[str, list[float]] = {ours: [], other: []}
        cpu = {group: dict.fromkeys(seconds, 0.0) for group in self._groups}
        for pair in range(pairs):
            for name in (ours, other)[:: -1 if pair % 2 else 1]:
                took, used = self.measured(name, number)
                seconds[name].append(took)
                for group, each in used.items():
                    cpu[group][name] += each
        total = sum(map(sum, seconds.values()))
        ratios = [b / a for a, b in zip(seconds[ours], seconds[other], strict=True)]
        return Compared(
            statistics.median(seconds[ours]),
            statistics.median(seconds[other]),
            statistics.median(ratios),
            {group: (used[ours] / pairs, used[other] / pairs) for group, used in cpu.items()},
            {group: sum(used.values()) / total for group, used in cpu.items()},
        )

    def _cpu(self) -> dict[str, float]:
        return {group: sum(map(_cpu_seconds, pids)) for group, pids in self._groups.items()}


def _cpu_seconds(pid: int) -> float:
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    return sum(sum(each.cpu_times()[:4]) for each in family)


@contextmanager
def writers(
    number: int, url: str, environment: Mapping[str, str], servers: Mapping[str, int]
) -> Iterator[Writers]:
    """So many processes, forked: MLflow is imported once, and shared in memory."""
    context = multiprocessing.get_context("fork")
    orders, processes = [], []
    with tempfile.TemporaryDirectory() as folder:
        for each in range(number):
            here, there = context.Pipe()
            outbox = Path(folder, f"{each}.db")
            process = context.Process(target=_work, args=(url, outbox, environment, there))
            process.start()
            there.close()
            orders.append(here)
            processes.append(process)
        for order in orders:
            order.recv()
        groups = {name: [pid] for name, pid in servers.items()}
        yield Writers(orders, {"writers": [each.pid or 0 for each in processes], **groups})
        for order, process in zip(orders, processes, strict=True):
            order.send(None)
            process.join()
