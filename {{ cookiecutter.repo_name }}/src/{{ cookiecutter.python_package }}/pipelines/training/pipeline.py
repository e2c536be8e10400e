"""The training pipeline: split, train, evaluate, keep, and a baseline to compare with."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from .nodes import keep_model, metrics_node, score_baseline, split_digits, train_model


def create_pipeline(**kwargs: object) -> Pipeline:
    """The pipeline; its metrics datasets are described in ``conf/base/catalog.yml``."""
    return Pipeline(
        [
            Node(
                split_digits,
                inputs="params:split",
                outputs=["train_images", "test_images", "train_digits", "test_digits"],
                name="split_digits",
            ),
            Node(
                train_model,
                inputs=["train_images", "train_digits", "params:training"],
                outputs={"classifiers": "classifiers", "metrics": "training_metrics"},
                name="train_model",
            ),
            Node(
                metrics_node,
                inputs=["classifiers", "test_images", "test_digits"],
                outputs="my_model_metrics",
                name="metrics_node",
            ),
            Node(
                score_baseline,
                inputs=["train_images", "train_digits", "test_images", "test_digits"],
                outputs="my_baseline_metrics",
                name="score_baseline",
            ),
            Node(
                keep_model,
                inputs=["classifiers", "test_images"],
                outputs=None,
                name="keep_model",
            ),
        ]
    )
