"""The command ``kedro-mlflow-metrics``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from . import templates, transaction, versions
from .adopt import Options, plan_adoption
from .git import check_git
from .plan import Plan
from .project import find_project
from .refusal import Refusal
from .update import Choices, check, plan_update

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group()
def main() -> None:
    """Metrics tracking with MLflow for Kedro projects that exist already."""


@main.command()
@click.argument("path", type=FOLDER, default=".")
@click.option("--dry-run", is_flag=True, help="Only print what would change, as a diff.")
@click.option("--force", is_flag=True, help="Also where git could not undo it.")
@click.option("--example", is_flag=True, help="With the example pipeline.")
@click.option(
    "--distributed",
    type=click.Choice(["none", "dask"]),
    default="none",
    help="With what DaskRunner needs.",
)
@click.option("--as-package", is_flag=True, help="Depend on the package, and bundle nothing.")
@click.option("--from-kedro-mlflow", is_flag=True, help="Convert what it has of kedro-mlflow.")
@click.option(
    "--from-kedro-viz", is_flag=True, help="Convert tracking.MetricsDataset and the like."
)
@click.option("--import-history", is_flag=True, help="Import the old files of --from-kedro-viz.")
def adopt(path: Path, dry_run: bool, force: bool, import_history: bool, **options: Any) -> None:
    """Bring metrics tracking to the Kedro project in PATH."""
    if import_history and not options["from_kedro_viz"]:
        raise click.UsageError("--import-history goes with --from-kedro-viz.")
    finish_interrupted(path, dry_run)
    plan = plan_adoption(find_project(path), Options(**options))
    if plan.files and not force and not dry_run:
        check_git(plan.project, plan.files)
    if import_history and not dry_run:
        logging.disable(logging.INFO)  # Kedro's and MLflow's, about themselves
        from .history import import_runs

        click.echo(import_runs(plan))
    carry_out(plan, dry_run=dry_run)


@main.command()
@click.argument("path", type=FOLDER, default=".")
@click.option("--dry-run", is_flag=True, help="Only print what would change, as a diff.")
@click.option("--force", is_flag=True, help="Also where git could not undo it.")
@click.option("--take", multiple=True, metavar="FILE", help="Overwrite it, your changes too.")
@click.option("--keep", multiple=True, metavar="FILE", help="Leave it as it is.")
def update(
    path: Path, dry_run: bool, force: bool, take: tuple[str, ...], keep: tuple[str, ...]
) -> None:
    """Bring tracking/ of the project in PATH to this version.

    What you have changed in it is merged. FILE is a file that can't be, or a pattern of such.
    """
    finish_interrupted(path, dry_run)
    planned = plan_update(find_project(path), Choices(take, keep))
    check(planned)
    if planned.plan.files and not force and not dry_run:
        check_git(planned.plan.project, planned.plan.files)
    carry_out(planned.plan, dry_run=dry_run)
    if planned.plan.files and not dry_run:
        click.echo(f"{planned.before} -> {versions.this_version()}")


@main.command()
@click.argument("path", type=FOLDER, default=".")
def diff(path: Path) -> None:
    """Print what is new for the project in PATH, and what `update` would change."""
    planned = plan_update(find_project(path), Choices())
    if planned.plan.files or planned.clashes:
        click.echo(versions.news_since(planned.before))
    click.echo(planned.plan.diff(), nl=False)
    for name in planned.clashes:
        click.echo(f"{name} can't be merged: see --take and --keep of `update`.", err=True)


def finish_interrupted(path: Path, dry_run: bool) -> None:
    """Finish what a process that was killed had begun to write; clear away what is left of it."""
    interrupted = transaction.is_interrupted(path)
    if dry_run and interrupted:
        raise Refusal("An interrupted change is not finished; first call this without --dry-run.")
    if dry_run:
        return
    with finishing():
        transaction.finish(path)
    if interrupted:
        click.echo("Finished what was interrupted.")


@contextmanager
def finishing() -> Iterator[None]:
    """Say in a sentence what keeps a change, of which part may be written, from being finished."""
    try:
        yield
    except transaction.UnfinishedError as error:
        raise click.ClickException(
            f"The change is written in part: {error}. Correct that and call this again; or delete"
            f" the folder {transaction.JOURNAL}, to give up the rest."
        ) from None


def carry_out(plan: Plan, *, dry_run: bool) -> None:
    """Write what is planned, or print it."""
    if dry_run:
        click.echo(plan.diff(), nl=False)
        return
    if not plan.files:
        click.echo("Nothing to do.")
    else:
        try:
            with finishing():
                transaction.write(plan.project.path, plan.files)
        except OSError as error:
            raise Refusal(f"{error}; nothing was written.") from None
        for name in summary(plan):
            click.echo(f"Wrote {name}")
    for remark in plan.remarks:
        click.echo(remark)


def summary(plan: Plan) -> list[str]:
    """What is written: each file, and ``tracking/`` and ``templates/`` as a whole."""
    folders = (f"{plan.project.package}/tracking/", f"{templates.FOLDER}/")
    names = (next((f for f in folders if name.startswith(f)), name) for name in plan.files)
    return list(dict.fromkeys(names))
