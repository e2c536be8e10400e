"""The project's commands."""

import click
from kedro.framework.cli.project import run
from kedro.framework.cli.utils import CONTEXT_SETTINGS

__all__ = ["cli", "run"]


@click.group(context_settings=CONTEXT_SETTINGS, name=__file__)
def cli() -> None:
    """Of the project "Rockets"."""


@cli.command()
@click.option("--to", default="the moon")
def launch(to: str) -> None:
    """Launch a rocket."""
    click.echo(f"Lift-off to {to}!")
