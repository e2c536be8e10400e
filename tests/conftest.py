"""What the tests share: projects made of the template, and MLflow stores of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from cookiecutter.main import cookiecutter
from faults import Server
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from mlflow import MlflowClient
from mlflow.entities import Run

STARTER = Path(__file__).parents[1]
TEMPLATE = STARTER / "{{ cookiecutter.repo_name }}"
PACKAGE = TEMPLATE / "src" / "{{ cookiecutter.python_package }}"
KEDRO = Path(sys.executable).parent / "kedro"

sys.path.insert(0, str(STARTER / "hooks"))
sys.path.insert(0, str(PACKAGE))  # the bundled part, where it lies: `import tracking`
os.environ["DO_NOT_TRACK"] = "1"  # no usage statistics of Kedro's
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each process would compile MLflow anew
for name in [name for name in os.environ if name.startswith(("MLFLOW_", "KEDRO_"))]:
    del os.environ[name]


@pytest.fixture(scope="session")
def bake(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a project of the template, with these answers."""

    def make(**answers: Any) -> Path:
        folder = tmp_path_factory.mktemp("baked")
        answers = {"project_name": "Lab", **answers}
        return Path(
            cookiecutter(str(STARTER), no_input=True, extra_context=answers, output_dir=str(folder))
        )

    return make


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite store with all of MLflow's tables and nothing in them; they take seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def make_store(empty_store: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes empty SQLite stores of the test's own."""
    return lambda name: Path(shutil.copy(empty_store, tmp_path / name))


@pytest.fixture
def store(make_store: Callable[[str], Path]) -> Path:
    """An empty SQLite store of the test's own."""
    return make_store("mlflow.db")


class Project:
    """A project on disk, with a store, run as its users do: by the command line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.package = next((path / "src").iterdir()).name
        self.store = path / "mlflow.db"

    def write(self, file: str, text: str) -> None:
        """Write a file of the project; PACKAGE in the text is its package's name."""
        path = self.path / file.replace("PACKAGE", self.package)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("PACKAGE", self.package))

    def command(self, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's folder and wait for it; it must succeed."""
        done = self.attempt(*arguments, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def attempt(
        self, *arguments: str | Path, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's folder and wait for it."""
        return subprocess.run(
            [str(argument) for argument in arguments],
            cwd=cwd or self.path,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            check=False,
        )

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.path / "src"), "COLUMNS": "200", **more}

    def kedro(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.command(KEDRO, *arguments, **options)

    def runs(self) -> list[Run]:
        return runs_in(self.store)


def runs_in(store: Path) -> list[Run]:
    """All MLflow runs of a store, the oldest first."""
    client = MlflowClient(f"sqlite:///{store}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, order_by=["attributes.start_time"]))


def points_in(store: Path, run: Run) -> dict[str, list[tuple[int, float]]]:
    """All points of a run, (step, value), by key."""
    client = MlflowClient(f"sqlite:///{store}")
    return {
        key: sorted((p.step, p.value) for p in client.get_metric_history(run.info.run_id, key))
        for key in run.data.metrics
    }


@pytest.fixture
def example(bake: Callable[..., Path], store: Path) -> Project:
    """A new project with the example, and an empty store."""
    project = Project(bake())
    shutil.copy(store, project.store)
    return project


@pytest.fixture(scope="session")
def lab_path(bake: Callable[..., Path]) -> Path:
    """One project for all tests that run Kedro in this process, with the pipelines of ``lab/``."""
    project = Project(bake(include_example="no"))
    for pipeline in sorted((STARTER / "tests" / "lab").glob("*.py")):
        project.write(f"src/PACKAGE/pipelines/{pipeline.stem}/__init__.py", pipeline.read_text())
    bootstrap_project(project.path)
    return project.path


class Lab:
    """Runs of the lab project in this process, with configuration and store of a test's own."""

    def __init__(self, path: Path, folder: Path, store: Path) -> None:
        self.path = path
        self.store = store
        self.conf = shutil.copytree(path / "conf", folder / "conf")
        self.configure(tracking_uri=f"sqlite:///{store}")

    def configure(self, **keys: Any) -> None:
        """Set keys of mlflow.yml."""
        path = self.conf / "local" / "mlflow.yml"
        before = yaml.safe_load(path.read_text()) if path.exists() else {}
        path.write_text(yaml.safe_dump({**before, **keys}))

    def add(self, file: str, text: str) -> None:
        """Add to a file of the configuration."""
        with (self.conf / file).open("a") as target:
            target.write(text)

    def session(self, **runtime_params: Any) -> KedroSession:
        return KedroSession.create(
            project_path=self.path, conf_source=str(self.conf), runtime_params=runtime_params
        )

    def run(self, pipeline: str, *, params: Any = None, **options: Any) -> dict[str, Any]:
        with self.session(**(params or {})) as session:
            assert isinstance(session, KedroSession)
            return session.run(pipeline_names=[pipeline], **options)

    @property
    def spool(self) -> Path:
        """Where points wait whose store is away."""
        return self.path / "mlflow-spool.db"

    def sync(self, **options: bool) -> tuple[bool, list[str]]:
        """What `kedro metrics sync` does, and what it tells."""
        from lab.tracking.config import current_config
        from lab.tracking.run import borrowed
        from lab.tracking.sync import sync

        with self.session() as session:
            assert isinstance(session, KedroSession)
            session.load_context()
        config = current_config()
        lines: list[str] = []
        with borrowed(config):
            return sync(config, self.path, lines.append, **options), lines

    def runs(self) -> list[Run]:
        return runs_in(self.store)

    def points(self) -> dict[str, list[tuple[int, float]]]:
        """The points of the only run."""
        (run,) = self.runs()
        return points_in(self.store, run)


@pytest.fixture
def lab(lab_path: Path, tmp_path: Path, store: Path) -> Iterator[Lab]:
    """Runs of the lab project; MLflow is left as it is in a new process."""
    lab = Lab(lab_path, tmp_path, store)
    yield lab
    if lab.spool.exists():  # all tests share the project's folder
        MlflowClient(f"sqlite:///{lab.spool}")._tracking_client.store.engine.dispose()
        lab.spool.unlink()
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


@pytest.fixture
def server(lab: Lab, tmp_path: Path) -> Iterator[Server]:
    """A `mlflow server` on loopback, on the lab's store; it ends with the test."""
    server = Server(lab.store, tmp_path)
    server.start()
    try:
        yield server
    finally:
        server.stop()
