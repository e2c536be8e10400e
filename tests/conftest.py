"""Fixtures: projects made of the template, and MLflow stores of a test's own."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from faults import Server
from helpers import EXPLORING, FLOW_YIELDS, STARTER, Lab, Project
from helpers import bake as bake_in
from hypothesis import settings
from kedro.framework.startup import bootstrap_project
from mlflow import MlflowClient

settings.register_profile("repeat", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile("explore" if EXPLORING else "repeat")

collect_ignore = ["projects"]  # they have tests of their own

LAB = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the lab project, so that test modules can import ``lab.tracking`` at their top."""
    os.environ["DO_NOT_TRACK"] = "true"  # to Kedro and MLflow; "1" is not enough for the latter
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each process would compile MLflow anew
    os.environ.pop("PYTEST_ADDOPTS", None)  # they are for this pytest, not for a project's own
    # What nohup, or a shell without job control in its background, starts is deaf to these, and so
    # is all that it starts in turn; but a handler, whatever it does, is not handed on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (getattr(signal, name, None) for name in ("SIGQUIT", "SIGHUP")):
        if number and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    _remove_variables()
    sys.path.insert(0, str(STARTER / "hooks"))
    if config.getoption("tx", None) and not hasattr(config, "workerinput"):
        return  # xdist's workers import the tests, each with a lab of its own
    project = Project(bake_in(Path(tempfile.mkdtemp(prefix="lab-")), include_example="no"))
    for pipeline in (STARTER / "tests" / "lab").glob("*.py"):
        project.add_pipeline(pipeline.stem)
    bootstrap_project(project.path)
    config.stash[LAB] = project.path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests the time that they take on a machine that is busy with others.

    The longest come first: none of them is left to run alone in the end.
    """
    items.sort(key=_timeout, reverse=True)
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that leaves a store, say, to those after it; of whose order nothing is known."""
    result = yield
    left = _remove_variables()
    assert not left, f"{item.nodeid} has left variables in the environment: {left}"
    return result


def _remove_variables() -> dict[str, str]:
    """Remove what means something to MLflow or Kedro from the environment; returns what it was."""
    names = [name for name in os.environ if name.startswith(("MLFLOW_", "KEDRO_"))]
    return {name: os.environ.pop(name) for name in names}


def _timeout(item: pytest.Item) -> float:
    """The seconds that a test has by its own marker, if it has one."""
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker else 0.0


def pytest_unconfigure(config: pytest.Config) -> None:
    if path := config.stash.get(LAB, None):
        shutil.rmtree(path.parent)


@pytest.fixture(scope="session")
def bake(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a project of the template, with these answers."""
    return lambda **answers: bake_in(tmp_path_factory.mktemp("baked"), **answers)


@pytest.fixture(scope="session")
def copy_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Copies an SQLite store with all of MLflow's tables, which take seconds, and no run."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return lambda target: Path(shutil.copy(path, target))


@pytest.fixture
def make_store(copy_store: Callable[[Path], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Makes empty SQLite stores of the test's own."""
    return lambda name: copy_store(tmp_path / name)


@pytest.fixture
def store(make_store: Callable[[str], Path]) -> Path:
    """An empty SQLite store of the test's own."""
    return make_store("mlflow.db")


@pytest.fixture
def example(bake: Callable[..., Path], store: Path) -> Project:
    """A new project with the example, and an empty store."""
    project = Project(bake())
    shutil.copy(store, project.store)
    return project


@pytest.fixture
def make_project(bake: Callable[..., Path], store: Path) -> Callable[..., Project]:
    """Makes projects with these pipelines of ``lab/``, and an empty store."""

    def make(*pipelines: str) -> Project:
        project = Project(bake(include_example="no"))
        shutil.copy(store, project.store)
        for pipeline in pipelines:
            project.add_pipeline(pipeline)
        return project

    return make


@pytest.fixture
def project(bake: Callable[..., Path]) -> Project:
    """A project without a store, with a pipeline that saves 1,000 points."""
    project = Project(bake(include_example="no"))
    project.add_pipeline("flow")
    project.write("conf/base/parameters.yml", f"yields: {FLOW_YIELDS}\npause: 0\n")
    return project


@pytest.fixture(scope="session")
def lab_path(pytestconfig: pytest.Config) -> Path:
    """One project for all tests that run Kedro in this process, with the pipelines of ``lab/``."""
    return pytestconfig.stash[LAB]


@pytest.fixture
def lab(lab_path: Path, tmp_path: Path, store: Path) -> Iterator[Lab]:
    """Runs of the lab project; MLflow is left as it is in a new process."""
    lab = Lab(lab_path, tmp_path, store)
    yield lab
    lab.close()


@pytest.fixture
def server(lab: Lab, tmp_path: Path) -> Iterator[Server]:
    """A `mlflow server` on loopback, on the lab's store; it ends with the test."""
    with Server(lab.store, tmp_path) as server:
        yield server
