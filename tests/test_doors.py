"""From every door: sub-folder, package, script, service session, wheel, notebook."""

from __future__ import annotations

import shutil
import sys
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest
from faults import Server
from helpers import KEDRO, Lab, Project, flat, points_in, runs_in, wait_until
from kedro.framework.session import KedroServiceSession
from kedro.io import DatasetError
from lab.tracking.dataset import MlflowMetricsDataset
from lab.tracking.process.state import process_state

PYTHON = sys.executable


def finished(store: Path) -> dict[str, Any]:
    """The points of the only run, which is finished."""
    (run,) = runs_in(store)
    assert run.info.status == "FINISHED"
    return points_in(store, run)


@pytest.fixture
def project(example: Project) -> Project:
    """The example, which trains for two epochs only."""
    parameters = (example.path / "conf/base/parameters_training.yml").read_text()
    example.write(
        "conf/base/parameters_training.yml", parameters.replace("epochs: 20", "epochs: 2")
    )
    return example


@pytest.mark.slow
def test_kedro_run_in_a_sub_folder(project: Project) -> None:
    folder = project.path / "src" / project.package

    project.kedro("run", "--pipelines=training", cwd=folder)

    assert len(finished(project.store)["training_metrics.loss"]) == 2
    assert not list(folder.rglob("mlruns"))
    assert not list(folder.rglob("*.db"))


@pytest.mark.slow
def test_python_m_package(project: Project) -> None:
    project.command(PYTHON, "-m", project.package)

    assert len(finished(project.store)["training_metrics.loss"]) == 2
    (run,) = project.runs()
    assert run.data.tags["kedro.command"] == f"python -m {project.package}"


@pytest.mark.slow
def test_python_m_package_has_the_commands_of_cli_py(project: Project, tmp_path: Path) -> None:
    """In any folder: what waits is looked for there, as runs look there for their store."""
    sync = (PYTHON, "-m", project.package, "metrics", "sync")
    conf = f"--conf-source={project.path / 'conf'}"
    shutil.copy(project.store, tmp_path / "mlflow-spool.db")

    elsewhere = project.command(*sync, conf, cwd=tmp_path)
    here = project.command(*sync)

    assert "mlflow-spool.db has no runs that wait" in elsewhere.stdout
    assert "there is no mlflow-spool.db" in here.stdout
    assert "the current folder" in flat(project.command(*sync, "--help").stdout)


@pytest.mark.slow
def test_sync_takes_the_parameters_and_the_configuration_of_a_run(
    project: Project, tmp_path: Path
) -> None:
    conf = shutil.copytree(project.path / "conf", tmp_path / "conf")
    project.write("conf/base/mlflow.yml", "track: sometimes\n")
    (conf / "base/mlflow.yml").write_text("tracking_uri: ${runtime_params:store.uri}\n")
    sync = ("metrics", "sync", f"--conf-source={conf}")

    project.kedro(*sync, f"--params=store.uri=sqlite:///{tmp_path}/a.db,other=1")
    without = project.attempt(KEDRO, *sync)
    elsewhere = project.attempt(KEDRO, "metrics", "sync", "--conf-source=nowhere")

    assert without.returncode == 1
    assert "Error: mlflow.yml: Runtime parameter 'store.uri' not found" in without.stderr
    assert "Traceback" not in without.stderr
    assert "Path 'nowhere' does not exist" in elsewhere.stderr


@pytest.mark.slow
def test_a_script_with_a_session(project: Project, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"""
from pathlib import Path
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

path = Path({str(project.path)!r})
bootstrap_project(path)
with KedroSession.create(project_path=path) as session:
    session.run()
with KedroSession.create(project_path=path) as session:
    session.run()
"""
    )

    project.command(PYTHON, script, cwd=tmp_path)

    assert [run.info.status for run in project.runs()] == ["FINISHED", "FINISHED"]
    assert not (tmp_path / "mlruns").exists()


def test_a_service_session_with_16_runs_on_8_threads(lab: Lab) -> None:
    def run_one(number: int) -> None:
        session.run(
            run_id="2026-01-01T00.00.00.000Z",  # Kedro's run ids can be equal
            pipeline_names=["parameters"],
            runtime_params={"model": {"number": number}, "text": "x" * number},
        )

    session = KedroServiceSession.create(
        project_path=lab.path, conf_source=str(lab.conf), serving_mode=True
    )
    with session, ThreadPoolExecutor(8) as pool:
        list(pool.map(run_one, range(16)))

    runs = lab.runs()
    assert [run.info.status for run in runs] == ["FINISHED"] * 16
    found = {}
    for run in runs:
        assert run.data.params["text"] == "x" * int(run.data.params["model.number"])
        found[int(run.data.params["model.number"])] = points_in(lab.store, run)
    assert found == {n: {"use_metrics.size": [(0, n + 1.0)]} for n in range(16)}
    assert mlflow.active_run() is None


