"""The benchmarks' cases still run, on a store of their own; nothing is timed here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import STARTER

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ours(bake: Callable[..., Path]) -> Path:
    """The project that `make bench` makes, with the pipelines that it measures."""
    project = bake(project_name="Ours", include_example="no")
    for pipeline in (STARTER / "benchmarks/pipelines").glob("*.py"):
        folder = project / "src/ours/pipelines" / pipeline.stem
        folder.mkdir(parents=True)
        shutil.copy(pipeline, folder / "__init__.py")
    return project


@pytest.mark.parametrize(
    ("case", "who"),
    [
        ("save-500", "floor"),
        ("stream", "floor"),
        ("stream", "least"),
        ("logged-stream", "nothing"),
    ],
)
def test_a_case_of_the_benchmarks(ours: Path, case: str, who: str, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'store.db'}"
    (ours / "conf/local/mlflow.yml").write_text(f"tracking_uri: {uri}\n")
    command = [sys.executable, str(STARTER / "benchmarks/cases.py"), case, who]
    done = subprocess.run(
        [*command, uri],
        cwd=ours,
        env={"PATH": "", "PYTHONPATH": str(ours / "src"), "DO_NOT_TRACK": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.partition("RESULT")[2])["seconds"] > 0
