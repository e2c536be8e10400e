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


class DataGoneError(Exception):
    """Which a scheduler without the project's code does not know."""


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
            raise DataGoneError("the data is gone")
        while end == "wait":
            time.sleep(0.02)


KEY = "fall_metrics.loss"


def note() -> Iterator[dict[str, float]]:
    for value in (0.5, 0.25):
        yield {"loss": value}


def look(word: str) -> dict[str, bool]:
    """What a node finds in its process: the store's credentials, and what is hidden in logs."""
    import mlflow
    from lab.tracking.redaction import redact

    mlflow.log_metric("own.looked", 1.0)
    return {"token": "MLFLOW_TRACKING_TOKEN" in os.environ, "hidden": word not in redact(word)}


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline(
        [
            Node(left, "params:folder", "on_left_metrics", name="on_left"),
            Node(right, "params:folder", "on_right_metrics", name="on_right"),
            Node(fall, ["params:folder", "params:end"], "fall_metrics", name="fall"),
            Node(note, None, "noted_metrics", name="note"),
            Node(note, None, "also_metrics", name="note_also"),
            Node(look, "params:end", "looked_metrics", name="look"),
        ]
    )
