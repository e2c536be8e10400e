"""A metrics dataset with a `key` is one metric: a node returns its value, without a name."""

from __future__ import annotations

from typing import Any

import mlflow
import pytest
from helpers import Lab, points_in
from kedro.io import DatasetError
from lab.tracking import MlflowMetricsDataset


@pytest.mark.parametrize(
    ("value", "points"),
    [
        (0.5, [(0, 0.5)]),
        ({"value": 0.5, "step": 7}, [(7, 0.5)]),
        ([0.5, 0.25], [(0, 0.5), (1, 0.25)]),
        ({3: 0.5, 4: 0.25}, [(3, 0.5), (4, 0.25)]),
        ([{"value": 0.5, "step": 3}, {"value": 0.25, "step": 9}], [(3, 0.5), (9, 0.25)]),
    ],
)
def test_its_value_is_under_that_key_and_comes_back(
    lab: Lab, value: object, points: list[tuple[int, float]]
) -> None:
    lab.add("base/catalog.yml", "loss:\n  type: lab.tracking.MlflowMetricsDataset\n  key: v.loss\n")
    catalog: Any = lab.context().catalog
    mlflow.set_tracking_uri(f"sqlite:///{lab.store}")
    with mlflow.start_run():
        assert not catalog.exists("loss")
        mlflow.log_metric("v.loss_of_another", 1.0)
        assert not catalog.exists("loss")
        with pytest.raises(DatasetError, match=r"no metric 'v\.loss'"):
            catalog.load("loss")
        catalog.save("loss", value)
        shapes = [{"value": value, "step": step} for step, value in points]
        assert catalog.load("loss") == (shapes if len(shapes) > 1 else shapes[0])
        assert catalog.exists("loss")

    (run,) = lab.runs()
    assert points_in(lab.store, run)["v.loss"] == points


def test_a_mapping_of_names_is_refused(lab: Lab) -> None:
    dataset = MlflowMetricsDataset(key="loss")
    mlflow.set_tracking_uri(f"sqlite:///{lab.store}")
    with mlflow.start_run(), pytest.raises(DatasetError, match="one, not a mapping of names"):
        dataset.save({"train": 1.0, "test": 2.0})
    assert lab.runs()[0].data.metrics == {}


def test_messages_have_the_key_where_no_pipeline_has_named_the_dataset(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = MlflowMetricsDataset(key="precision@10")

    assert "precision_10" in str(dataset)
    with pytest.raises(DatasetError, match="The metrics dataset 'precision_10' has no MLflow run"):
        dataset.save(0.5)  # type: ignore[arg-type]
    mlflow.set_tracking_uri(f"sqlite:///{lab.store}")
    with mlflow.start_run():
        with pytest.raises(DatasetError, match="Nothing of 'precision_10' was written"):
            dataset.save("x")  # type: ignore[arg-type]
        dataset.save(0.5)  # type: ignore[arg-type]

    assert "not allow the metric name 'precision@10' of 'precision_10'; the key is" in caplog.text
    assert lab.points() == {"precision_10": [(0, 0.5)]}


def test_that_no_run_can_be_read_has_the_key(lab: Lab) -> None:
    lab.add("base/catalog.yml", "loss:\n  type: lab.tracking.MlflowMetricsDataset\n  key: v.loss\n")

    with pytest.raises(DatasetError, match=r"The metrics dataset 'v\.loss' can't be read: The exp"):
        lab.context().catalog.load("loss")


@pytest.mark.parametrize("more", [{"prefix": "a"}, {"metrics": {}}])
def test_what_a_key_leaves_no_place_for_is_refused(more: Any) -> None:
    with pytest.raises(ValueError, match="neither 'prefix' nor 'metrics'"):
        MlflowMetricsDataset(key="loss", **more)
