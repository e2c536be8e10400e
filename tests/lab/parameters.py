"""Nodes that use parameters, some of them awkward."""

from typing import Any

from kedro.pipeline import Node, Pipeline


def use(model: dict[str, Any], text: str) -> dict[str, float]:
    return {"size": len(text) + len(model)}


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline([Node(use, ["params:model", "params:text"], "use_metrics", name="use")])
