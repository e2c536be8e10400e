"""How long it takes to open and close a run without points, beside MLflow's own two requests.

Run by ``sizes.py`` in a project's folder; prints the medians as JSON.
"""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from mlflow import MlflowClient

TIMES = 7


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    bootstrap_project(Path.cwd())
    with KedroSession.create(project_path=Path.cwd()) as session:
        assert isinstance(session, KedroSession)
        session.load_context()
        from lab.tracking.config import current_config
        from lab.tracking.delivery.shared import close_shared, open_shared

        config = current_config()
        assert config is not None
        client = MlflowClient(config.tracking_uri)
        found = client.get_experiment_by_name(config.experiment)
        assert found is not None

        def ours() -> None:
            close_shared(config, open_shared(config), "FINISHED")

        def floor() -> None:
            run = client.create_run(found.experiment_id)
            client.set_terminated(run.info.run_id)

        ours()
        floor()
        pairs = [(seconds(ours), seconds(floor)) for _ in range(TIMES)]
    print("RESULT", json.dumps([statistics.median(column) for column in zip(*pairs, strict=True)]))


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
