"""What a browser shows of a project's metrics: MLflow's page, and Kedro-Viz."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from browsers import browser_page, curves
from databases import unavailable
from helpers import KEDRO, TEMPLATE, Process, Project, free_port, points_in, wait_until
from playwright.sync_api import Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LOSS = "training_metrics.loss"


@dataclass
class Trained:
    """A project with two runs, and MLflow's page of it."""

    project: Project
    printed: list[str] = field(default_factory=list)  # what each `kedro run` has printed
    port: int = field(default_factory=free_port)
    page: str = ""  # what `kedro metrics ui` has printed

    @property
    def names(self) -> list[str]:
        return [str(run.info.run_name) for run in self.project.runs()]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"


@contextmanager
def trained(project: Project, copy_store: Callable[[Path], Path]) -> Iterator[Trained]:
    """The project after two runs, while `kedro metrics ui` serves its page."""
    copy_store(project.store)
    found = Trained(project)
    found.printed = [project.kedro("run").stdout for _ in range(2)]
    command = (KEDRO, "metrics", "ui", "--no-browser", f"--port={found.port}")
    with project.started(*command) as server:
        server.wait_until(lambda: "Ctrl-C ends it." in server.output, 300)
        (found.page,) = re.findall("^http.*", server.output, re.MULTILINE)
        try:
            yield found
        finally:
            server.stop(signal.SIGINT)  # it ends MLflow's server, which has a session of its own


@pytest.fixture(scope="module")
def runs(bake: Callable[..., Path], copy_store: Callable[[Path], Path]) -> Iterator[Trained]:
    with trained(Project(bake()), copy_store) as found:
        yield found


@pytest.fixture
def page() -> Iterator[Page]:
    with browser_page() as page:
        yield page


def wait_for_curves(page: Page, *names: str, of: dict[str, list[tuple[int, float]]]) -> None:
    """Wait for a chart that has a curve of each of these names, each with just these points."""
    expected = {
        name: (
            [step for step, _ in of[name]],
            [pytest.approx(value, rel=1e-6) for _, value in of[name]],
        )
        for name in names
    }

    def is_drawn() -> bool:
        charts = [{name: (x, y) for name, x, y in chart} for chart in curves(page)]
        return any(
            all(name in chart and chart[name] == expected[name] for name in names)
            for chart in charts
        )

    def still() -> None:
        page.wait_for_timeout(200)  # Playwright sees what happens only within its own calls

    wait_until(is_drawn, 120, still)


def losses(project: Project) -> dict[str, list[tuple[int, float]]]:
    """The points of the loss, by the name of the run."""
    return {str(run.info.run_name): points_in(project.store, run)[LOSS] for run in project.runs()}


def test_the_page_that_ui_opens_has_the_curves_of_both_runs(runs: Trained, page: Page) -> None:
    first, second = runs.names
    assert first != second

    page.goto(runs.page)

    points = losses(runs.project)
    assert len(points[first]) > 1
    wait_for_curves(page, first, second, of=points)
    for name in (first, second):  # each has its line in the legend
        assert page.get_by_text(f"{name} ({LOSS})", exact=True).count() >= 1


def test_the_link_that_a_run_prints_has_its_curves(runs: Trained, page: Page) -> None:
    link = re.findall(r"^http://127\.0\.0\.1:5000/(\S+)$", runs.printed[-1], re.MULTILINE)[-1]
    name = runs.names[-1]

    page.goto(runs.url(link))

    wait_for_curves(page, name, of=losses(runs.project))
    assert "workflowType=machine_learning" in page.url
    assert "/traces" not in page.url
    assert page.get_by_text(LOSS, exact=True).first.is_visible()


def test_mlflows_own_first_page_leads_to_the_runs(runs: Trained, page: Page) -> None:
    """Its view for GenAI is the default and shows no runs, whatever the experiment's kind is."""
    page.goto(runs.url(""))
    training = page.get_by_text("Model training", exact=True)
    experiment = page.get_by_role("link", name=runs.project.package, exact=True)
    training.or_(experiment).first.wait_for()
    if training.count():  # from 3.15 on
        training.first.click()
    experiment.first.click()

    for name in runs.names:
        page.get_by_text(name, exact=True).first.wait_for()


