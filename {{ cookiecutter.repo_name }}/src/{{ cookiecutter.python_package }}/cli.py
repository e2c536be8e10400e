"""The project's own commands, beside Kedro's.
https://docs.kedro.org/en/stable/extend/common_use_cases/"""

import click
from kedro.framework.cli.project import run  # what `python -m <package>` runs

from .tracking.cli import metrics

__all__ = ["cli", "run"]


@click.group(help="")  # Kedro shows it above its own commands
def cli() -> None:
    """The project's own commands."""


cli.add_command(metrics)
