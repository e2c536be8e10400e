"""Pipelines that end in ways of their own, as the parameter ``end`` says."""

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
    return {"score": 1.0}


def create_pipeline(**kwargs: Any) -> Pipeline:
    return Pipeline(
        [
            Node(measure, None, ["before_metrics", "measured"], name="measure"),
            Node(end, ["measured", "params:end"], "after_metrics", name="end"),
        ]
    )
