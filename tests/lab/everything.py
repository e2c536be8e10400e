"""Every kind of metrics dataset: explicit, prefixed, factory-made, namespaced, streamed."""

from collections.abc import Iterator
from typing import Any

from kedro.pipeline import Node, Pipeline


def constant() -> dict[str, Any]:
    return {"score": 0.5, "curve": [0.1, 0.2]}


def stream() -> Iterator[dict[str, float]]:
    for epoch in range(20):
        yield {"loss": 1 / (1 + epoch)}


def create_pipeline(**kwargs: object) -> Pipeline:
    part = Pipeline([Node(constant, None, "part_metrics", name="part")])
    return Pipeline(
        [
            Node(constant, None, "my_model_metrics", name="explicit"),
            Node(constant, None, "my_baseline_metrics", name="prefixed"),
            Node(constant, None, "a_metrics", name="a"),
            Node(constant, None, "b_metrics", name="b"),
            Node(stream, None, "stream_metrics", name="stream"),
            Pipeline(part, namespace="one"),
            Pipeline(part, namespace="two"),
        ]
    )
