"""Print the metrics of the newest MLflow run in an SQLite store."""

from __future__ import annotations

import sys
from pathlib import Path

from mlflow import MlflowClient
from rich.console import Console
from rich.table import Table


def main(store: Path) -> None:
    """Print one line for each key: its points, the first and the last value."""
    client = MlflowClient(f"sqlite:///{store.resolve()}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    run = client.search_runs(experiments, max_results=1)[0]

    table = Table("key", "points", "first", "last", title=f"MLflow run {run.info.run_name}")
    table.caption = f"{run.info.run_id}, {run.info.status}"
    for key in sorted(key for key in run.data.metrics if not key.startswith("best.")):
        points = client.get_metric_history(run.info.run_id, key)
        points.sort(key=lambda point: point.step)
        table.add_row(key, str(len(points)), f"{points[0].value:.3f}", f"{points[-1].value:.3f}")
    console = Console()
    console.print(table)
    page = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/model-metrics"
    console.print("To see the curves:", style="bold")
    console.print(f"  cd {store.parent} && ../.venv/bin/mlflow ui", soft_wrap=True)
    console.print(f"  and open http://127.0.0.1:5000/{page}", soft_wrap=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
