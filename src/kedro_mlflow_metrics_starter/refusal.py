"""What the command refuses to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click
import yaml


class Refusal(click.ClickException):
    """One sentence: what is wrong, and what to do; nothing has been written."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it to stderr; the exit status is 1."""
        click.echo(f"Refused: {self.message}", file=file, err=file is None)


@contextmanager
def reading_yaml(name: str) -> Iterator[None]:
    """Refuse a file, of this name, that is not YAML."""
    try:
        yield
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise Refusal(f"{name} is not YAML ({reason}); correct it.") from None
