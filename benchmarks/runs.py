"""Fills a store with 1,000 finished runs of 50 keys, as the project ``ours`` makes them."""

from __future__ import annotations

import sys
import time

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

RUNS, KEYS = 1000, 50


def main(uri: str) -> None:
    client = MlflowClient(uri)
    experiment = client.create_experiment("ours")
    now = int(time.time() * 1000)
    for number in range(RUNS):
        began = now - 1000 * (RUNS - number)
        run_id = client.create_run(experiment, began, run_name=f"default {number}").info.run_id
        metrics = [Metric(f"k_metrics.k{key}", key / (1 + number), now, 0) for key in range(KEYS)]
        params = [Param(f"p{key}", str(key * number)) for key in range(5)]
        tags = [RunTag("kedro.pipeline", "__default__"), RunTag("kedro.env", "local")]
        client.log_batch(run_id, metrics, params, tags)
        client.set_terminated(run_id, "FINISHED", began + 500)


if __name__ == "__main__":
    main(sys.argv[1])
