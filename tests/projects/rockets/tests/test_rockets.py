"""The project's own tests."""

from pathlib import Path

import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

PROJECT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["__default__", "processing"])
def test_a_pipeline_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    bootstrap_project(PROJECT)
    with KedroSession.create(project_path=PROJECT) as session:
        session.run(pipeline_names=[name])

    assert "preprocess" in (PROJECT / "nodes.txt").read_text().split()