def test_the_first_requests_of_a_new_process(lab: Lab, tmp_path: Path) -> None:
    script = tmp_path / "serve.py"
    script.write_text(
        f"""
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from kedro.framework.session import KedroServiceSession
from kedro.framework.startup import bootstrap_project

path = Path({str(lab.path)!r})
bootstrap_project(path)
session = KedroServiceSession.create(project_path=path, conf_source={str(lab.conf)!r})
with ThreadPoolExecutor(4) as pool:  # MLflow is imported by all of them at once
    runs = [pool.submit(session.run, pipeline_names=["everything"], node_names=["a"])
            for _ in range(4)]
[run.result() for run in runs]
"""
    )

    Project(lab.path).command(PYTHON, script)

    assert [run.info.status for run in lab.runs()] == ["FINISHED"] * 4


@pytest.mark.slow
def test_the_wheel_run_elsewhere_with_its_conf(project: Project, tmp_path: Path) -> None:
    project.kedro("package")
    (wheel,) = (project.path / "dist").glob("*.whl")
    (conf,) = (project.path / "dist").glob("*.tar.gz")
    venv.create(tmp_path / "venv", with_pip=True, system_site_packages=False)
    python = tmp_path / "venv" / "bin" / "python"
    # What the project needs is in this environment; only its own wheel is new.
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    ours = next((Path(sys.prefix) / "lib").glob("python*/site-packages"))
    (site / "ours.pth").write_text(f"{ours}\n")
    project.command(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, PYTHONPATH="")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    package = (python, "-m", project.package)
    options: dict[str, Any] = {"cwd": elsewhere, "PYTHONPATH": ""}

    project.command(*package, f"--conf-source={conf}", **options)

    assert len(finished(elsewhere / "mlflow.db")["training_metrics.loss"]) == 2

    server = Server(tmp_path / "server.db", tmp_path)
    there = shutil.copytree(project.path / "conf", tmp_path / "conf")
    (there / "base/mlflow.yml").write_text(f"tracking_uri: {server.url}\non_outage: spool\n")
    project.command(*package, f"--conf-source={there}", **options)
    with server:
        synced = project.command(*package, "metrics", "sync", f"--conf-source={there}", **options)

    assert "Synced default " in synced.stdout
    assert len(finished(tmp_path / "server.db")["training_metrics.loss"]) == 2


NOTEBOOK = """
%load_ext kedro.ipython
import mlflow
from kedro.io import DatasetError
with mlflow.start_run(run_name="by hand"):
    catalog.save("my_model_metrics", {"accuracy": 0.9, "curve": [1.0, 2.0]})
    catalog.save("other_metrics", {"score": 1.0})
    print("LOADED", catalog.load("my_model_metrics")["accuracy"])
try:
    catalog.save("my_model_metrics", {"accuracy": 0.9})
except DatasetError as error:
    print("REFUSED", error)
session.run()
print("ACTIVE", mlflow.active_run())
"""


@pytest.mark.slow
def test_ipython(project: Project, tmp_path: Path) -> None:
    notebook = tmp_path / "notebook.ipy"
    notebook.write_text(NOTEBOOK)
    folder = project.path / "notebooks"
    folder.mkdir(exist_ok=True)

    done = project.command(
        PYTHON, "-m", "IPython", notebook, cwd=folder, IPYTHONDIR=str(tmp_path / "ipython")
    )

    assert "LOADED {'value': 0.9, 'step': 0}" in done.stdout
    assert "REFUSED my_model_metrics: The metrics dataset 'my_model_metrics' has no MLflow run" in (
        flat(done.stdout)
    )
    assert "ACTIVE None" in done.stdout
    by_hand, of_session = project.runs()
    assert by_hand.info.run_name == "by hand"
    assert points_in(project.store, by_hand) == {
        "my_model_metrics.accuracy": [(0, 0.9)],
        "my_model_metrics.curve": [(0, 1.0), (1, 2.0)],
        "other_metrics.score": [(0, 1.0)],
    }
    assert [run.info.status for run in (by_hand, of_session)] == ["FINISHED", "FINISHED"]
    assert not (folder / "mlflow.db").exists()


CREDENTIALS = """
import os
%load_ext kedro.ipython
print("PROD", os.environ.get("MLFLOW_TRACKING_PASSWORD"))
%reload_kedro --env=local
print("LOCAL", os.environ.get("MLFLOW_TRACKING_PASSWORD"))
%reload_kedro --env=prod
print("PROD", os.environ.get("MLFLOW_TRACKING_PASSWORD"))
"""


