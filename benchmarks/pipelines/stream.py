"""A generator node: 1,000 yields of 3 metrics."""

from collections.abc import Iterator

from kedro.pipeline import Node, Pipeline


def stream() -> Iterator[dict[str, float]]:
    for step in range(1000):
        yield {"loss": 1 / (1 + step), "accuracy": step / 1000, "rate": 0.1}


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline([Node(stream, None, "stream_metrics", name="stream")])
