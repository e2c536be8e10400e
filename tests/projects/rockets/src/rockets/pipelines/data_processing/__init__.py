"""From the raw table to the model's input."""

from kedro.pipeline import Node, Pipeline


def preprocess(shuttles: list[dict[str, float]]) -> list[dict[str, float]]:
    return sorted(shuttles, key=lambda shuttle: shuttle["price"])


def create_pipeline() -> Pipeline:
    return Pipeline([Node(preprocess, "shuttles", "model_input_table", name="preprocess")])