def test_a_notebook_has_the_credentials_that_its_environment_has(
    project: Project, tmp_path: Path
) -> None:
    project.write("conf/base/mlflow.yml", "credentials: mlflow\n")
    project.write("conf/local/credentials.yml", "mlflow: {MLFLOW_TRACKING_PASSWORD: hunter2}\n")
    project.write("conf/prod/parameters.yml", "")
    notebook = tmp_path / "notebook.ipy"
    notebook.write_text(CREDENTIALS)
    folder = str(tmp_path / "ipython")

    done = project.command(
        PYTHON, "-m", "IPython", notebook, IPYTHONDIR=folder, KEDRO_ENV="prod", COLUMNS="500"
    )

    lines = [line for line in done.stdout.splitlines() if line.startswith(("PROD", "LOCAL"))]
    assert lines == ["PROD None", "LOCAL hunter2", "PROD None"]
    assert "add it to conf/prod/credentials.yml" in flat(done.stdout + done.stderr)


def test_a_catalog_outside_of_any_run_is_an_error_and_no_stray_run(lab: Lab) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{lab.store}")
    catalog: Any = lab.session().load_context().catalog

    with pytest.raises(DatasetError, match=r"no MLflow run.*mlflow.start_run"):
        catalog.save("my_model_metrics", {"accuracy": 0.9})
    assert not catalog.exists("my_model_metrics")

    assert lab.runs() == []


def test_an_unbound_catalog_uses_the_separator_of_the_project(lab: Lab) -> None:
    lab.configure(separator="/")
    mlflow.set_tracking_uri(f"sqlite:///{lab.store}")
    catalog: Any = lab.session().load_context().catalog

    with mlflow.start_run():
        catalog.save("any_metrics", {"accuracy": 0.9})
        catalog.save("any_metrics", {"accuracy": 0.8})

    assert lab.points() == {"any_metrics/accuracy": [(0, 0.9), (1, 0.8)]}


def test_saves_to_many_runs_outside_of_a_pipeline_leave_little_behind(lab: Lab) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{lab.store}")
    catalog: Any = lab.context().catalog
    for _ in range(20):
        with mlflow.start_run():
            catalog.save("any_metrics", {"accuracy": 0.9})

    assert len(process_state().deliveries) <= 9


def test_threads_outside_of_a_pipeline_count_the_steps_of_a_run_together(lab: Lab) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{lab.store}")
    with mlflow.start_run() as run, ThreadPoolExecutor(4) as pool:
        entry = {"type": "lab.tracking.MlflowMetricsDataset", "run_id": run.info.run_id}
        datasets = [MlflowMetricsDataset.from_config("x_metrics", entry) for _ in range(20)]
        lab.context()
        for done in [pool.submit(each.save, {"loss": 0.5}) for each in datasets]:
            done.result()

    assert lab.points() == {"x_metrics.loss": [(step, 0.5) for step in range(20)]}


def test_two_environments_in_one_process_keep_to_their_stores(
    lab: Lab, make_store: Callable[[str], Path]
) -> None:
    other = make_store("other.db")
    lab.run("everything", node_names=["a"])
    lab.configure(tracking_uri=f"sqlite:///{other}")
    lab.run("everything", node_names=["b"])

    assert set(lab.points()) == {"a_metrics.score", "a_metrics.curve"}
    assert set(finished(other)) == {"b_metrics.score", "b_metrics.curve"}


@pytest.mark.parametrize("same", [True, False], ids=["the same", "another"])
def test_two_stores_at_the_same_time_are_warned_of(
    lab: Lab,
    make_store: Callable[[str], Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    same: bool,
) -> None:
    (tmp_path / "other").mkdir()
    other = Lab(lab.path, tmp_path / "other", lab.store if same else make_store("other.db"))
    waiting = tmp_path / "waiting"
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lab.run, "ends", params={"end": f"wait:{waiting}"})
        try:
            wait_until(waiting.exists)
            other.run("everything", node_names=["a"])
        finally:
            waiting.unlink()
        first.result()

    warnings = [r for r in caplog.records if "Two MLflow stores are in use" in r.getMessage()]
    assert len(warnings) == (0 if same else 1)
    assert {run.info.status for run in lab.runs()} == {"FINISHED"}
    assert len(lab.runs()) == (2 if same else 1)
    assert points_in(lab.store, lab.runs()[0]) == {
        "before_metrics.score": [(0, 0.5)],
        "after_metrics.score": [(0, 1.0)],
    }
    assert points_in(other.store, other.runs()[-1]) == {
        "a_metrics.score": [(0, 0.5)],
        "a_metrics.curve": [(0, 0.1), (1, 0.2)],
    }
