"""The rooms of ``tracking/`` stay small, and a save has one way through them."""

from __future__ import annotations

import ast
import inspect
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from helpers import PACKAGE, STARTER, Lab
from lab.tracking.dataset import MlflowMetricsDataset
from lab.tracking.delivery.binding import Binding
from lab.tracking.delivery.delivery import delivery_to
from lab.tracking.delivery.outbox import Outbox
from lab.tracking.delivery.route import Destination
from mlflow import MlflowClient

TRACKING = PACKAGE / "tracking"
MODULES = sorted(TRACKING.rglob("*.py"))
TOOL = sorted((STARTER / "src").rglob("*.py"))
# Names of modules that are no constants: loggers, and aliases of types.
ALIASES = {
    "History",
    "Metrics",
    "NamesSecret",
    "Params",
    "PlotlyPreview",
    "Request",
    "Span",
    "Steps",
    "StrMap",
    "T",
    "Wanted",
    "logger",
}
MOST_LINES = {"module": 250, "function": 40, "class": 200}

THE_WAY_OF_A_SAVE = [
    "dataset.py",
    "points.py",
    "delivery/delivery.py",
    "process/state.py",
    "delivery/route.py",
    "store/mlflow_store.py",
]


def name_of(path: Path | str) -> str:
    folder = TRACKING if Path(path).is_relative_to(TRACKING) else STARTER / "src"
    return Path(path).relative_to(folder).as_posix()


def length(node: ast.AST) -> int:
    assert isinstance(node, ast.stmt)
    assert node.end_lineno
    return node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("module", [*MODULES, *TOOL], ids=name_of)
def test_no_module_function_or_class_is_too_long(module: Path) -> None:
    text = module.read_text()
    assert text.count("\n") <= MOST_LINES["module"]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert length(node) <= MOST_LINES["function"], node.name
        elif isinstance(node, ast.ClassDef):
            assert length(node) <= MOST_LINES["class"], node.name


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_no_module_has_state_of_its_own(module: Path) -> None:
    """What is per process belongs to ``ProcessState``; constants are written in capitals."""
    for node in ast.parse(module.read_text()).body:
        names = [target.id for target in getattr(node, "targets", []) if hasattr(target, "id")]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
        for name in names:
            is_constant = name.isupper() or name.startswith("__")
            assert is_constant or name in ALIASES, name
    assert "\n    global " not in module.read_text()


def test_the_ground_floor_has_ten_files() -> None:
    ground_floor = {path.name for path in TRACKING.glob("*.py")}

    assert ground_floor == {
        "__init__.py",
        "cli.py",
        "config.py",
        "dataset.py",
        "hook.py",
        "names.py",
        "points.py",
        "provenance.py",
        "redaction.py",
        "run.py",
    }
    assert {path.name for path in TRACKING.iterdir() if path.is_dir()} - {"__pycache__"} == {
        "binding",
        "dask",
        "delivery",
        "process",
        "reports",
        "scanning",
        "store",
    }


@pytest.fixture
def entered() -> Iterator[list[str]]:
    """The modules of ``tracking/`` whose functions are called, on any thread, in order."""
    found: list[str] = []
    folder = f"{Path(inspect.getfile(MlflowMetricsDataset)).parent}/"

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(folder):
            found.append(file.removeprefix(folder))

    threading.setprofile(profile)
    sys.setprofile(profile)
    yield found
    sys.setprofile(None)
    threading.setprofile(None)


@pytest.mark.parametrize("batched", [True, False], ids=["in the pipeline's process", "a worker"])
def test_a_save_enters_six_modules_in_one_direction(
    lab: Lab, tmp_path: Path, entered: list[str], batched: bool
) -> None:
    uri = f"sqlite:///{lab.store}"
    run_id = MlflowClient(uri).create_run("0").info.run_id
    outbox = Outbox(tmp_path / "outbox.db", uri)
    dataset = MlflowMetricsDataset()
    dataset.bind(Binding("m", "m", ".", Destination(uri, run_id, outbox)))
    dataset.save({"warm": 0.0})  # the first makes MLflow's client
    delivery = delivery_to(Destination(uri, run_id, outbox))
    if batched:
        delivery.open()

    entered.clear()
    dataset.save({"loss": 0.5, "accuracy": [0.7, 0.8]})
    if batched:
        delivery.close()
    found = list(entered)

    first = list(dict.fromkeys(found))
    assert first == THE_WAY_OF_A_SAVE
    assert MlflowClient(uri).get_run(run_id).data.metrics.keys() == {
        "m.warm",
        "m.loss",
        "m.accuracy",
    }


def test_the_page_about_the_architecture_has_the_way_of_a_save() -> None:
    page = (STARTER / "docs" / "architecture.md").read_text()

    _, _, section = page.partition("## The way of a save")
    section, _, _ = section.partition("## The way of an outage")
    rows = [line for line in section.splitlines() if line.startswith("| ") and "`" in line]
    assert [row.split("`")[1] for row in rows] == THE_WAY_OF_A_SAVE
