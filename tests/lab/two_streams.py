"""A node of two outputs, the second of them metrics; after its last yield the store fails."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

from kedro.pipeline import Node, Pipeline


def train(store: str) -> Iterator[tuple[int, dict[str, float]]]:
    for epoch in range(3):
        yield epoch, {"loss": 1 / (1 + epoch)}
    with closing(sqlite3.connect(store)) as database, database:
        database.execute("ALTER TABLE metrics RENAME TO lost")


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline([Node(train, "params:store", ["epochs", "late_metrics"])])
