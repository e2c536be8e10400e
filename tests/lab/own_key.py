"""A node that logs a metric itself, and then returns the same; and others that do not."""

from collections.abc import Iterator

from kedro.pipeline import Node, Pipeline


def log() -> dict[str, float]:
    import mlflow

    mlflow.log_metric("same_metrics.loss", 0.9, step=9)
    return {"loss": 0.1}


def left() -> Iterator[dict[str, float]]:
    for _ in range(50):
        yield {"loss": 0.5}


def right() -> Iterator[dict[str, float]]:
    for _ in range(50):
        yield {"loss": 0.25}


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline(
        [
            Node(log, None, "same_metrics", name="log"),
            Node(left, None, "left_metrics", name="left"),
            Node(right, None, "right_metrics", name="right"),
        ]
    )
