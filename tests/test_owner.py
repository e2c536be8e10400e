"""The owner of a generated project adds to it, deletes from it, and has it checked."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers import KEDRO, PACKAGE, STARTER, TEMPLATE, HttpProcess, Project, free_port
from test_generation import contents
from test_pages import Shell, check, steps

tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

PYTHON = sys.executable
NAMES = ["churn", "A1", "_private", "a_pipeline_with_a_name_of_more_than_fifty_characters_in_all"]


# Pipelines by command


@pytest.mark.slow
def test_a_pipeline_by_command_runs_and_is_deleted_whole(bake: Callable[..., Path]) -> None:
    project = Project(bake(include_example="no"))
    before = contents(project.path)

    project.kedro("pipeline", "create", "churn")
    assert contents(project.path).keys() - before.keys() == {
        "conf/base/catalog_churn.yml",
        "conf/base/parameters_churn.yml",
        "src/lab/pipelines/churn/__init__.py",
        "src/lab/pipelines/churn/nodes.py",
        "src/lab/pipelines/churn/pipeline.py",
        "tests/pipelines/churn/test_churn.py",
    }
    project.kedro("run", "--pipelines=churn")
    (run,) = project.runs()
    assert run.data.metrics["churn_metrics.accuracy"] == 0.8

    project.kedro("pipeline", "delete", "churn", "--yes")
    of_runs = re.compile(r"\.?mlflow\.db|mlruns|.*\.pyc$")
    after = {name: text for name, text in contents(project.path).items() if not of_runs.match(name)}
    assert after == before


@pytest.mark.slow
def test_without_an_entry_its_metrics_are_written_too(bake: Callable[..., Path]) -> None:
    project = Project(bake(include_example="no"))
    project.kedro("pipeline", "create", "churn")
    (project.path / "conf/base/catalog_churn.yml").unlink()

    project.kedro("run", "--pipelines=churn")

    (run,) = project.runs()
    assert run.data.metrics == {"churn_metrics.accuracy": 0.8}


@pytest.mark.slow
def test_pipelines_of_any_name_pass_the_projects_checks(bake: Callable[..., Path]) -> None:
    """Beside each other, and beside the example."""
    project = Project(bake(project_name="Checked"))
    for name in NAMES:
        project.kedro("pipeline", "create", name)

    project.command(PYTHON, "-m", "ruff", "check")
    project.command(PYTHON, "-m", "ruff", "format", "--check")
    project.command(PYTHON, "-m", "mypy", "src", PYTHONPATH="")
    done = project.command(PYTHON, "-m", "pytest", "-q", PYTHONPATH="")
    assert "skipped" not in done.stdout
    project.kedro("run")
    (run,) = project.runs()
    assert run.data.metrics.keys() >= {f"{name}_metrics.accuracy" for name in NAMES}
    assert "All limits met" in project.kedro("metrics", "check").stdout


@pytest.mark.slow
def test_its_own_test_fails_when_the_pipeline_is_wrong(bake: Callable[..., Path]) -> None:
    project = Project(bake(include_example="no"))
    project.kedro("pipeline", "create", "churn")
    nodes = project.path / "src/lab/pipelines/churn/nodes.py"
    nodes.write_text(nodes.read_text().replace("return {", "return {'other': 1.0, "))

    done = project.attempt(PYTHON, "-m", "pytest", "-q", "tests/pipelines/churn", PYTHONPATH="")

    assert "1 failed" in done.stdout


# The project's own tests and checks


OWNERS = """

def more(digits):
    return {"share": 42 / 1797 if len(digits) > 42 else 0}
