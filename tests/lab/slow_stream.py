"""A generator node that writes down what has been saved, as it goes."""

import time
from collections.abc import Iterator
from pathlib import Path

from kedro.pipeline import Node, Pipeline


def stream(diary: str) -> Iterator[dict[str, float]]:
    with Path(diary).open("a") as file:
        for step in range(300):
            yield {"loss": step / 7}
            file.write(f"{step}\n")  # Kedro has saved it
            file.flush()
            time.sleep(0.01)


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline([Node(stream, "params:diary", "diary_metrics", name="slow_stream")])
