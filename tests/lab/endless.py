"""A generator node of 200 keys that goes on until a file is removed."""

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from kedro.pipeline import Node, Pipeline

KEYS = 200


def flow(until_removed: str) -> Iterator[dict[str, float]]:
    file = Path(until_removed)
    for step in count():
        if not file.exists():
            return
        yield {f"k{key}": key + step / 1000 for key in range(KEYS)}
        with file.with_suffix(".yields").open("a") as yields:  # Kedro has saved it
            yields.write(f"{step}\n")
        time.sleep(0.1)


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline([Node(flow, "params:until_removed", "endless_metrics", name="endless")])
