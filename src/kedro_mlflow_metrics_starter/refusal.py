"""What the command refuses to do."""

from __future__ import annotations

from typing import IO, Any

import click


class Refusal(click.ClickException):
    """One sentence: what is wrong, and what to do; nothing has been written."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it to stderr; the exit status is 1."""
        click.echo(f"Refused: {self.message}", file=file, err=file is None)
