"""The pages of docs/ say what is so: their commands are executed, their schemas hold."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from adopting import commit, copy_of, new_of, starter_before
from helpers import KEDRO, PACKAGE, STARTER, Process, Project, free_port, points_in, run_command
from lab.tracking.names import Tag

FIRST_DAY = STARTER / "docs" / "first-day.md"
SWEEPS = STARTER / "docs" / "sweeps.md"
ORCHESTRATORS = STARTER / "docs" / "orchestrators.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LEFT_OUT = "…"
VARYING = {
    r"\b[0-9a-f]{32}\b": "ID",
    r"\b(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{8}\b": "ID",
    r"\b[0-9]{8}\b": "ID",  # one in 43 has no letter
    r"\d\d-\d\d \d\d:\d\d:\d\d\.\d+": "TIME",
    r"\d+\.\d s\b": "SECONDS",
    r"\bat \d+": "at STEP",
    r"127\.0\.0\.1:\d+": "ADDRESS",
    "│.*": "CURVE",
}
TOLERANCE = 0.03  # scikit-learn's versions learn a little differently


@dataclass
class Command:
    """A command of a page and what it prints there."""

    text: str
    printed: list[str]


def steps(page: Path) -> Iterator[Command | tuple[Path, str, bool]]:
    """The commands of a page, and its files: where, what, and whether it is added there."""
    for kind, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if kind == "console":
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                text, *printed = part.splitlines()
                yield Command(text, printed)
        elif place := re.match(r"# ([\w/.]+)(, at the end)?\n", block):
            yield Path(place[1]), block[place.end() :], bool(place[2])


def same(shown: str, printed: str) -> bool:
    """Whether two lines are, but for what varies from run to run."""
    shown, printed = (" ".join(line.split()) for line in (shown, printed))
    for pattern, name in VARYING.items():
        shown, printed = re.sub(pattern, name, shown), re.sub(pattern, name, printed)
    if shown.endswith(LEFT_OUT):
        shown = shown.removesuffix(LEFT_OUT).rstrip()
        printed = printed[: len(shown)]
    number = r"([+-]?\d+\.\d+(?:e-\d+)?)"
    ours, theirs = re.split(number, shown), re.split(number, printed)
    return ours[::2] == theirs[::2] and all(
        abs(float(one) - float(other)) <= TOLERANCE
        for one, other in zip(ours[1::2], theirs[1::2], strict=True)
    )


def check(command: Command, printed: str) -> None:
    """Every line that a page shows is printed, in this order; lines between only for a ``…``."""
    lines = [line for line in printed.splitlines() if line.strip()]
    at, may_skip = 0, False
    for shown in filter(str.strip, command.printed):
        if shown == LEFT_OUT:
            may_skip = True
            continue
        while may_skip and at < len(lines) and not same(shown, lines[at]):
            at += 1
        assert at < len(lines), f"{command.text}\n{shown!r} is not in\n{printed}"
        assert same(shown, lines[at]), f"{command.text}\n{shown}\n{lines[at]}\nin\n{printed}"
        at, may_skip = at + 1, False
    assert may_skip or at == len(lines), f"{command.text}\n{lines[at]!r} is not on the page"


class Shell:
    """What a reader of a page has: a folder, and an environment once it is activated."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        keep = ("COLUMNS", "PYTHONPATH", "VIRTUAL_ENV")
        self.environment = {k: v for k, v in os.environ.items() if k not in keep}
        self.environment["PYTHONUNBUFFERED"] = "1"
        self.environment["PIP_COMPILE"] = "0"  # only what is imported, when it is

    def run(self, command: str) -> str:
        """What a command prints; it must succeed."""
        command = command.replace("/path/to/this/repository", str(STARTER))
        word, _, rest = command.partition(" ")
        if word == "cd":
            self.folder /= rest
            return ""
        if word == "source":
            bin_ = self.folder / rest.removesuffix("/activate")
            self.environment["VIRTUAL_ENV"] = str(bin_.parent)
            self.environment["PATH"] = f"{bin_}{os.pathsep}{self.environment['PATH']}"
            return ""
        if command == "kedro metrics ui":
            return self._serve(f"{command} --no-browser --port={free_port()}")
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout

    def write(self, path: Path, text: str, add: bool) -> None:
        path = self.folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((path.read_text() if add else "") + text)

    def _serve(self, command: str) -> str:
        """What a server prints until Ctrl-C."""
        log = self.folder.parent / "server.log"
        command = f"exec {command} 2>/dev/null"
        with Process(["bash", "-c", command], log, self.folder, self.environment) as process:
            process.wait_until(lambda: "Ctrl-C" in process.output, 900)
            process.signal_group(signal.SIGINT)  # as a terminal does
            assert process.wait() == 0
        return process.output


