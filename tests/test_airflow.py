"""The DAG that `kedro airflow create` makes with the project's template, run by Airflow."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import TEMPLATE, Project, bake
from lab.tracking.names import Tag
from mlflow.entities import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

AIRFLOW = """
default: {retries: 1, retry_delay: 0}
curves:
  mapped:
    curves_train: [{values: [0.5, 0.25]}, {values: [0.5, 0.125]}]
"""


@pytest.fixture(scope="module")
def bin_(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment of its own, for Airflow needs a lot."""
    folder = tmp_path_factory.mktemp("airflow") / "env"
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", f"--python={sys.executable}", folder], check=True)
    install = [uv, "pip", "install", "--quiet", f"--python={folder}", "-r"]
    packages = [str(TEMPLATE / "requirements.txt"), "apache-airflow>=3,<4", "kedro-airflow>=0.11"]
    subprocess.run([*install, *packages], check=True)
    return folder / "bin"


class Dags:
    """A project and an Airflow for its DAGs."""

    def __init__(self, project: Project, bin_: Path) -> None:
        self.project = project
        self._bin = bin_
        self._environment = {
            "AIRFLOW_HOME": str(project.path.parent / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(project.path / "airflow_dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
        }
        self._command("airflow", "db", "migrate")

    def create(self, *options: str) -> None:
        """`kedro airflow create`."""
        self._command(
            "kedro", "airflow", "create", "--jinja-file=templates/airflow/dag.py.j2", *options
        )

    def test(self, name: str) -> tuple[str, list[Run]]:
        """`airflow dags test`: how the DAG run ended, and the MLflow runs that it made."""
        before = {run.info.run_id for run in self.project.runs()}
        said = self._command("airflow", "dags", "test", name)
        ended = "failed" if "state=failed" in said else "success" if "state=success" in said else ""
        made = [run for run in self.project.runs() if run.info.run_id not in before]
        return ended or said, made

    def points(self, run: Run) -> list[tuple[str, int, float]]:
        """All points, as often as they are there."""
        with sqlite3.connect(self.project.store) as database:
            query = "SELECT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY key, step"
            return list(database.execute(query, (run.info.run_id,)))

    def _command(self, program: str, *arguments: str) -> str:
        path, given = self.project.path, self._environment
        done = self.project.attempt(self._bin / program, *arguments, cwd=path, **given)
        # Whether `airflow dags test` of a failing DAG fails itself is Airflow's affair.
        assert done.returncode == 0 or arguments[:2] == ("dags", "test"), done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def dags(bin_: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dags]:
    folder = tmp_path_factory.mktemp("dags")
    project = Project(bake(folder, include_example="no"))
    for pipeline in ("again", "chain", "curves"):
        project.add_pipeline(pipeline)
    tried = folder / "tried"
    parameters = f"judge: error\ntried: {tried}\nvalues: [0.5]\n"
    project.write("conf/base/parameters.yml", parameters)
    project.write("conf/base/airflow.yml", AIRFLOW)
    yield Dags(project, bin_)


def test_a_task_repeated_after_it_has_saved_writes_no_point_twice(dags: Dags) -> None:
    """One task is a namespace of two nodes."""
    dags.create("--pipelines=again,chain", "--group-by=namespace")

    ended, (run,) = dags.test("lab-again")

    assert ended == "success"
    assert Path(dags.project.path.parent / "tried").exists(), "the first try failed"
    assert (run.info.status, run.data.tags[Tag.PIPELINE]) == ("FINISHED", "again")
    assert run.info.run_name.startswith("lab-again manual__")
    assert Tag.ERROR not in run.data.tags
    assert dags.points(run) == [
        *(("again_metrics.loss", epoch, 1 / (1 + epoch)) for epoch in range(4)),
        ("steps.part_metrics.curve", 0, 0.1),
        ("steps.part_metrics.curve", 1, 0.2),
        ("steps.part_metrics.score", 0, 0.5),
        ("steps.read_metrics.score", 0, 0.5),
    ]


def test_with_a_failing_task_the_run_is_failed(dags: Dags) -> None:
    dags.create("--pipelines=chain")

    ended, (run,) = dags.test("lab-chain")

    assert ended == "failed"
    assert (run.info.status, run.data.tags[Tag.ERROR]) == ("FAILED", "ValueError: no verdict")
    assert dags.points(run) == [
        ("chain_metrics.loss", 0, 0.3),
        ("chain_metrics.loss", 1, 0.2),
        ("chain_metrics.score", 0, 0.5),
    ]


def test_a_mapped_task_has_a_run_for_each_within_the_dags(dags: Dags) -> None:
    dags.create("--pipelines=curves", "--group-by=memory")

    ended, runs = dags.test("lab-curves")

    assert ended == "success"
    (parent,) = (run for run in runs if Tag.PARENT_RUN not in run.data.tags)
    children = [run for run in runs if run is not parent]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags[Tag.PARENT_RUN] for run in children} == {parent.info.run_id}
    assert parent.info.end_time >= max(run.info.end_time for run in children)
    assert dags.points(parent) == [
        ("final_metrics.recall_a", 0, 0.5),
        ("final_metrics.size", 0, 7.0),
    ]
    losses = sorted([run.data.metrics["curves_metrics.loss"] for run in children])
    assert losses == [0.125, 0.25]
