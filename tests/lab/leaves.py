"""Nodes that call MLflow and leave nested runs open, one within another."""

from kedro.pipeline import Node, Pipeline


def leave(name: str) -> dict[str, float]:
    import mlflow

    mlflow.log_metric(f"own.{name}", 2.0)
    mlflow.start_run(run_name=name, nested=True)
    mlflow.start_run(run_name=f"in {name}", nested=True)
    return {"score": 0.5}


def one() -> dict[str, float]:
    return leave("one")


def two() -> dict[str, float]:
    return leave("two")


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline(
        [
            Node(one, None, "leaves_one_metrics", name="leaves_one"),
            Node(two, None, "leaves_two_metrics", name="leaves_two"),
        ]
    )
