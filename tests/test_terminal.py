"""What a real terminal of 80 columns shows while a pipeline runs, and after it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from helpers import KEDRO, Project
from terminals import Terminal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LIVE = re.compile(r"^screen_metrics  step \d+  loss \S+  accuracy 0\.5$")
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # of a terminal, such as colours
TALKING = re.compile(r"^talk_metrics  step \d+  x \d+$", re.MULTILINE)
LINK = r"http://127\.0\.0\.1:5000/#/experiments/\d+/runs/[0-9a-f]{32}/\S+=machine_learning"
KEYS = ("my_model_metrics.accuracy", "training_metrics.accuracy", "training_metrics.loss")


def terminal_of(project: Project, *arguments: str) -> Terminal:
    return Terminal(KEDRO, "run", *arguments, cwd=project.path, env=project.environment())


def is_live(rows: list[str]) -> bool:
    return any(map(LIVE.match, rows))


@pytest.fixture
def screen(make_project: Callable[..., Project]) -> Project:
    project = make_project("screen")
    project.write("conf/base/parameters.yml", f"file: {project.path / 'end'}\nway: print\n")
    return project


def test_the_output_of_the_example(example: Project) -> None:
    with terminal_of(example) as terminal:
        terminal.wait_for(lambda rows: any("keep_model(" in row for row in rows))
        assert not any(row.startswith("training_metrics  step") for row in terminal.rows())
        assert terminal.wait() == 0, terminal.raw.decode()
        rows, raw = terminal.text(), terminal.raw.decode()
        assert terminal.is_sane

    assert len(rows) <= 110, "\n".join(rows)
    for key in KEYS:  # none is broken
        assert any(re.match(rf"{re.escape(key)} +\d", row) for row in rows), "\n".join(rows)
    assert len(re.findall(LINK, raw)) == 1
    # No line below the log has to be read to its right: the link alone is longer.
    table = rows[next(n for n, row in enumerate(rows) if row.startswith("metric ")) :]
    assert max(map(len, table)) <= 80


def test_a_line_shows_the_latest_below_the_log_while_a_node_streams(screen: Project) -> None:
    with terminal_of(screen, "--nodes=screen_stream") as terminal:
        terminal.wait_for(is_live)
        rows = terminal.rows()
        assert LIVE.match(rows[-1])  # the log stands above it
        assert "Running node:" in " ".join(rows[:-1])
        first = rows[-1]
        terminal.wait_for(lambda rows: is_live(rows) and rows[-1] != first)
        assert sum(map(is_live, [[row] for row in terminal.text()])) == 1  # it changes in place

        (screen.path / "end").touch()

        assert terminal.wait() == 0
        assert not is_live(terminal.text())
        assert terminal.is_sane
        assert terminal.rows()[-1].endswith("machine_learning")


@pytest.mark.parametrize("way", ["print", "track", "ask", "breakpoint"])
def test_what_a_node_writes_itself_is_not_broken(screen: Project, way: str) -> None:
    with terminal_of(screen, "--nodes=talk", f"--params=way={way}") as terminal:
        if way == "ask":
            terminal.wait_for(lambda rows: any("A question?" in row for row in rows))
            terminal.type("yes\n")
        if way == "breakpoint":
            terminal.wait_for(lambda rows: any("(Pdb)" in row for row in rows))
            terminal.type("p 6 * 7\n")
            terminal.wait_for(lambda rows: "42" in rows)
            terminal.type("c\n")
        assert terminal.wait() == 0, terminal.raw.decode()
        rows = terminal.text()
        assert terminal.is_sane
        # On a busy machine it may have gone before the screen is looked at.
        written = CODES.sub("", terminal.raw.decode())
        assert re.search(r"talk_metrics  step \d+  x \d+", written)
    found = {
        "print": r"PRINTED \d+",
        "track": r"TRACKED .* 100% 0:00:0\d",
        "ask": "ANSWERED yes",
        "breakpoint": "42",
    }[way]
    assert any(re.fullmatch(found, row) for row in rows), "\n".join(rows)
    if way == "ask":
        assert any(row.startswith("A question? yes") for row in rows), "\n".join(rows)
    assert not TALKING.search("\n".join(rows)), "\n".join(rows)


def test_ctrl_c_while_the_line_shows_leaves_the_terminal_as_it_was(screen: Project) -> None:
    with terminal_of(screen, "--nodes=screen_stream") as terminal:
        terminal.wait_for(is_live)

        terminal.type("\x03")

        assert terminal.wait() != 0
        assert terminal.is_sane
        assert not is_live(terminal.text())
    (run,) = screen.runs()
    assert run.info.status == "KILLED"


def test_nothing_but_text_where_there_is_no_terminal(screen: Project) -> None:
    out = screen.kedro("run", "--nodes=talk", TERM="xterm-256color", COLUMNS="80")

    assert "\x1b" not in out.stdout + out.stderr
    assert not TALKING.search(out.stdout)
    assert len(re.findall(rf"^{LINK}$", out.stdout, re.MULTILINE)) == 1