def shell_in(folder: Path, *, uv: bool) -> Shell:
    """A shell, with uv on its path."""
    shell = Shell(folder)
    if uv and not shutil.which("uv", path=shell.environment["PATH"]):
        shell.environment["PATH"] += f"{os.pathsep}{STARTER / '.venv' / 'bin'}"
    return shell


def follow(shell: Shell, page: Path) -> None:
    """Do all that a page says, and compare what is printed with what it shows."""
    for step in steps(page):
        if isinstance(step, Command):
            check(step, shell.run(step.text))
        else:
            shell.write(*step)


def with_tool(tool: str) -> Iterator[Command | tuple[Path, str, bool]]:
    """The steps of the first day with pip or uv; what the other would do is left out."""
    other = {"pip": ("uv ",), "uv": ("pip ", "python3 -m venv")}[tool]
    for step in steps(FIRST_DAY):
        if not (isinstance(step, Command) and step.text.startswith(other)):
            yield step


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_the_first_day_is_as_its_page_says(tool: str, tmp_path: Path) -> None:
    """With pip, up to the first run."""
    shell = shell_in(tmp_path, uv=tool == "uv")
    for step in with_tool(tool):
        if isinstance(step, Command):
            check(step, shell.run(step.text))
            if tool == "pip" and step.text == "kedro run":
                break
        else:
            shell.write(*step)


