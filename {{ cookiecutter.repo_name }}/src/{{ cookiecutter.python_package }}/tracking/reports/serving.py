"""`kedro metrics ui` and `upgrade`: MLflow's page of a project's store, and the store's upgrade."""

from __future__ import annotations

import click

from ..config import MlflowConfig
from .options import in_project


@click.command(short_help="Open MLflow's page of the project.")
@click.option("--port", type=click.IntRange(1, 65535), help="Of the page (5000, or a free one).")
@click.option("--no-browser", is_flag=True, help="Only print where it is.")
@in_project
def ui(config: MlflowConfig, port: int | None, no_browser: bool) -> None:
    """Serve MLflow's page of the project's store until Ctrl-C, opened at the charts of its runs.

    Where the store is a server, its page is opened.
    """
    from .page import open_page
    from .runs import opened

    with opened(config) as runs:
        experiment = runs.experiment
    open_page(config, experiment, port, not no_browser)


@click.command(short_help="Upgrade mlflow.db to the MLflow that is installed.")
@in_project
def upgrade(config: MlflowConfig) -> None:
    """Upgrade the project's SQLite files, of an older MLflow, to the one that is installed.

    A copy is made before; the command says where.
    """
    from .page import upgrade_files

    upgrade_files(config, click.echo)
