"""``kedro metrics``: the commands of this package, for the project's ``cli.py``."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from kedro.framework.cli.project import CONF_SOURCE_HELP, PARAMS_ARG_HELP
from kedro.framework.cli.utils import _split_params, env_option, validate_conf_source

if TYPE_CHECKING:
    from kedro.framework.startup import ProjectMetadata

    from .config import MlflowConfig


@click.group()
def metrics() -> None:
    """Commands for metrics in MLflow."""


def in_project(command: Callable[..., None]) -> Callable[..., None]:
    """A command with `kedro run`'s options for the configuration, which it is then given."""

    @click.pass_obj
    def run(
        metadata: ProjectMetadata | None,
        /,
        env: str | None,
        conf_source: str | None,
        params: dict[str, Any],
        **options: Any,
    ) -> None:
        path = metadata.project_path if metadata else None
        command(*_config(path, env, conf_source, params), **options)

    options: tuple[Callable[[Any], Any], ...] = (
        env_option,
        click.option("--conf-source", callback=validate_conf_source, help=CONF_SOURCE_HELP),
        click.option(
            "--params",
            type=click.UNPROCESSED,
            default="",
            help=PARAMS_ARG_HELP,
            callback=_split_params,
        ),
    )
    decorated: Any = functools.update_wrapper(run, command)
    for option in options:
        decorated = option(decorated)
    return cast("Callable[..., None]", decorated)


def _config(
    path: Path | None, env: str | None, conf_source: str | None, params: dict[str, Any]
) -> tuple[MlflowConfig, Path]:
    """The configuration of a project, and its folder."""
    from kedro.framework.session import KedroSession

    from .config import current_config

    with KedroSession.create(
        project_path=path, env=env, conf_source=conf_source, runtime_params=params
    ) as session:
        assert isinstance(session, KedroSession)
        project_path = session.load_context().project_path
        config = current_config()
    if config is None:
        raise click.ClickException(
            "MlflowPipelineHook is not registered; add it to HOOKS in settings.py."
        )
    return config, project_path


@metrics.command(short_help="Write waiting runs to MLflow.")
@click.option(
    "--running",
    is_flag=True,
    help="Also write runs that may still be running, on another machine, say; as KILLED.",
)
@click.option("--discard", metavar="RUN_ID", help="Only forget what waits for this MLflow run.")
@in_project
def sync(config: MlflowConfig, project_path: Path, running: bool, discard: str | None) -> None:
    """Write what waits in mlflow-spool.db to the MLflow store that it belongs to.

    The file is in the project's folder; for an installed package (`python -m <package> metrics
    sync`) that is the current folder, where its runs left it.

    May be interrupted and repeated. The exit status is 0 when nothing is left.
    """
    from .delivery import sync as waiting
    from .process.state import process_state
    from .scanning.uris import SQLITE
    from .store.client import require_mlflow

    require_mlflow(SQLITE)  # of the outbox
    if discard:
        number = waiting.discard(config, project_path, discard)
        click.echo(f"Forgot {number} requests that waited for the run {discard}.")
        return
    process_state().begin_tracking(config.tracking_uri, config.credentials)  # until the exit
    done = waiting.sync(config, project_path, click.echo, running=running)
    sys.exit(0 if done else 1)
