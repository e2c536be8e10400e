"""The example: a run trains a good classifier, and MLflow has its figures and the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlflow
import numpy as np
from kedro.framework.session import KedroSession
from mlflow import MlflowClient

EPOCHS = 3


def test_a_run_is_finished_and_has_every_point(
    session: Callable[..., KedroSession], runs: Callable[[], list[Any]], store: str
) -> None:
    session(training={"epochs": EPOCHS}).run()

    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert {name for name in run.data.metrics if not name.startswith("best.")} == {
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
    session().run()

    metrics = runs()[0].data.metrics
    assert metrics["my_model_metrics.accuracy"] > 0.9
    assert metrics["baseline.accuracy"] < 0.2


def test_the_model_is_kept(
    session: Callable[..., KedroSession], runs: Callable[[], list[Any]], store: str
) -> None:
    session(training={"epochs": EPOCHS}).run()

    mlflow.set_tracking_uri(store)
    model = mlflow.sklearn.load_model(f"runs:/{runs()[0].info.run_id}/classifier")
    assert model.predict(np.zeros((2, 64))).shape == (2,)
