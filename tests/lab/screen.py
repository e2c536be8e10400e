"""Generator nodes that write to the terminal while their metrics stream."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from kedro.pipeline import Node, Pipeline


def stream(file: str) -> Iterator[dict[str, float]]:
    """Yield until a file is there."""
    step = 0
    while not Path(file).exists():
        yield {"loss": 1 / (step + 1), "accuracy": 0.5}
        step += 1
        time.sleep(0.02)


def talk(way: str) -> Iterator[dict[str, float]]:
    """Yield, and print, ask, or show a display of rich's own."""
    from rich.progress import track

    yield {"x": 0.0}
    for step in range(1, 20):
        time.sleep(0.02)
        if step == 10 and way == "print":
            print("PRINTED", os.getpid(), flush=True)  # noqa: T201
        if step == 10 and way == "track":
            for _ in track(range(5), description="TRACKED"):
                time.sleep(0.05)
        if step == 10 and way == "ask":
            print("ANSWERED", input("A question? "), flush=True)  # noqa: T201
        if step == 10 and way == "breakpoint":
            breakpoint()
        yield {"x": float(step)}


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline(
        [
            Node(stream, "params:file", "screen_metrics", name="screen_stream"),
            Node(talk, "params:way", "talk_metrics", name="talk"),
        ]
    )