class ProjectShell(Shell):
    """What one has in a project's folder, in the environment of the tests."""

    def __init__(self, project: Project) -> None:
        super().__init__(project.path)
        self.environment["PYTHONPATH"] = str(project.path / "src")
        self.environment["PATH"] = f"{KEDRO.parent}{os.pathsep}{self.environment['PATH']}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sweeps_are_as_their_page_says(example: Project) -> None:
    """20 trials on four processes, and three with Optuna in one."""
    follow(ProjectShell(example), SWEEPS)

    runs = example.runs()
    parents = {run.info.run_name: run for run in runs if Tag.PARENT_RUN not in run.data.tags}
    assert parents.keys() == {"sweep", "optuna"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    for name, trials in {"sweep": 20, "optuna": 3}.items():
        parent = parents[name]
        children = [r for r in runs if r.data.tags.get(Tag.PARENT_RUN) == parent.info.run_id]
        rates = {run.data.params["training.learning_rate"] for run in children}
        assert (len(children), len(rates)) == (trials, trials)
        assert parent.info.end_time >= max(run.info.end_time for run in children)
        assert points_in(example.store, parent) == {}
        for run in children:
            points = points_in(example.store, run)
            curves = ["my_model_metrics.loss", "training_metrics.accuracy", "training_metrics.loss"]
            for key in curves:
                assert [step for step, _ in points[key]] == list(range(20)), key
            assert [step for step, _ in points["my_model_metrics.accuracy"]] == [19]


@pytest.mark.slow
def test_steps_of_an_orchestrator_are_as_their_page_says(
    bake: Callable[..., Path], store: Path
) -> None:
    project = Project(bake(project_name="My Project", include_example="no"))
    shutil.copy(store, project.store)
    project.add_pipeline("chain")
    shell = ProjectShell(project)
    for step in steps(ORCHESTRATORS):
        if not isinstance(step, Command):
            shell.write(*step)

    project.write("conf/base/parameters.yml", "judge: ok\n")
    shell.run("bash steps.sh")
    shell.run("python steps.py")
    project.write("conf/base/parameters.yml", "judge: error\n")
    shell.run("! bash steps.sh")

    *well, failed = project.runs()
    assert [run.info.run_name for run in well] == ["nightly", "nightly in Python"]
    assert {run.info.status for run in well} == {"FINISHED"}
    for run in well:
        assert points_in(project.store, run) == {
            "chain_metrics.score": [(0, 0.5)],
            "chain_metrics.loss": [(0, 0.3), (1, 0.2)],
            "verdict_metrics.score": [(0, 0.5)],
            "verdict_metrics.losses": [(0, 2.0)],
        }
    assert (failed.info.status, failed.data.tags[Tag.ERROR]) == ("FAILED", "ValueError: no verdict")


def test_what_is_for_orchestrators_can_be_parsed() -> None:
    blocks = FENCE.findall(ORCHESTRATORS.read_text(encoding="utf-8"))
    assert {kind for kind, _ in blocks} == {"bash", "console", "python", "yaml"}
    for kind, block in blocks:
        if kind == "python":
            ast.parse(block)
        elif kind == "yaml":
            assert yaml.safe_load(block)
        elif kind == "bash":
            subprocess.run(["bash", "-n", "-c", block], check=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_project_is_adopted_as_its_page_says(tmp_path: Path) -> None:
    follow(shell_in(tmp_path, uv=True), STARTER / "docs" / "adopt.md")


def add(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


@pytest.fixture
def rockets(tmp_path: Path) -> Shell:
    """A shell in a project of many parts, with an environment of its own."""
    path = copy_of(STARTER / "tests" / "projects" / "rockets", tmp_path)
    add(path / ".gitignore", ".venv/\n")
    shell = shell_in(path, uv=True)
    shell.run("uv venv --quiet")
    shell.run("source .venv/bin/activate")
    return shell


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kedro_mlflow_is_left_as_the_page_says(rockets: Shell) -> None:
    kind = "kedro_mlflow.io.metrics.MlflowMetricsHistoryDataset"
    entry = f"\ncurves:\n  type: {kind}  # both curves\n"
    add(rockets.folder / "conf/base/catalog.yml", entry)
    commit(rockets.folder)

    follow(rockets, STARTER / "docs" / "from-kedro-mlflow.md")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kedro_viz_is_left_as_the_page_says(rockets: Shell) -> None:
    file = "data/09_tracking/metrics.json"
    entry = f"\nmetrics:\n  type: tracking.MetricsDataset\n  filepath: {file}\n"
    add(rockets.folder / "conf/base/catalog.yml", entry)
    for version, r2 in (("2023-11-13T13.35.21.123Z", 0.8), ("2024-01-02T03.04.05.006Z", 0.91)):
        add(rockets.folder / file / version / "metrics.json", f'{{"r2": {r2}}}')
    commit(rockets.folder)

    follow(rockets, STARTER / "docs" / "from-kedro-viz.md")


@pytest.fixture
def follower(tmp_path: Path) -> Shell:
    """A shell in a project of the version before, changed; beside it the starter with tags."""
    starter = starter_before(tmp_path)
    run_command("git", "tag", "v0.1.0", cwd=starter)
    lab = new_of(starter, tmp_path)
    for name in run_command("git", "ls-files", "-z", cwd=starter).stdout.split("\0")[:-1]:
        (starter / name).unlink()
    names = run_command("git", "ls-files", "-coz", "--exclude-standard", cwd=STARTER).stdout
    for name in names.split("\0")[:-1]:
        if (STARTER / name).is_file():
            (starter / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(STARTER / name, starter / name)
    commit(starter)
    run_command("git", "tag", "v0.2.0", cwd=starter)

    for file, old, new in OWNERS_CHANGES:
        text = (lab / file).read_text()
        assert old in text
        (lab / file).write_text(text.replace(old, new, 1))
    commit(lab)
    shell = ProjectShell(Project(lab))
    shell.environment["PATH"] += f"{os.pathsep}{STARTER / '.venv' / 'bin'}"
    for who in ("AUTHOR", "COMMITTER"):
        shell.environment |= {f"GIT_{who}_NAME": "me", f"GIT_{who}_EMAIL": "me@example.org"}
    return shell


OWNERS_CHANGES = [
    (
        "README.md",
        "numbers, a catalog entry names it",
        "numbers. Ask Ada. A catalog entry names it",
    ),
    ("src/lab/tracking/dataset.py", '    """Metrics in', '    """Ada\'s. Metrics in'),
    ("conf/base/catalog.yml", "threshold: 0.9", "threshold: 0.1"),
]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("road", ["update", "cruft"])
def test_a_project_follows_the_starter_as_the_page_says(road: str, follower: Shell) -> None:
    ours, cruft = (STARTER / "docs/update.md").read_text().split("## The whole template")
    page = follower.folder.parent / "page.md"
    page.write_text(ours if road == "update" else cruft)
    page.write_text(page.read_text().replace("/path/to/the/starter", "../starter"))

    follow(follower, page)

    dataset = (follower.folder / "src/lab/tracking/dataset.py").read_text()
    assert dataset.replace("Ada's. ", "") == (PACKAGE / "tracking/dataset.py").read_text()
    assert "Ask Ada." in (follower.folder / "README.md").read_text()
    assert (follower.folder / "templates").is_dir() == (road == "cruft")
    assert "threshold: 0.1" in (follower.folder / "conf/base/catalog.yml").read_text()
    follower.run("kedro run --params=training.epochs=2")
    follower.run("kedro metrics check")
