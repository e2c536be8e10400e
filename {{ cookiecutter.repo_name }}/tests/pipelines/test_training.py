"""The example: a run trains a good classifier, and MLflow has its figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kedro.framework.session import KedroSession

EPOCHS = 3


def test_a_run_is_finished_and_has_every_point(
    session: Callable[..., KedroSession], runs: Callable[[], list[Any]]
) -> None:
    session(training={"epochs": EPOCHS}).run()

    (run,) = runs()
    assert run.info.status == "FINISHED"
    names = set(run.data.metrics)
    assert names == {
        "training_metrics.loss",
        "training_metrics.accuracy",
        "my_model_metrics.accuracy",
        "my_model_metrics.recall",
        "baseline.accuracy",
    }
    assert run.data.params["training.epochs"] == str(EPOCHS)


def test_the_classifier_is_good(
    session: Callable[..., KedroSession], runs: Callable[[], list[Any]]
) -> None:
    session().run()

    metrics = runs()[0].data.metrics
    assert metrics["my_model_metrics.accuracy"] > 0.9
    assert metrics["baseline.accuracy"] < 0.2
