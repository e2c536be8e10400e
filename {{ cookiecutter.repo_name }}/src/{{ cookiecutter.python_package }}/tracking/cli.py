"""``kedro metrics``: the commands of this package, for the project's ``cli.py``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kedro.framework.startup import ProjectMetadata


@click.group()
def metrics() -> None:
    """Commands for metrics in MLflow."""


@metrics.command(short_help="Write waiting runs to MLflow.")
@click.option("--env", "-e", help="The configuration environment; as for `kedro run`.")
@click.option(
    "--running",
    is_flag=True,
    help="Also write runs that may still be running, on another machine, say; as KILLED.",
)
@click.option("--discard", metavar="RUN_ID", help="Only forget what waits for this MLflow run.")
@click.pass_obj
def sync(metadata: ProjectMetadata, env: str | None, running: bool, discard: str | None) -> None:
    """Write what waits in mlflow-spool.db to the MLflow store that it belongs to.

    May be interrupted and repeated. The exit status is 0 when nothing is left.
    """
    from kedro.framework.session import KedroSession

    from .config import current_config
    from .delivery import sync as waiting
    from .process.state import process_state

    with KedroSession.create(project_path=metadata.project_path, env=env) as session:
        assert isinstance(session, KedroSession)
        session.load_context()
        config = current_config()
    if config is None:
        raise click.ClickException(
            "MlflowPipelineHook is not registered; add it to HOOKS in settings.py."
        )
    if discard:
        number = waiting.discard(config, metadata.project_path, discard)
        click.echo(f"Forgot {number} requests that waited for the run {discard}.")
        return
    process_state().begin_tracking(config.tracking_uri, config.credentials)  # until the exit
    done = waiting.sync(config, metadata.project_path, click.echo, running=running)
    sys.exit(0 if done else 1)
