"""``python -m kedro_mlflow_metrics_starter``: the command ``kedro-mlflow-metrics``."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="kedro-mlflow-metrics")
