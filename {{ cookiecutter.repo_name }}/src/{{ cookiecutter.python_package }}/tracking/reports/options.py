"""What the commands of `kedro metrics` have in common: the project, and forms of output."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from kedro.framework.cli.project import CONF_SOURCE_HELP, PARAMS_ARG_HELP
from kedro.framework.cli.utils import _split_params, env_option, validate_conf_source

from ..config import MlflowConfig, current_config

if TYPE_CHECKING:
    from kedro.framework.startup import ProjectMetadata

    from .sheet import Sheet


def _config(
    path: Path | None, env: str | None, conf_source: str | None, params: dict[str, Any]
) -> MlflowConfig:
    from kedro.framework.session import KedroSession

    with KedroSession.create(
        project_path=path, env=env, conf_source=conf_source, runtime_params=params
    ) as session:
        assert isinstance(session, KedroSession)
        session.load_context()
        config = current_config()
    if config is None:
        raise click.ClickException(
            "MlflowPipelineHook is not registered; add it to HOOKS in settings.py."
        )
    return config


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
        command(_config(path, env, conf_source, params), **options)

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


@dataclass(frozen=True)
class Form:
    """In which form a command prints, and where to."""

    name: str | None  # json, md or csv; None: for people
    output: Path | None

    def put(self, sheet: Sheet, data: object) -> None:
        """Print a sheet; JSON has the data that it was made of."""
        from rich.console import Console

        from .rows import for_json

        if self.name == "json":
            text = json.dumps(for_json(data), indent=2)
        elif self.name:
            text = sheet.markdown() if self.name == "md" else sheet.csv()
        elif self.output is None:
            sheet.show(Console())
            return
        else:
            text = sheet.text()
        if self.output is None:
            click.echo(text)
            return
        try:
            self.output.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise click.ClickException(
                f"{self.output} can't be written ({error.strerror}); give --output a file in a"
                " folder that is there and can be written."
            ) from None


def printed(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options for the form of what it prints; it is given the chosen one."""

    def run(*arguments: Any, name: str | None, output: Path | None, **options: Any) -> None:
        command(*arguments, form=Form(name, output), **options)

    decorated: Any = functools.update_wrapper(run, command)
    for form, text in _FORMS.items():
        decorated = click.option(f"--{form}", "name", flag_value=form, help=text)(decorated)
    path = click.Path(dir_okay=False, writable=True, path_type=Path)
    text = "Into this file, without Kedro's log."
    return cast(
        "Callable[..., None]", click.option("--output", "-o", type=path, help=text)(decorated)
    )


_FORMS = {
    "json": "As JSON, with all digits.",
    "md": "As Markdown, for a pull request.",
    "csv": "As comma-separated values, with all digits.",
}
