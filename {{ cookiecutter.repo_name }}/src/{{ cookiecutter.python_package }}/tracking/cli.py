"""``kedro metrics``: the commands of this package, for the project's ``cli.py``."""

from __future__ import annotations

import sys

import click

from .config import MlflowConfig
from .reports.commands import check, compare, history, show
from .reports.options import in_project
from .reports.serving import ui, upgrade
from .reports.sharing import close_shared_run, open_shared_run


@click.group()
def metrics() -> None:
    """Commands for metrics in MLflow."""


@metrics.command(short_help="Write waiting runs to MLflow.")
@click.option(
    "--running",
    is_flag=True,
    help="Also write runs that may still be running, on another machine, say; as KILLED.",
)
@click.option("--discard", metavar="RUN_ID", help="Only forget what waits for this MLflow run.")
@in_project
def sync(config: MlflowConfig, running: bool, discard: str | None) -> None:
    """Write what waits in mlflow-spool.db to the MLflow store that it belongs to.

    The file is in the project's folder; for an installed package (`python -m <package> metrics
    sync`) that is the current folder, where its runs left it.

    May be interrupted and repeated. The exit status is 0 when nothing is left.
    """
    from .delivery import sync as outbox_sync
    from .process.state import process_state
    from .scanning.uris import SQLITE
    from .store.client import require_mlflow

    project_path = config.project_path
    require_mlflow(SQLITE)  # of the outbox
    if discard is not None:
        number = outbox_sync.discard(config, project_path, discard)
        click.echo(f"Forgot {number} requests that waited for the run {discard}.")
        return
    process_state().begin_tracking(config.tracking_uri, config.credentials)  # until the exit
    done = outbox_sync.sync(config, project_path, click.echo, running=running)
    sys.exit(0 if done else 1)


@metrics.command()
def version() -> None:
    """Print the version of this package."""
    click.echo(sys.modules[__package__ or ""].__version__)  # imported before its modules are


for command in (show, compare, history, check, ui, upgrade, open_shared_run, close_shared_run):
    metrics.add_command(command)
