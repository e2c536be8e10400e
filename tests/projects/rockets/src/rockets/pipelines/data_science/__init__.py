"""Two models of the same kind, each in a namespace of its own."""

from typing import Any

from kedro.pipeline import Node, Pipeline, pipeline

Table = list[dict[str, float]]


def train(table: Table, features: list[str]) -> dict[str, float]:
    """The price of one of each feature."""
    total = sum(row[feature] for row in table for feature in features)
    price = sum(row["price"] for row in table) / total
    return dict.fromkeys(features, price)


def evaluate(model: dict[str, float], table: Table) -> dict[str, Any]:
    errors = [row["price"] - sum(row[f] * price for f, price in model.items()) for row in table]
    return {"max_error": max(map(abs, errors)), "error": errors}


def create_pipeline() -> Pipeline:
    template = Pipeline(
        [
            Node(train, ["model_input_table", "params:features"], "model", name="train"),
            Node(evaluate, ["model", "model_input_table"], "scores", name="evaluate"),
        ]
    )
    parts = [
        pipeline(template, inputs="model_input_table", namespace=namespace)
        for namespace in ("active", "candidate")
    ]
    return sum(parts, start=Pipeline([]))