"""
MODULE = "def untyped(a, b, c, d, e, f):\n    return a if b == 42 else c\n"


@pytest.mark.slow
def test_its_tests_bear_an_owner_who_adds_and_deletes(bake: Callable[..., Path]) -> None:
    """A second metrics dataset in the example, own entries, and none of those that were there."""
    project = Project(bake())
    training = project.path / "src/lab/pipelines/training"
    (training / "nodes.py").write_text((training / "nodes.py").read_text() + OWNERS)
    pipeline = (training / "pipeline.py").read_text()
    pipeline = pipeline.replace("import keep_model", "import more, keep_model")
    pipeline = pipeline.replace(
        "        [\n", '        [\n Node(more, "test_digits", "more_metrics"),\n', 1
    )
    (training / "pipeline.py").write_text(pipeline)
    (project.path / "conf/base/catalog.yml").write_text(
        '"{name}_metrics": {type: lab.tracking.MlflowMetricsDataset}\n'
        "my_baseline_metrics: {type: lab.tracking.MlflowMetricsDataset, prefix: baseline}\n"
        "mine: {type: lab.tracking.MlflowMetricsDataset, prefix: other}\n"
    )
    project.kedro("pipeline", "create", "churn")

    done = project.command(PYTHON, "-m", "pytest", "-q", PYTHONPATH="")
    assert "skipped" not in done.stdout

    project.kedro("pipeline", "delete", "training", "--yes")
    project.command(PYTHON, "-m", "pytest", "-q", PYTHONPATH="")


@pytest.mark.bundled
@pytest.mark.parametrize("tool", ["ruff", "mypy"])
def test_the_bundled_part_alone_is_checked_strictly(bake: Callable[..., Path], tool: str) -> None:
    command = {"ruff": ("ruff", "check"), "mypy": ("mypy", "--follow-imports=skip")}[tool]
    project = Project(bake(include_example="no"))
    for place in ("mine.py", "tracking/mine.py", "tracking/reports/mine.py"):
        module = project.path / "src/lab" / place
        module.write_text(MODULE)
        done = project.attempt(PYTHON, "-m", *command, module, PYTHONPATH="")
        assert (done.returncode == 0) == (place == "mine.py"), done.stdout
        module.unlink()


@pytest.mark.bundled
def test_the_flags_of_mypy_are_those_of_strict(bake: Callable[..., Path]) -> None:
    text = subprocess.run(
        [PYTHON, "-m", "mypy", "--help"], capture_output=True, text=True, check=True
    ).stdout
    (strict,) = re.findall(r"--strict  .*?flags:(.*?)\n  --disable", text, re.DOTALL)
    words = re.sub(r"-\s*\n\s*", "-", strict).replace("\n", " ")
    flags = {flag.replace("-", "_") for flag in re.findall(r"--([a-z-]+)", words)}
    mypy = tomllib.loads((bake() / "pyproject.toml").read_text())["tool"]["mypy"]

    (bundled,) = (part for part in mypy["overrides"] if part["module"] == ["lab.tracking.*"])
    everywhere = {key for key, value in mypy.items() if value is True}
    here = {key if value else f"no_{key}" for key, value in bundled.items() if key != "module"}
    assert flags <= here | everywhere


@pytest.mark.slow
def test_coverage_is_of_the_owners_code(bake: Callable[..., Path]) -> None:
    project = Project(bake())

    command = ("-m", "pytest", "-q", "--cov", "--cov-report=term")
    printed = project.command(PYTHON, *command, PYTHONPATH="").stdout

    assert "pipelines/training/nodes.py" in printed
    assert "tracking" not in printed.partition("Name ")[2]
    (total,) = re.findall(r"^TOTAL .* (\d+)%$", printed, re.MULTILINE)
    assert int(total) > 50


# What a project says of itself


def test_it_says_which_version_of_the_starter_made_it(bake: Callable[..., Path]) -> None:
    text = (PACKAGE / "tracking/__init__.py").read_text()
    (version,) = re.findall(r'^__version__ = "(.*)"$', text, re.MULTILINE)

    project = tomllib.loads((bake() / "pyproject.toml").read_text())

    assert project["tool"]["kedro_mlflow_metrics"] == {"starter_version": version}


@pytest.mark.parametrize(
    ("uri", "said", "unsaid"),
    [
        ("", ["`mlflow.db` in this folder", "metrics upgrade"], ["tracking server of"]),
        (
            "https://example.org/mlflow",
            ["tracking server of"],
            ["mlflow ui", "mlflow.db", "metrics upgrade", "example.org"],
        ),
        ("databricks", ["tracking server of"], ["mlflow ui", "mlflow.db"]),
        ("postgresql://me:secret@db/runs", ["store is the one of"], ["mlflow.db", "secret"]),
    ],
)
def test_the_readme_follows_the_answers(
    bake: Callable[..., Path], uri: str, said: list[str], unsaid: list[str]
) -> None:
    readme = (bake(tracking_uri=uri) / "README.md").read_text()

    assert readme.startswith("# Lab\n")
    assert "\n\n\n" not in readme
    assert [text for text in said if text not in readme] == []
    assert [text for text in unsaid if text in readme] == []


@pytest.mark.parametrize("tracking", ["bundled", "package"])
def test_it_says_where_the_package_comes_from(bake: Callable[..., Path], tracking: str) -> None:
    """Before the commands that install it, which is published nowhere."""
    project = bake(tracking=tracking, ci="github")
    readme = (project / "README.md").read_text()
    workflow = (project / ".github/workflows/checks.yml").read_text()

    for text in (readme.partition("$ pip")[0], workflow.partition("- run: pip")[0]):
        assert ("PIP_FIND_LINKS" in text) == (tracking == "package")
    assert "\n\n\n" not in readme
    assert yaml.safe_load(workflow)["jobs"]["checks"]["steps"][2]["run"].startswith("pip install")


@pytest.mark.parametrize("example", ["yes", "no"])
def test_the_readme_makes_a_pipeline_before_it_runs_one(
    bake: Callable[..., Path], example: str
) -> None:
    """Kedro runs no project without nodes, and makes no pipeline twice."""
    readme = (bake(include_example=example) / "README.md").read_text()
    create = "kedro pipeline create churn"

    blocks = re.findall(r"^```console\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    with_pip, with_uv, own = blocks[:3]

    for block in (with_pip, with_uv):
        before, found, _ = block.partition("kedro run\n")
        assert found
        assert (create in before) == (example == "no")
    assert (create in own) == (example == "yes")
    assert f"`{create}` makes a pipeline" in readme or example == "yes"


def test_the_readme_names_what_the_catalog_has_of_the_example(bake: Callable[..., Path]) -> None:
    """The owner's own entries may stand among them."""
    project = bake()
    entries = yaml.safe_load((project / "conf/base/catalog.yml").read_text())

    (step,) = re.findall(
        r"^2\. .*\n(?:   .*\n)*", (project / "README.md").read_text(), re.MULTILINE
    )

    deleted, _, kept = step.partition(";")
    assert re.findall(r"`([^`]+_metrics)`", kept) == ["{name}_metrics"]
    assert {*re.findall(r"`([^`]+_metrics)`", deleted), "{name}_metrics"} == entries.keys()


