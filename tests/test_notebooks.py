"""In a Jupyter kernel: interrupted runs, reloaded projects, MLflow's own calls, curves."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from helpers import Project, points_in, runs_in, wait_until
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

BEFORE = {"before_metrics.score": [(0, 0.5)]}
BOTH = {**BEFORE, "after_metrics.score": [(0, 1.0)]}


class Notebook:
    """A notebook's kernel, in a folder."""

    def __init__(self, folder: Path, ipython: Path) -> None:
        self.manager = KernelManager(kernel_name="python3")
        environment = Project.environment(self, IPYTHONDIR=str(ipython))  # type: ignore[arg-type]
        self.manager.start_kernel(cwd=str(folder), env=environment)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    path = Path()  # of no project: a kernel finds its project by itself

    def start(self, cell: str) -> str:
        return str(self.client.execute(cell))

    def finish(self, message: str, seconds: float = 120) -> tuple[str, str | None]:
        """What a cell has printed, and the name of the error that has ended it."""
        printed = ""
        while True:
            answer = self.client.get_iopub_msg(timeout=seconds)
            if answer["parent_header"].get("msg_id") != message:
                continue
            if answer["msg_type"] == "stream":
                printed += answer["content"]["text"]
            elif answer["content"].get("execution_state") == "idle":
                break
        # Kedro has rich print tracebacks: the error is in the reply alone.
        while (reply := self.client.get_shell_msg(timeout=seconds))["parent_header"][
            "msg_id"
        ] != message:
            pass
        return printed, reply["content"].get("ename")

    def run(self, cell: str, *, error: str | None = None) -> str:
        """Execute a cell, which ends with this error or with none; returns what it prints."""
        printed, raised = self.finish(self.start(cell))
        assert raised == error, printed
        return printed

    def interrupt(self, cell: str, when: Callable[[], Any]) -> None:
        """Press the notebook's stop button while a cell is executed."""
        message = self.start(cell)
        wait_until(when)
        self.manager.interrupt_kernel()
        printed, raised = self.finish(message)
        assert raised == "KeyboardInterrupt", printed

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def open_notebook(tmp_path: Path) -> Iterator[Callable[[Path], Notebook]]:
    opened: list[Notebook] = []

    def open_in(folder: Path) -> Notebook:
        opened.append(Notebook(folder, tmp_path / "ipython"))
        return opened[-1]

    yield open_in
    for notebook in opened:
        notebook.close()


def statuses(store: Path) -> list[str]:
    return [run.info.status for run in runs_in(store)]


RUN = 'session.run(pipeline_names=["ends"])'
AGAIN = """
from kedro.framework.session import KedroSession
with KedroSession.create(project_path=context.project_path,
                         runtime_params={"end": "well"}) as again:
    again.run(pipeline_names=["ends"]);
"""


@pytest.mark.slow
def test_after_ctrl_c_the_next_run_of_a_notebook_is_one_of_its_own(
    make_project: Callable[..., Project],
    open_notebook: Callable[[Path], Notebook],
    tmp_path: Path,
) -> None:
    """Without a reload, with one, and with another environment, whose store is another."""
    project = make_project("ends")
    project.write("conf/prod/mlflow.yml", "tracking_uri: sqlite:///prod.db\n")
    notebook = open_notebook(project.path)
    waiting = tmp_path / "waiting"
    notebook.run("%load_ext kedro.ipython")

    notebook.run(f"%reload_kedro --params=end=wait:{waiting}")
    notebook.interrupt(RUN, waiting.exists)
    assert statuses(project.store) == ["RUNNING"]  # IPython keeps the traceback, and so the catalog
    notebook.run(AGAIN)
    assert statuses(project.store) == ["KILLED", "FINISHED"]

    waiting.unlink()
    notebook.run(f"%reload_kedro --params=end=wait:{waiting}")
    notebook.interrupt(RUN, waiting.exists)
    notebook.run("%reload_kedro --params=end=well")
    notebook.run(RUN)
    assert statuses(project.store) == ["KILLED", "FINISHED"] * 2
    points = [points_in(project.store, run) for run in project.runs()]
    assert points == [BEFORE, BOTH] * 2

    notebook.run("%reload_kedro --env=prod --params=end=well")
    notebook.run(RUN)
    notebook.run("import mlflow\nwith mlflow.start_run(): catalog.save('any_metrics', {'a': 1})")
    assert statuses(project.store) == ["KILLED", "FINISHED"] * 2
    prod = project.path / "prod.db"
    assert statuses(prod) == ["FINISHED"] * 2
    assert points_in(prod, runs_in(prod)[1]) == {"any_metrics.a": [(0, 1.0)]}
    assert len({run.info.experiment_id for run in runs_in(prod)}) == 1


