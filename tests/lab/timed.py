"""A generator node that writes down when each point has been saved, until a file is removed."""

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from kedro.pipeline import Node, Pipeline


def stream(diary: str) -> Iterator[dict[str, float]]:
    path = Path(diary)
    with path.open("a") as file:
        for step in count():
            if not path.exists():
                return
            yield {"loss": step / 7, "accuracy": -step / 7}
            file.write(f"{step} {time.time()}\n")  # Kedro has saved it
            file.flush()
            time.sleep(0.01)


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline([Node(stream, "params:diary", "timed_metrics", name="timed")])
