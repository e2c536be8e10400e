"""Pipelines that end in ways of their own, as the parameter ``end`` says."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from kedro.pipeline import Node, Pipeline


def measure() -> tuple[dict[str, float], bool]:
    return {"score": 0.5}, True


def end(measured: bool, end: str) -> dict[str, float]:
    if end == "error":
        raise ValueError("the data is gone: https://user:hunter2@example.com/data")
    if end == "exit":
        sys.exit(3)
    if end == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    if end.startswith("wait:"):  # for a signal from outside, or until the file is away
        waiting = Path(end.removeprefix("wait:"))
        waiting.touch()
        while waiting.exists():
            time.sleep(0.05)
    if end.startswith("loop:"):  # the same in an event loop
        asyncio.run(wait_in_loop(Path(end.removeprefix("loop:"))))
    return {"score": 1.0}


async def wait_in_loop(waiting: Path) -> None:
    # With a signal handler of its own, the loop takes Python's wakeup fd.
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)
    waiting.touch()
    while waiting.exists():
        await asyncio.sleep(0.05)


def create_pipeline(**kwargs: Any) -> Pipeline:
    return Pipeline(
        [
            Node(measure, None, ["before_metrics", "measured"], name="measure"),
            Node(end, ["measured", "params:end"], "after_metrics", name="end"),
        ]
    )
