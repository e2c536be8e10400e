"""``kedro metrics``: the commands of this package, for the project's ``cli.py``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.cli.project import CONF_SOURCE_HELP, PARAMS_ARG_HELP
from kedro.framework.cli.utils import _split_params, env_option, validate_conf_source

if TYPE_CHECKING:
    from kedro.framework.startup import ProjectMetadata


@click.group()
def metrics() -> None:
    """Commands for metrics in MLflow."""


@metrics.command(short_help="Write waiting runs to MLflow.")
@env_option
@click.option("--conf-source", callback=validate_conf_source, help=CONF_SOURCE_HELP)
@click.option(
    "--params",
    type=click.UNPROCESSED,
    default="",
    help=PARAMS_ARG_HELP,
    callback=_split_params,
)
@click.option(
    "--running",
    is_flag=True,
    help="Also write runs that may still be running, on another machine, say; as KILLED.",
)
@click.pass_obj
def sync(
    metadata: ProjectMetadata | None,
    env: str | None,
    conf_source: str | None,
    params: dict[str, Any],
    running: bool,
) -> None:
    """Write what waits in mlflow-spool.db to the MLflow store that it belongs to.

    The file is in the project's folder; for an installed package (`python -m <package> metrics
    sync`) that is the current folder, where its runs left it.

    May be interrupted and repeated. The exit status is 0 when nothing is left.
    """
    from kedro.framework.session import KedroSession

    from .config import current_config
    from .delivery.sync import sync as sync_outbox
    from .process.state import process_state

    with KedroSession.create(
        project_path=metadata.project_path if metadata else None,
        env=env,
        conf_source=conf_source,
        runtime_params=params,
    ) as session:
        assert isinstance(session, KedroSession)
        project_path = session.load_context().project_path
        config = current_config()
    if config is None:
        raise click.ClickException(
            "MlflowPipelineHook is not registered; add it to HOOKS in settings.py."
        )
    uri = config.tracking_uri
    process_state().begin_tracking(uri, config.credentials)  # it ends with the process
    sys.exit(0 if sync_outbox(uri, project_path, click.echo, running=running) else 1)