@pytest.mark.slow
def test_after_the_stop_button_the_next_cell_is_in_no_run(
    make_project: Callable[..., Project],
    open_notebook: Callable[[Path], Notebook],
    tmp_path: Path,
) -> None:
    """In the store that the environment names, which is the project's."""
    project = make_project("ends")
    team = tmp_path / "team.db"
    waiting = tmp_path / "waiting"
    notebook = open_notebook(project.path)
    notebook.run(f"%env MLFLOW_TRACKING_URI=sqlite:///{team}")
    notebook.run("%load_ext kedro.ipython")
    notebook.run(f"%reload_kedro --params=end=wait:{waiting}")
    notebook.interrupt(RUN, waiting.exists)

    notebook.run("import mlflow\nwith mlflow.start_run(): catalog.save('any_metrics', {'a': 1})")

    assert statuses(team) == ["KILLED", "FINISHED"]
    interrupted, by_hand = runs_in(team)
    assert points_in(team, interrupted) == BEFORE
    assert points_in(team, by_hand) == {"any_metrics.a": [(0, 1.0)]}
    assert by_hand.info.experiment_id == interrupted.info.experiment_id
    assert "'value': 1.0" in notebook.run("print(catalog.load('any_metrics'))")
    assert project.runs() == []

    look = "KedroSession.create(project_path=context.project_path, env='prod').load_context()"
    project.write("conf/prod/mlflow.yml", "tracking_uri: sqlite:///prod.db\n")
    notebook.run(f"from kedro.framework.session import KedroSession\nprod = {look}.catalog")
    notebook.run("with mlflow.start_run(): catalog.save('any_metrics', {'a': 2})")
    assert points_in(team, runs_in(team)[-1]) == {"any_metrics.a": [(0, 2.0)]}
    assert not (project.path / "prod.db").exists()

    notebook.run("before = catalog\n%reload_kedro --env=prod --params=end=well")
    notebook.run("session.run(pipeline_names=['ends'])")
    assert "'value': 2.0" in notebook.run("print(before.load('any_metrics'))")
    assert len(runs_in(project.path / "prod.db")) == 1


CELL = """
import mlflow
with mlflow.start_run(run_name="by hand"):
    catalog.save("any_metrics", {"score": 1.0})
print("FOUND", len(mlflow.search_runs()))
"""


@pytest.mark.slow
def test_two_projects_of_a_notebook_keep_to_their_stores_and_experiments(
    make_project: Callable[..., Project],
    bake: Callable[..., Path],
    open_notebook: Callable[[Path], Notebook],
    tmp_path: Path,
) -> None:
    """The first is interrupted before the second runs; nothing is asked of a store before."""
    one = make_project("ends")
    two = Project(bake(project_name="Two", include_example="no"))
    two.add_pipeline("ends")
    folder = one.path / "notebooks"
    folder.mkdir(exist_ok=True)
    notebook = open_notebook(folder)
    waiting = tmp_path / "waiting"

    notebook.run(f"%load_ext kedro.ipython\n%reload_kedro --params=end=wait:{waiting}")
    notebook.run(CELL)
    notebook.interrupt(RUN, waiting.exists)
    notebook.run(f"%reload_kedro {two.path} --params=end=well")
    assert not two.store.exists()
    notebook.run(RUN)
    printed = notebook.run(CELL)

    assert statuses(one.store) == ["FINISHED", "KILLED"]
    assert statuses(two.store) == ["FINISHED"] * 2
    assert "FOUND 2" in printed
    assert points_in(two.store, two.runs()[0]) == BOTH
    for project in (one, two):
        assert len({run.info.experiment_id for run in project.runs()} - {"0"}) == 1
        for run in project.runs():
            place = project.path / "mlartifacts" / project.package
            assert run.info.artifact_uri.startswith(place.as_uri())
    assert not list(folder.rglob("mlruns"))
    assert not list(folder.rglob("*.db"))


@pytest.mark.slow
def test_a_project_is_loaded_at_once_though_its_store_does_not_answer(
    make_project: Callable[..., Project], open_notebook: Callable[[Path], Notebook]
) -> None:
    project = make_project("ends")
    with socket.socket() as silent:  # accepts, and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        project.write("conf/local/mlflow.yml", f"tracking_uri: http://127.0.0.1:{port}\n")
        notebook = open_notebook(project.path)

        notebook.run("import mlflow")
        began = time.monotonic()
        notebook.run("%load_ext kedro.ipython")
        assert time.monotonic() - began < 30
        silent.settimeout(0)
        with pytest.raises(BlockingIOError):
            silent.accept()  # nothing was asked


@pytest.mark.slow
def test_the_projects_notebook_draws_the_curves_of_the_last_runs(
    example: Project, tmp_path: Path
) -> None:
    for epochs in (2, 3):
        example.kedro("run", f"--params=training.epochs={epochs}")
    path = example.path / "notebooks" / "metrics.ipynb"
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)

    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}})
    client.execute(env=example.environment(IPYTHONDIR=str(tmp_path / "ipython")))

    shown = [output.get("data", {}) for cell in cells for output in cell.outputs]
    assert sum("image/png" in data for data in shown) == 1  # of the loss: accuracy is one point
    tables = "".join(data.get("text/html", "") for data in shown)
    assert all(run.info.run_id in tables for run in example.runs())
