"""A node that reads the metrics that another has made."""

from typing import Any

from kedro.pipeline import Node, Pipeline


def train() -> dict[str, Any]:
    return {"score": 0.5, "loss": [0.3, 0.2]}


def judge(metrics: dict[str, Any], judge: str) -> dict[str, float]:
    if judge == "error":
        raise ValueError("no verdict")
    return {"score": metrics["score"]["value"], "losses": len(metrics["loss"])}


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline(
        [
            Node(train, None, "chain_metrics", name="train", tags="train"),
            Node(judge, ["chain_metrics", "params:judge"], "verdict_metrics", name="judge"),
        ]
    )
