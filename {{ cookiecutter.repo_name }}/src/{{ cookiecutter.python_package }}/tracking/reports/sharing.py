"""`kedro metrics open` and `close`: one MLflow run for several Kedro runs."""

from __future__ import annotations

import click

from ..config import MlflowConfig
from .options import in_project

STATUSES = ("FINISHED", "FAILED", "KILLED")


@click.command("open", short_help="Open an MLflow run for several Kedro runs; prints its id.")
@click.option("--pipeline", default="__default__", help="Of which the Kedro runs are parts.")
@click.option("--name", default="", help="The run's name ('run_name' in mlflow.yml).")
@click.option("--key", default="", help="While one that was opened with it is running: that one.")
@in_project
def open_shared_run(config: MlflowConfig, pipeline: str, name: str, key: str) -> None:
    """Open an MLflow run and leave it open; its id is the last line that is printed.

    Each step of an orchestrator, a `kedro run --nodes=...` say, gets the id, as `MLFLOW_RUN_ID` in
    its environment or by `--params=mlflow_run_id=...`, and writes to that run. A step may be
    repeated: what it writes again is there once. `kedro metrics close` ends the run.
    """
    from ..delivery.shared import open_shared

    given = click.get_current_context().params["params"]
    click.echo(open_shared(config, pipeline, name=name, key=key, runtime_params=given))


@click.command("close", short_help="End an MLflow run of `kedro metrics open`.")
@click.argument("run", metavar="RUN")
@click.option("--status", type=click.Choice(STATUSES), default="FINISHED", show_default=True)
@in_project
def close_shared_run(config: MlflowConfig, run: str, status: str) -> None:
    """End the MLflow run RUN: an id or its beginning, or a name.

    A step that failed and was repeated afterwards may make a failed run a finished one.
    """
    from ..delivery.shared import close_shared
    from .runs import opened
    from .tables import title

    with opened(config) as runs:
        run_id = runs.find(run).info.run_id
    ended = close_shared(config, run_id, status)
    click.echo(f"MLflow run {title(ended)}: {status}")