@pytest.mark.slow
@pytest.mark.parametrize("uri", ["", "http://127.0.0.1:1"], ids=["file", "server"])
def test_the_workflow_can_be_run(bake: Callable[..., Path], tmp_path: Path, uri: str) -> None:
    """Each of its commands but the first, which installs the project."""
    project = Project(bake(ci="github", tracking_uri=uri))
    workflow = yaml.safe_load((project.path / ".github/workflows/checks.yml").read_text())
    commands = [step["run"] for step in workflow["jobs"]["checks"]["steps"] if "run" in step]
    assert commands[0] == 'pip install -e ".[dev]"'
    summary = tmp_path / "summary.md"

    for command in commands[1:]:
        project.command(
            *("bash", "-e", "-c", command),
            PATH=f"{KEDRO.parent}:/usr/bin:/bin",
            PYTHONPATH="",
            GITHUB_STEP_SUMMARY=str(summary),
        )

    assert len(project.runs()) == 1
    shown = summary.read_text().replace("\\", "")
    assert shown.startswith("MLflow run ")
    assert "| my_model_metrics.accuracy |" in shown


# The page


class ShellWithServer(Shell):
    """A shell whose `mlflow server` runs until the end, on a port of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = str(free_port())
        self.server: HttpProcess | None = None

    def run(self, command: str) -> str:
        if not command.startswith("mlflow server"):
            return super().run(command)
        command = f"exec {command.replace('5000', self.port)}"
        url, log = f"http://127.0.0.1:{self.port}", self.folder.parent / "server.log"
        # The jobs of MLflow's own are a dozen processes, which all import MLflow just then.
        environment = {**self.environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.server = HttpProcess(["bash", "-c", command], url, log, self.folder, environment)
        self.server.start()
        for _ in range(4 * 4):  # each of its four workers opens the store at its first request
            urllib.request.urlopen(f"{url}/api/2.0/mlflow/experiments/search?max_results=1").close()
        return ""

    def write(self, path: Path, text: str, add: bool) -> None:
        super().write(path, text.replace("5000", self.port), add)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_project_of_ones_own_is_as_its_page_says(tmp_path: Path) -> None:
    shell = ShellWithServer(tmp_path)
    shell.environment["PATH"] += f":{STARTER / '.venv/bin'}"  # uv, where there is no other
    try:
        for step in steps(STARTER / "docs" / "own-project.md"):
            if isinstance(step, tuple):
                shell.write(*step)
            else:
                check(step, shell.run(step.text))
    finally:
        if shell.server:
            shell.server.stop()
    left = " ".join(contents_of_own(shell.folder))
    assert not re.search(r"training|digits|scikit|sklearn", left)


def contents_of_own(project: Path) -> list[str]:
    """What the owner's files say, but for the README and what is bundled."""
    paths = [
        *project.glob("src/*/*.py"),
        *project.glob("src/*/pipelines/**/*.py"),
        *project.glob("tests/**/*.py"),
        *project.glob("conf/**/*.yml"),
        project / "requirements.txt",
    ]
    texts = [re.sub(r"#.*", "", path.read_text()) for path in paths]
    pyproject = tomllib.loads((project / "pyproject.toml").read_text())
    return [*texts, str(pyproject["project"])]


def test_the_template_of_pipelines_is_kedros_in_shape() -> None:
    """Both folders have to be there: Kedro moves them, and fails without."""
    (template,) = TEMPLATE.glob("templates/pipeline/{{*")
    assert (template / "config").is_dir()
    assert (template / "tests").is_dir()
