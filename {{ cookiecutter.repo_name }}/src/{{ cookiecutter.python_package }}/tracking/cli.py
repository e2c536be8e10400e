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
@click.pass_obj
def sync(metadata: ProjectMetadata, env: str | None, running: bool) -> None:
    """Write what waits in mlflow-spool.db to the MLflow store that it belongs to.

    May be interrupted and repeated. The exit status is 0 when nothing is left.
    """
    from kedro.framework.session import KedroSession

    from .config import current_config
    from .delivery.sync import sync as sync_outbox
    from .process.state import process_state
    from .store.client import require_mlflow

    with KedroSession.create(project_path=metadata.project_path, env=env) as session:
        assert isinstance(session, KedroSession)
        session.load_context()
        config = current_config()
    if config is None:
        raise click.ClickException(
            "MlflowPipelineHook is not registered; add it to HOOKS in settings.py."
        )
    uri, project_path = config.tracking_uri, metadata.project_path
    require_mlflow("sqlite:///")  # of the outbox
    process_state().begin_tracking(uri, config.credentials)  # it ends with the process
    sys.exit(0 if sync_outbox(uri, project_path, click.echo, running=running) else 1)
