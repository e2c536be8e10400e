"""Nodes for a cluster: two that need each other, and one that may lose its worker."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from kedro.pipeline import Node, Pipeline

STEPS = 10


def meet(folder: Path, own: str, other: str) -> Iterator[dict[str, float]]:
    """Ends only if the other runs at the same time."""
    import mlflow

    (folder / own).write_text(str(os.getpid()))
    deadline = time.monotonic() + 60
    while not (folder / other).exists():
        assert time.monotonic() < deadline, f"{other} does not run"
        time.sleep(0.02)
    mlflow.log_metric(f"own.{own}", 2.0)
    for step in range(STEPS):
        yield {"loss": 1 / (1 + step)}


def left(folder: str) -> Iterator[dict[str, float]]:
    yield from meet(Path(folder), "left", "right")


def right(folder: str) -> Iterator[dict[str, float]]:
    yield from meet(Path(folder), "right", "left")


def fall(folder: str, end: str) -> Iterator[dict[str, float]]:
    """Ends as the parameter says, when half of its points are in the store."""
    import mlflow

    run = mlflow.active_run()
    assert run
    marker = Path(folder) / "fallen"
    for step in range(STEPS):
        yield {"loss": 1 / (1 + step)}
        if step != STEPS // 2 or marker.exists():
            continue
        while len(mlflow.MlflowClient().get_metric_history(run.info.run_id, KEY)) <= step:
            time.sleep(0.02)
        marker.touch()
        if end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if end == "error":
            raise ValueError("the data is gone")
        while end == "wait":
            time.sleep(0.02)


KEY = "fall_metrics.loss"


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline(
        [
            Node(left, "params:folder", "on_left_metrics", name="on_left"),
            Node(right, "params:folder", "on_right_metrics", name="on_right"),
            Node(fall, ["params:folder", "params:end"], "fall_metrics", name="fall"),
        ]
    )
