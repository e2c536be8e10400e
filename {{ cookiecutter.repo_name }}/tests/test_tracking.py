"""The project is wired: what is saved to a metrics dataset is in MLflow, under its name.

The names here have no entry of their own: the dataset factory of the catalog is what makes them
metrics datasets, whichever entries are added to it and deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlflow
import pytest
from kedro.framework.session import KedroSession
from kedro.io import DatasetError
from mlflow import MlflowClient


@pytest.fixture
def catalog(session: Callable[..., KedroSession]) -> Any:
    return session().load_context().catalog


def test_a_metrics_dataset_writes_to_the_active_run_and_reads_back(
    catalog: Any, store: str
) -> None:
    metrics = {
        "metric1": {"value": 1.1, "step": 1},
        "metric2": [{"value": 1.1, "step": 1}, {"value": 1.2, "step": 2}],
    }
    mlflow.set_tracking_uri(store)
    with mlflow.start_run() as run:
        catalog.save("unlisted_metrics", metrics)
        assert catalog.load("unlisted_metrics") == metrics

    keys = MlflowClient(store).get_run(run.info.run_id).data.metrics
    assert set(keys) == {"unlisted_metrics.metric1", "unlisted_metrics.metric2"}


def test_without_a_run_nothing_is_written(catalog: Any) -> None:
    with pytest.raises(DatasetError, match="no MLflow run"):
        catalog.save("unlisted_metrics", {"accuracy": 0.9})


@pytest.mark.parametrize("value", [None, "high", 1j, [[1.0]]])
def test_what_is_not_a_number_is_refused(catalog: Any, store: str, value: object) -> None:
    mlflow.set_tracking_uri(store)
    with mlflow.start_run() as run, pytest.raises(DatasetError, match="unlisted_metrics"):
        catalog.save("unlisted_metrics", {"accuracy": 0.9, "loss": value})
    assert MlflowClient(store).get_run(run.info.run_id).data.metrics == {}
