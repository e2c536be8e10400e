"""A node that fails at its first try, after it has saved, and two more in a namespace."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kedro.pipeline import Node, Pipeline


def train(tried: str) -> Iterator[dict[str, float]]:
    for epoch in range(3):
        yield {"loss": 1 / (1 + epoch)}
    if not Path(tried).exists():
        Path(tried).touch()
        raise RuntimeError("the first try")
    yield {"loss": 0.25}


def score() -> dict[str, Any]:
    return {"score": 0.5, "curve": [0.1, 0.2]}


def read(metrics: dict[str, Any]) -> dict[str, float]:
    return {"score": metrics["score"]["value"]}


def create_pipeline(**kwargs: Any) -> Pipeline:
    part = Pipeline(
        [
            Node(score, None, "part_metrics", name="score"),
            Node(read, "part_metrics", "read_metrics", name="read"),
        ]
    )
    return Pipeline(
        [
            Node(train, "params:tried", "again_metrics", name="again"),
            Pipeline(part, namespace="steps"),
        ]
    )