def test_a_slash_groups_the_charts_by_dataset(
    bake: Callable[..., Path], copy_store: Callable[[Path], Path], page: Page
) -> None:
    with trained(Project(bake(separator="/")), copy_store) as found:
        page.goto(found.page)

        for dataset in ("my_model_metrics", "training_metrics"):
            section = page.get_by_text(re.compile(rf"^{dataset} *(\(\d+\))?$")).first
            section.wait_for()
        page.get_by_text("loss", exact=True).or_(
            page.get_by_text("training_metrics/loss", exact=True)
        ).first.wait_for()


def test_the_server_ends_with_the_command(runs: Trained) -> None:
    port = free_port()
    with runs.project.started(KEDRO, "metrics", "ui", "--no-browser", f"--port={port}") as command:
        command.wait_until(lambda: "Ctrl-C ends it." in command.output, 300)
        children = children_of(command)
        # MLflow's command and its one worker: no others, and nothing for jobs of its own.
        assert len(children) <= 2

        command.signal(15)

        command.wait()
        wait_until(lambda: not any(map(is_alive, children)))


def children_of(process: Process) -> list[int]:
    children = Path(f"/proc/{process.running.pid}/task/{process.running.pid}/children")
    if not children.exists():
        unavailable("Only Linux tells a process's children")
    own = [int(pid) for pid in children.read_text().split()]
    return own + [
        int(pid)
        for child in own
        for pid in Path(f"/proc/{child}/task/{child}/children").read_text().split()
    ]


def is_alive(pid: int) -> bool:
    """Whether it runs; one that has ended may wait for a parent who asks how."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


# Kedro-Viz


@pytest.fixture(scope="session")
def viz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kedro with Kedro-Viz, in an environment of its own: Kedro loads each plugin that it finds."""
    folder = tmp_path_factory.mktemp("viz") / "env"
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    requirements = TEMPLATE / "requirements.txt"
    install: list[str | Path] = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        folder,
        "kedro-viz>=12",
    ]
    done = subprocess.run(
        [*install, "-r", str(requirements)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        unavailable(f"Kedro-Viz can't be installed: {done.stderr}")
    return folder / "bin" / "kedro"


def imports_mlflow(process: Process) -> bool:
    return re.search(r"^import time:.*\|\s+mlflow$", process.output, re.MULTILINE) is not None


def click(page: Page, dataset: str) -> None:
    """Click a dataset in the flowchart and wait for what is told of it."""
    with page.expect_response(re.compile(r"/api/nodes/")):
        page.locator(".pipeline-node", has_text=dataset).first.dispatch_event("click")


def test_kedro_viz_shows_the_curves_of_a_dataset(
    viz: Path, bake: Callable[..., Path], page: Page
) -> None:
    project = Project(bake())
    # It takes the next free port, below the system's own for clients.
    command = (viz, "viz", "run", "--no-browser", "--port=41410")
    with project.started(*command, PYTHONPROFILEIMPORTTIME="1") as server:
        running = re.compile(r"Kedro Viz is running at\s+(http\S+)")
        found = server.wait_until(lambda: running.search(server.output), 300)
        assert found
        url = found[1]
        page.goto(url)
        page.locator(".pipeline-node", has_text="training_metrics").first.wait_for()
        assert not imports_mlflow(server)

        click(page, "my_model_metrics")  # there is no run yet
        server.wait_until(lambda: "'my_model_metrics' could not be previewed" in server.output)
        assert "try `kedro run`" in " ".join(server.output.split())
        assert "Traceback" not in server.output
        assert not project.store.exists()

        project.kedro("run")
        (run,) = project.runs()
        click(page, "training_metrics")
        wait_for_curves(page, LOSS, of=points_in(project.store, run))
        assert imports_mlflow(server)
