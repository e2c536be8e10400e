"""Who does not track does not pay: MLflow is imported, and datasets are built, when needed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from helpers import Lab, Project
from kedro.io import AbstractDataset

REPORT = """
import json, runpy, sys
sys.argv = ["kedro", *{arguments!r}]
try:
    runpy.run_module("kedro", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print("MODULES", json.dumps([name for name in {names!r} if name in sys.modules]))
"""
HEAVY = ["mlflow", "sqlalchemy", "sklearn", "lab.tracking.delivery", "lab.tracking.store"]
PROCESS = "lab.tracking.process"  # a run needs it: it may turn out to be tracked


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["registry", "list"], [*HEAVY, PROCESS]),
        (["--help"], [*HEAVY, PROCESS]),
        (["run", "--pipelines=plain"], HEAVY),
    ],
    ids=lambda value: value[0],
)
def test_without_metrics_mlflow_is_not_imported(
    lab_path: Path, tmp_path: Path, arguments: list[str], names: list[str]
) -> None:
    project = Project(lab_path)
    # One of the lab's pipelines imports MLflow itself: not the hook's doing.
    script = REPORT.format(arguments=arguments, names=names)
    own = lab_path / "src/lab/pipelines/own_calls"
    hidden = own.rename(tmp_path / "own_calls")
    try:
        done = project.command(sys.executable, "-c", script)
    finally:
        hidden.rename(own)

    assert json.loads(done.stdout.partition("MODULES")[2]) == []


BUILT: list[str] = []


class Recorded(AbstractDataset[int, int]):
    """A dataset that says when it is built."""

    def __init__(self, name: str) -> None:
        BUILT.append(name)

    def load(self) -> int:
        return 1

    def save(self, data: int) -> None:
        pass

    def _describe(self) -> dict[str, str]:
        return {}


def test_datasets_that_the_pipeline_does_not_use_are_not_built(lab: Lab) -> None:
    kind = f"{__name__}.Recorded"
    lab.add("base/catalog.yml", f"\nnumber: {{type: {kind}, name: used}}\n")
    lab.add("base/catalog.yml", f"unused: {{type: {kind}, name: unused}}\n")
    lab.add("base/catalog.yml", "broken: {type: no.such.Dataset}\n")
    lab.configure(track="always")
    BUILT.clear()

    lab.run("plain")

    assert BUILT == ["used"]
    assert len(lab.runs()) == 1


def test_an_error_of_another_dataset_is_kedros_to_raise(lab: Lab) -> None:
    lab.add("base/catalog.yml", "\nnumber: {type: no.such.Dataset}\n")
    lab.configure(track="always")

    with pytest.raises(Exception, match=r"(?s)dataset 'number'.*no\.such"):
        lab.run("plain")

    assert [run.info.status for run in lab.runs()] == ["FAILED"]
