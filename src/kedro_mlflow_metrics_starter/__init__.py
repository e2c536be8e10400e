"""The command ``kedro-mlflow-metrics``, and the starter's alias ``mlflow-metrics`` for Kedro."""
