"""A generator node of 200 keys, slow enough for something to happen meanwhile."""

import time
from collections.abc import Iterator

from kedro.pipeline import Node, Pipeline

KEYS = 200


def flow(yields: int, pause: float) -> Iterator[dict[str, float]]:
    for step in range(yields):
        yield {f"k{key}": key + step / 1000 for key in range(KEYS)}
        time.sleep(pause)


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline([Node(flow, ["params:yields", "params:pause"], "flow_metrics", name="flow")])
