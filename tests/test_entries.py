"""What a catalog entry says, and what comes of it without a pipeline."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from helpers import Lab, Project, flat
from kedro.io import AbstractDataset, DatasetError
from kedro.pipeline import Node, Pipeline
from lab.tracking.dataset import MlflowMetricsDataset

DATASETS = """
from lab.tracking import MlflowMetricsDataset as Metrics


class Strict(Metrics):
    def __init__(self, *, run_id: str | None = None) -> None:
        super().__init__(run_id=run_id)
"""
HEAVY = "raise RuntimeError('imported')\n"
CATALOG = """
strict_loss: {type: lab.own_datasets.Strict}
alias_loss@best: {type: lab.own_datasets.Metrics}
prefixed_loss: {type: lab.own_datasets.Metrics, prefix: foo}
bare_loss: {type: lab.own_datasets.Metrics, prefix: ""}
cached_loss: {type: CachedDataset, dataset: {type: lab.own_datasets.Strict}}
"{name}_scores": {type: lab.own_datasets.Strict}
heavy: {type: lab.heavy_datasets.Heavy, filepath: a}
"""


@pytest.fixture
def own_datasets(lab: Lab) -> Iterator[None]:
    """Two modules of the project: one makes datasets of the metrics dataset, one is heavy."""
    package = lab.path / "src" / "lab"
    files = {package / "own_datasets.py": DATASETS, package / "heavy_datasets.py": HEAVY}
    for path, text in files.items():
        path.write_text(text)
    yield
    for path in files:
        path.unlink()
        sys.modules.pop(f"lab.{path.stem}", None)


@pytest.mark.usefixtures("own_datasets")
def test_a_subclass_and_an_alias_have_their_entrys_name_as_prefix(lab: Lab) -> None:
    lab.add("base/catalog.yml", CATALOG)

    catalog = lab.context().catalog
    assert "lab.own_datasets" not in sys.modules  # nothing is imported before it is used
    mlflow.set_tracking_uri(f"sqlite:///{lab.store}")
    with mlflow.start_run() as run:
        for name in ("strict_loss", "alias_loss@best", "prefixed_loss", "bare_loss", "cached_loss"):
            catalog.save(name, {"x": 1.0})
        catalog.save("made_scores", {"x": 1.0})
        assert catalog.load("strict_loss") == {"x": {"value": 1.0, "step": 0}}

    assert set(mlflow.get_run(run.info.run_id).data.metrics) == {
        "strict_loss.x",
        "alias_loss.x",
        "foo.x",
        "x",
        "cached_loss.x",
        "made_scores.x",
    }


def test_a_dataset_that_comes_from_no_entry_has_no_prefix_of_its_own() -> None:
    assert MlflowMetricsDataset()._describe()["prefix"] is None
    built = AbstractDataset.from_config("a_metrics", {"type": MlflowMetricsDataset})
    assert built._describe()["prefix"] == "a_metrics"


def test_other_data_under_a_name_that_the_factory_takes_is_explained(lab: Lab) -> None:
    session = lab.session()
    catalog = session.load_context().catalog
    frame = pd.DataFrame({"customer": [1, 2]})
    pipeline = Pipeline([Node(lambda: frame, None, "customer_metrics", name="count")])
    params = {"project_path": str(lab.path), "kedro_version": "1", "pipeline_names": ["x"]}
    session._hook_manager.hook.before_pipeline_run(
        run_params=params, pipeline=pipeline, catalog=catalog
    )

    with pytest.raises(
        DatasetError, match=r"not customer 0.* \(DataFrame\); return a dict"
    ) as caught:
        catalog.save("customer_metrics", frame)

    text = str(caught.value)
    assert "'customer_metrics' is a metrics dataset by the pattern '{name}_metrics'" in text
    assert "add an entry 'customer_metrics' with the right 'type' to the catalog" in text
    with pytest.raises(DatasetError) as caught:
        catalog.save("customer_metrics", {"a": "text"})
    assert "pattern" not in str(caught.value)


WITHOUT = """
import runpy, sys

class Hidden:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *more):
        return None if name == {missing!r} else self.finder.find_spec(name, *more)

sys.meta_path[:] = map(Hidden, sys.meta_path)
"""
KEDROS = """
sys.argv = ["kedro", *{arguments!r}]
runpy.run_module("kedro", run_name="__main__")
"""


@pytest.mark.parametrize("command", [["run", "--pipelines=same_key"], ["metrics", "sync"]])
@pytest.mark.parametrize(
    ("missing", "said"),
    [("mlflow", "MLflow is not installed in"), ("alembic", "alembic, a part of MLflow, is not")],
)
def test_without_mlflow_a_sentence_says_what_to_install(
    lab_path: Path, command: list[str], missing: str, said: str
) -> None:
    script = (WITHOUT + KEDROS).format(missing=missing, arguments=command)
    own = lab_path / "src/lab/pipelines/own_calls"
    hidden = own.rename(lab_path / "own_calls")  # it imports MLflow itself
    project = Project(lab_path)
    try:
        project.outbox.touch()
        done = project.attempt(sys.executable, "-c", script)
    finally:
        project.outbox.unlink()
        hidden.rename(own)

    assert done.returncode == 1
    printed = flat(done.stdout + done.stderr)
    assert said in printed
    assert "run `pip install mlflow` there" in printed
    assert "Traceback" not in printed


IPYTHONS = """
import IPython
code = "%load_ext kedro.ipython\\nprint('ENTRIES', 'my_baseline_metrics' in catalog)"
IPython.start_ipython(["-c", code])
"""


def test_a_notebook_without_mlflow_has_its_catalog(lab_path: Path, tmp_path: Path) -> None:
    script = WITHOUT.format(missing="mlflow") + IPYTHONS
    own = lab_path / "src/lab/pipelines/own_calls"
    hidden = own.rename(lab_path / "own_calls")  # it imports MLflow itself
    try:
        done = Project(lab_path).attempt(sys.executable, "-c", script, IPYTHONDIR=str(tmp_path))
    finally:
        hidden.rename(own)

    assert "ENTRIES True" in done.stdout, done.stdout + done.stderr
    assert "No module named 'mlflow'" not in done.stdout + done.stderr
