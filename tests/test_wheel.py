"""The wheel has the template, ``tracking/`` as a package, the starter's alias and the command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path

import pytest
import tomlkit
from adopting import adopt, copy_of, snapshot
from helpers import PACKAGE, STARTER, TEMPLATE, run_command

UV = Path(sys.executable).parent / "uv"
ROCKETS = STARTER / "tests" / "projects" / "rockets"
IN_WHEEL = "kedro_mlflow_metrics_starter/template"


def test_the_wheel_requires_what_the_template_does() -> None:
    project = tomlkit.parse((STARTER / "pyproject.toml").read_text()).unwrap()["project"]
    lines = (TEMPLATE / "requirements.txt").read_text().splitlines()
    wanted = {line.partition(" ")[0] for line in lines if line[0] != "#"}

    assert wanted - {"scikit-learn>=1.5"} <= set(project["dependencies"])
    assert "kedro.hooks" not in project["entry-points"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, by way of the archive of sources, of a clone that has been used."""
    folder = tmp_path_factory.mktemp("wheel")
    clone = folder / "clone"
    files = run_command("git", "ls-files", "-co", "--exclude-standard", cwd=STARTER).stdout
    for name in files.splitlines():
        if (STARTER / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(STARTER / name, clone / name)
    for place in (*clone.rglob("tracking"), clone / "hooks", clone / TEMPLATE.name):
        (place / "__pycache__").mkdir()
        (place / "__pycache__" / "cli.cpython-311.pyc").write_bytes(b"stale")
    run_command(UV, "build", "--quiet", "--out-dir", folder / "dist", clone, cwd=folder)
    (found,) = (folder / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean environment with the wheel; the folder of its commands."""
    environment = tmp_path_factory.mktemp("clean") / "environment"
    run_command(UV, "venv", "--quiet", "--python", sys.executable, environment, cwd=STARTER)
    python = environment / "bin" / "python"
    install = (UV, "pip", "install", "--quiet", "--compile-bytecode", "--python", python)
    run_command(*install, wheel, "scikit-learn", "setuptools", cwd=STARTER)
    return environment / "bin"


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs a command of that environment, where there is no git, and nothing in HOME."""
    home = tmp_path / "home"
    home.mkdir()

    def command(name: str, *arguments: str | Path, cwd: Path = tmp_path) -> str:
        done = subprocess.run(
            [installed / name, *arguments],
            cwd=cwd,
            env={
                "PATH": str(installed),
                "HOME": str(home),
                "DO_NOT_TRACK": "true",
                "COLUMNS": "200",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return command


@pytest.mark.slow
def test_the_wheel_has_the_template_byte_for_byte(wheel: Path) -> None:
    files = run_command("git", "ls-files", "-co", "--exclude-standard", cwd=STARTER).stdout
    parts = (TEMPLATE.name, "hooks", "cookiecutter.json", "prompts.yml", "CHANGELOG.md", "versions")
    expected = {
        f"{IN_WHEEL}/{name}": (STARTER / name).read_bytes()
        for name in files.splitlines()
        if name.partition("/")[0] in parts and (STARTER / name).is_file()
    }
    tracking = snapshot(PACKAGE / "tracking")
    expected |= {f"kedro_mlflow_metrics/{name}": text for name, text in tracking.items()}
    tool = snapshot(STARTER / "src")
    expected |= {name: text for name, text in tool.items() if name != "py.typed"}
    expected["kedro_mlflow_metrics/py.typed"] = b""

    with zipfile.ZipFile(wheel) as archive:
        found = {
            name: archive.read(name) for name in archive.namelist() if ".dist-info" not in name
        }
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
    assert found.keys() == expected.keys()
    assert found == expected
    version = metadata["Version"]
    assert f'__version__ = "{version}"' in (PACKAGE / "tracking/__init__.py").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_its_alias_makes_a_project_without_git_and_network(
    run: Callable[..., str], tmp_path: Path, bake: Callable[..., Path]
) -> None:
    assert "mlflow-metrics" in run("kedro", "starter", "list")

    run("kedro", "new", "--starter=mlflow-metrics", "--name=Lab")

    made = tmp_path / "lab"
    assert snapshot(made) == snapshot(bake())
    assert not [*made.rglob("__pycache__")]
    assert "my_model_metrics.accuracy" in run("kedro", "run", cwd=made)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_project_that_bundles_nothing_runs_and_passes_its_checks(
    run: Callable[..., str], installed: Path, wheel: Path, bake: Callable[..., Path]
) -> None:
    """With all that its requirements.txt names, the wheel from a folder."""
    made = bake(tracking="package")
    install = (UV, "pip", "install", "--quiet", "--python", installed / "python")
    run_command(*install, f"--find-links={wheel.parent}", "-r", "requirements.txt", cwd=made)
    run_command(*install, "mypy", "pytest", cwd=made)

    assert "my_model_metrics.accuracy" in run("kedro", "run", cwd=made)
    assert "my_model_metrics.accuracy" in run("kedro", "metrics", "check", cwd=made)
    assert "0.2." in run("kedro", "metrics", "version", cwd=made)
    assert " passed" in run("pytest", "-q", cwd=made)
    run("mypy", "src", cwd=made)
    run("kedro", "pipeline", "create", "churn", cwd=made)
    assert "churn_metrics.accuracy" in run("kedro", "run", "--pipelines=churn", cwd=made)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("module", ["test_entries", "test_runs"])
def test_the_package_passes_the_tests_of_what_is_bundled(module: str) -> None:
    """`make test-package` runs the others, too."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not slow", f"tests/{module}.py"],
        cwd=STARTER,
        env={**os.environ, "TRACKING": "package", "PYTHONPATH": str(STARTER / "tests/package")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_its_command_adopts_as_that_of_a_clone_does(
    run: Callable[..., str], tmp_path: Path
) -> None:
    theirs, ours = copy_of(ROCKETS, tmp_path / "a"), copy_of(ROCKETS, tmp_path / "b")

    run("kedro-mlflow-metrics", "adopt", theirs)
    adopt(ours)

    assert snapshot(theirs) == snapshot(ours)
    run("kedro", "run", cwd=theirs)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_can_be_used_without_being_installed(wheel: Path, tmp_path: Path) -> None:
    uvx = (UV, "tool", "run", "--quiet", "--python", sys.executable)
    new = ("kedro", "new", "--starter=mlflow-metrics", "--name=Lab", "--telemetry=no")
    run_command(*uvx, "--with", wheel, *new, cwd=tmp_path)
    assert (tmp_path / "lab/src/lab/tracking/dataset.py").is_file()

    project = copy_of(ROCKETS, tmp_path)
    command = ("kedro-mlflow-metrics", "adopt", project, "--dry-run")
    printed = run_command(*uvx, "--from", STARTER, *command, cwd=tmp_path).stdout
    assert "+HOOKS = (*HOOKS, MlflowPipelineHook())" in printed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_make_adopts_a_project_from_a_clone(tmp_path: Path) -> None:
    project = copy_of(ROCKETS, tmp_path)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}

    done = subprocess.run(
        ["make", "--silent", "adopt", f"PROJECT={project}", "ARGS=--example"],
        cwd=STARTER,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Wrote src/rockets/tracking/" in done.stdout
    assert (project / "src/rockets/pipelines/training/nodes.py").is_file()
