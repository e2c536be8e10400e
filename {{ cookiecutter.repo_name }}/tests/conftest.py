"""Each test has a tracking store and settings of its own; the project's stay as they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from mlflow import MlflowClient

PROJECT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _no_settings_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment says of another store, run or experiment is not for the tests."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite store without runs, made once: MLflow takes a second to make its tables."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path.as_posix()}").search_experiments()
    return path


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> str:
    """The URI of an empty tracking store."""
    path = Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))
    return f"sqlite:///{path.as_posix()}"


@pytest.fixture
def session(tmp_path: Path, store: str) -> Callable[..., KedroSession]:
    """Makes sessions of this project that write to that store; takes runtime parameters."""
    conf = shutil.copytree(PROJECT / "conf", tmp_path / "conf")
    (conf / "test").mkdir(exist_ok=True)
    for path in conf.rglob("mlflow*.yml"):
        path.unlink()
    (conf / "test" / "mlflow.yml").write_text(f"tracking_uri: {store}\nexperiment: tests\n")
    bootstrap_project(PROJECT)

    def make(**runtime_params: Any) -> KedroSession:
        return KedroSession.create(
            project_path=PROJECT, env="test", conf_source=str(conf), runtime_params=runtime_params
        )

    return make


@pytest.fixture
def runs(store: str) -> Callable[[], list[Any]]:
    """The MLflow runs in that store."""

    def search() -> list[Any]:
        client = MlflowClient(store)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(experiments))

    return search
