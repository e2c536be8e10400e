"""The pipeline's nodes: plain functions, from data to data."""

from __future__ import annotations


def load_scores() -> dict[str, list[float]]:
    """Stand in for your own data: what a model says of five cases, and what was so."""
    return {"predicted": [0.9, 0.8, 0.6, 0.3, 0.1], "actual": [1, 1, 0, 0, 0]}


def evaluate(scores: dict[str, list[float]], parameters: dict[str, float]) -> dict[str, float]:
    """Say how good the predictions are.

    Returns:
        ``accuracy``: the share of cases on the right side of the parameter ``threshold``.
    """
    predicted = [score >= parameters["threshold"] for score in scores["predicted"]]
    right = [bool(one) == other for one, other in zip(scores["actual"], predicted, strict=True)]
    return {"accuracy": sum(right) / len(right)}
