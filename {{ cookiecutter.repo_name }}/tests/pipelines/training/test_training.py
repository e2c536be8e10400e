"""The example: a run trains a good classifier, and MLflow has its figures and the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlflow
import numpy as np
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from mlflow import MlflowClient

EPOCHS = 3


def run_training(session: KedroSession) -> None:
    """Run this pipeline, whatever others the project has."""
    session.run(node_names=[node.name for node in pipelines["training"].nodes])


def test_a_run_is_finished_and_has_every_point(
    session: Callable[..., KedroSession], runs: Callable[[], list[Any]], store: str
) -> None:
    run_training(session(training={"epochs": EPOCHS}))

    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert run.data.metrics.keys() >= {
        "training_metrics.loss",
        "training_metrics.accuracy",
        "my_model_metrics.accuracy",
        "my_model_metrics.loss",
        "baseline.accuracy",
    }
    assert run.data.params["training.epochs"] == str(EPOCHS)
    history = MlflowClient(store).get_metric_history
    for name in ("training_metrics.loss", "my_model_metrics.loss"):
        assert [point.step for point in history(run.info.run_id, name)] == [*range(EPOCHS)]


def test_the_classifier_is_good(
    session: Callable[..., KedroSession], runs: Callable[[], list[Any]]
) -> None:
    run_training(session())

    metrics = runs()[0].data.metrics
    assert metrics["my_model_metrics.accuracy"] > 0.9
    assert metrics["baseline.accuracy"] < 0.2


def test_the_model_is_kept(
    session: Callable[..., KedroSession], runs: Callable[[], list[Any]], store: str
) -> None:
    run_training(session(training={"epochs": EPOCHS}))

    mlflow.set_tracking_uri(store)
    model = mlflow.sklearn.load_model(f"runs:/{runs()[0].info.run_id}/classifier")
    assert model.predict(np.zeros((2, 64))).shape == (2,)
