"""A node that opens an MLflow run of its own within the one of the Kedro run."""

from kedro.pipeline import Node, Pipeline


def search() -> dict[str, float]:
    import mlflow

    with mlflow.start_run(run_name="child", nested=True):
        mlflow.log_metric("inner", 1.0)
    return {"best": 1.0}


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline([Node(search, None, "search_metrics", name="nested")])
