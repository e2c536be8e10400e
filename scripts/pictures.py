"""Make the pictures of docs/ from a real run of a new project, in a terminal and a browser."""

from __future__ import annotations

import io
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyte
from browsers import browser_page
from helpers import KEDRO, STARTER, Project, bake, free_port
from playwright.sync_api import Page
from rich.color import Color, ColorParseError
from rich.console import Console
from rich.style import Style
from rich.text import Text
from terminals import Terminal

COLUMNS = 120  # a link fits
DOCS = STARTER / "docs"
COLOURS = {"brown": "yellow"}  # as pyte calls them
SETTLED = 5000  # milliseconds in which MLflow's page has put everything in its place


def main() -> None:
    """Run the example twice; take pictures of the second run."""
    with tempfile.TemporaryDirectory() as folder, browser_page(width=1400, height=900) as page:
        project = Project(bake(Path(folder), project_name="My Project"))
        project.kedro("run", "--params=training.learning_rate=0.001")
        take(page, "terminal", in_terminal(project, "run"), 30)
        compared = in_terminal(project, "metrics", "compare", "previous", "last")
        log = max(n for n, line in enumerate(compared) if "logging configuration" in line.plain)
        take(page, "compare", compared[log + 1 :], 24)
        port = free_port()
        command = (KEDRO, "metrics", "ui", "--no-browser", f"--port={port}")
        with project.started(*command) as server:
            server.wait_until(lambda: "Ctrl-C ends it." in server.output, 300)
            url = next(line for line in server.output.splitlines() if line.startswith("http"))
            page.set_viewport_size({"width": 1400, "height": 900})
            page.goto(url)
            page.locator(".js-plotly-plot .main-svg").first.wait_for()
            page.wait_for_timeout(SETTLED)
            if (assistant := page.get_by_role("button", name="Close")).count():
                assistant.last.click()
                page.wait_for_timeout(SETTLED)
            page.get_by_placeholder("Search metric charts").fill("^(my|training)")
            page.wait_for_timeout(SETTLED)
            page.screenshot(path=DOCS / "mlflow-ui.png")
            server.signal_group(signal.SIGINT)  # killed, it would leave MLflow's own behind
            server.wait()
    for picture in DOCS.glob("*.png"):
        print(f"{picture.name}: {picture.stat().st_size // 1000} kB")


def in_terminal(project: Project, *arguments: str) -> list[Text]:
    """What a terminal shows at the end of a command, in its colours."""
    with Terminal(
        KEDRO, *arguments, cwd=project.path, env=project.environment(), columns=COLUMNS
    ) as terminal:
        assert terminal.wait(300) == 0, terminal.raw.decode()
        screen = terminal.screen
        lines = [coloured([row[x] for x in range(screen.columns)]) for row in rows_of(screen)]
    while lines and not lines[-1].plain.strip():
        lines.pop()
    return lines


def rows_of(screen: pyte.HistoryScreen) -> list[dict[int, pyte.screens.Char]]:
    """All rows, those that have left the screen above first."""
    return [*screen.history.top, *(screen.buffer[y] for y in range(screen.lines))]


def coloured(row: Sequence[pyte.screens.Char]) -> Text:
    """One row, for rich."""
    text = Text()
    for cell in row:
        name = COLOURS.get(cell.fg, cell.fg)
        colour = None if name == "default" else parsed(name)
        text.append(cell.data, Style(color=colour, bold=cell.bold, italic=cell.italics))
    return text


def parsed(name: str) -> Color:
    """One of pyte's colours: a name or six hexadecimal digits."""
    try:
        return Color.parse(name.replace("bright", "bright_"))
    except ColorParseError:
        return Color.parse(f"#{name}")


def take(page: Page, name: str, lines: Sequence[Text], most: int) -> None:
    """Draw the last lines of a terminal, and take a picture of them."""
    console = Console(file=io.StringIO(), record=True, width=COLUMNS, force_terminal=True)
    for line in lines[-most:]:
        console.print(line, soft_wrap=True)
    console.print()  # the picture cuts off what is below the last line's letters
    svg = console.export_svg(title="my-project").replace("<svg ", "<svg width='1000' ", 1)
    page.set_content(f"<body style='margin: 0'>{svg}</body>")
    page.locator("svg").first.screenshot(path=DOCS / f"{name}.png")


if __name__ == "__main__":
    main()
