"""``Sheet``: a table, for a terminal, a file, a pull request or a spreadsheet."""

from __future__ import annotations

import csv
import io
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from rich.console import Console

GOOD, BAD, BEST = "green", "red", "bold"
# So wide are lines without a terminal: nothing is broken or cut there.
WIDE = 10_000


class Cell(NamedTuple):
    """What stands in a table; ``value`` is what a spreadsheet gets of it."""

    text: str
    style: str = ""
    value: float | str | None = None


@dataclass
class Sheet:
    """Columns with their headings, the first of which has names; lines above and below."""

    columns: Sequence[str]
    rows: list[Sequence[Cell]] = field(default_factory=list)
    above: Sequence[str] = ()
    below: Sequence[str] = ()

    def show(self, console: Console) -> None:
        """Print it; a terminal breaks no line below, so that a link can be clicked."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        if not (console.is_terminal or console.is_jupyter):
            console = Console(file=console.file, width=WIDE, color_system=None)

        for line in self.above:
            console.print(Text(line, "bold"), soft_wrap=True)
        if self.rows:
            table = Table(box=None, pad_edge=False, header_style="dim")
            for number, heading in enumerate(self.columns):
                table.add_column(heading, justify="right" if number else "left", overflow="fold")
            for row in self.rows:
                table.add_row(*(Text(cell.text, cell.style) for cell in row))
            console.print(table)
        for line in self.below:
            console.print(Text(line), soft_wrap=True)

    def text(self) -> str:
        """It as text, no line of which is broken."""
        from rich.console import Console

        console = Console(file=io.StringIO())
        self.show(console)
        return cast("io.StringIO", console.file).getvalue().rstrip("\n")

    def markdown(self) -> str:
        """It as a table of Markdown."""
        lines = [[_escaped(heading) for heading in self.columns]]
        lines.append(["---"] + ["---:"] * (len(self.columns) - 1))
        for row in self.rows:
            texts = (_escaped(cell.text) for cell in row)
            lines.append(
                [f"**{t}**" if c.style and t else t for c, t in zip(row, texts, strict=True)]
            )
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join([*map(_escaped, self.above), table, *map(_escaped, self.below)])

    def csv(self) -> str:
        """It as comma-separated values, with all digits."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.rows:
            writer.writerow([cell.text if cell.value is None else cell.value for cell in row])
        return text.getvalue().rstrip("\n")


def _escaped(text: str) -> str:
    for character in "\\`*_|<>[]":
        text = text.replace(character, "\\" + character)
    return " ".join(text.splitlines())


def kedros_console() -> Console | None:
    """The console that Kedro's log goes to; None if the log has another form."""
    if "rich.logging" not in sys.modules:  # rich is an extra of Kedro's
        return None
    from rich.logging import RichHandler

    handlers = logging.getLogger().handlers
    return next((each.console for each in handlers if isinstance(each, RichHandler)), None)
