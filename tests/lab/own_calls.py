"""Nodes that call MLflow themselves."""

import mlflow
from kedro.pipeline import Node, Pipeline
from mlflow.tracking import fluent


def log_own(name: str) -> dict[str, float]:
    mlflow.log_param(f"own.{name}", len(fluent._active_run_stack.get()))
    mlflow.log_metric(f"own.{name}", 2.0)
    mlflow.log_dict({"name": name}, f"{name}.json")
    return {"score": 0.5}


def one() -> dict[str, float]:
    return log_own("one")


def two() -> dict[str, float]:
    return log_own("two")


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline(
        [
            Node(one, None, "one_metrics", name="own_one"),
            Node(two, None, "two_metrics", name="own_two"),
        ]
    )
