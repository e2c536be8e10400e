"""The pipeline without a store: does its node return metrics, and the right ones?"""

from __future__ import annotations

from pathlib import Path

from kedro.framework.project import pipelines
from kedro.framework.startup import bootstrap_project
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

NAME = Path(__file__).stem.removeprefix("test_")


def test_most_predictions_are_right() -> None:
    bootstrap_project(Path(__file__).parents[3])
    catalog = DataCatalog({f"params:{NAME}": MemoryDataset({"threshold": 0.5})})

    outputs = SequentialRunner().run(pipelines[NAME], catalog)

    assert outputs[f"{NAME}_metrics"].load() == {"accuracy": 0.8}
