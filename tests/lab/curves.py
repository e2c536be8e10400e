"""A pipeline whose metrics have rules: what is better, and limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kedro.pipeline import Node, Pipeline


def train(values: list[float]) -> Iterator[dict[str, float]]:
    for value in values:
        yield {"loss": value, "accuracy": 1 - value}


def evaluate(values: list[float]) -> dict[str, Any]:
    return {"recall_a": 1 - values[-1], "size": 7}


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline(
        [
            Node(train, inputs="params:values", outputs="curves_metrics", name="curves_train"),
            Node(evaluate, inputs="params:values", outputs="final_metrics", name="curves_evaluate"),
        ]
    )
