"""``adopt`` converts what a project has of kedro-mlflow and of Kedro-Viz's experiment tracking."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from adopting import Adopted, adopt, changes, commit, copy_of, refused, snapshot, tool
from helpers import STARTER, points_in, run_command

from kedro_mlflow_metrics_starter import kedro_viz
from kedro_mlflow_metrics_starter.entries import Edits, as_yaml, entries_of
from kedro_mlflow_metrics_starter.kedro_viz import Saved
from kedro_mlflow_metrics_starter.project import find_project

ROCKETS = STARTER / "tests" / "projects" / "rockets"
OURS = "rockets.tracking.MlflowMetricsDataset"

# kedro-mlflow

PIPELINE = """\
from typing import Any

from kedro.pipeline import Node, Pipeline


def point(step: int, value: float) -> dict[str, float]:
    return {"value": value, "step": step}


def history() -> dict[str, Any]:
    return {"m1": point(1, 1.1), "m2": [point(1, 1.1), point(2, 2)]}


def score() -> float:
    return 0.9


def curve() -> list[float]:
    return [0.1, 0.2]


def by_step() -> dict[int, float]:
    return {3: 0.3, 5: 0.5}


def register_pipelines() -> dict[str, Pipeline]:
    outputs = {
        history: ["my_model_metrics", "other"],
        score: ["score", "accuracy", "spaceship.score"],
        curve: ["curve"],
        by_step: ["by_step"],
    }
    nodes = [
        Node(make, None, name, name=name.replace(".", "_"))
        for make, names in outputs.items()
        for name in names
    ]
    return {"__default__": Pipeline(nodes)}
"""
ENTRIES = """\
# All that we measure.
my_model_metrics:
  type: kedro_mlflow.io.metrics.MlflowMetricsHistoryDataset # the history

other: &other   # with a prefix
  prefix: foo
  type: "kedro_mlflow.io.metrics.MlflowMetricsHistoryDataset"

score:
    # one number
    type: kedro_mlflow.io.metrics.MlflowMetricDataset
    key: my_score # where it is

accuracy: {type: kedro_mlflow.io.metrics.MlflowMetricDataset, save_args: {mode: append}}

"{ship}.score":
  type: kedro_mlflow.io.metrics.MlflowMetricDataset
  key: "{ship}.score"
  # to the end

curve:
  type: kedro_mlflow.io.metrics.MlflowMetricHistoryDataset
  save_args:
    mode: list   # a list

  # what follows is about a dict
by_step:
  save_args:
    mode: dict
  type: kedro_mlflow.io.metrics.mlflow_metric_history_dataset.MlflowMetricHistoryDataset
  metadata: {of: "us"}

shuttles:
  type: rockets.datasets.CsvTable
  filepath: data/01_raw/shuttles.csv
"""
CONVERTED = f"""\
# All that we measure.
my_model_metrics:
  type: {OURS} # the history

other: &other   # with a prefix
  prefix: foo
  type: {OURS}

score:
    # one number
    type: {OURS}
    key: my_score # where it is

accuracy: {{type: {OURS}, key: accuracy}}

"{{ship}}.score":
  type: {OURS}
  key: "{{ship}}.score"
  # to the end

curve:
  type: {OURS}
  key: curve

  # what follows is about a dict
by_step:
  type: {OURS}
  key: by_step
  metadata: {{of: "us"}}

shuttles:
  type: rockets.datasets.CsvTable
  filepath: data/01_raw/shuttles.csv
"""
KEYS = {
    "my_model_metrics.m1": [(1, 1.1)],
    "my_model_metrics.m2": [(1, 1.1), (2, 2.0)],
    "foo.m1": [(1, 1.1)],
    "foo.m2": [(1, 1.1), (2, 2.0)],
    "my_score": [(0, 0.9)],
    "accuracy": [(0, 0.9)],
    "spaceship.score": [(0, 0.9)],
    "curve": [(0, 0.1), (1, 0.2)],
    "by_step": [(3, 0.3), (5, 0.5)],
}
CONFIG = """\
server:
  mlflow_tracking_uri: sqlite:///mlflow.db # all runs
  credentials: null
  request_header_provider: {type: null, pass_context: False, init_kwargs: {}}
tracking:
  disable_tracking: {pipelines: []}
  experiment:
    name: it's rockets
    restore_if_deleted: True
  run: {id: null, name: null, nested: True}
  params:
    dict_params: {flatten: False, recursive: True, sep: "."}
    long_params_strategy: fail
ui: {port: "5001", host: "127.0.0.1"}
"""


@pytest.fixture
def with_kedro_mlflow(tmp_path: Path) -> Adopted:
    """A project that uses kedro-mlflow."""
    project = Adopted(copy_of(ROCKETS, tmp_path), "src", "rockets")
    project.write("src/PACKAGE/pipeline_registry.py", PIPELINE)
    project.write("conf/base/catalog.yml", ENTRIES)
    project.write("conf/base/mlflow.yml", CONFIG)
    project.write("conf/prod/mlflow.yml", "server:\n  mlflow_tracking_uri: http://127.0.0.1:5000\n")
    with (project.path / "requirements.txt").open("a") as requirements:
        requirements.write("kedro-mlflow>=2 # to be replaced\n")
    commit(project.path)
    return project


def test_entries_and_settings_become_ours_and_keep_their_comments(
    with_kedro_mlflow: Adopted,
) -> None:
    path = with_kedro_mlflow.path
    said = adopt(path, "--from-kedro-mlflow")

    catalog = (path / "conf/base/catalog.yml").read_text()
    assert catalog.startswith(CONVERTED)
    config = yaml.safe_load((path / "conf/base/mlflow.yml").read_text())
    assert config == {"tracking_uri": "sqlite:///mlflow.db", "experiment": "it's rockets"}
    config = yaml.safe_load((path / "conf/prod/mlflow.yml").read_text())
    assert config == {"tracking_uri": "http://127.0.0.1:5000"}
    assert "kedro-mlflow" not in (path / "requirements.txt").read_text()
    settings = (path / "src/rockets/settings.py").read_text()
    assert 'DISABLE_HOOKS_FOR_PLUGINS = ("kedro_mlflow", "kedro-mlflow",)' in settings
    assert "ui.port has no counterpart (use kedro metrics ui --port)" in said
    assert "the store is mlflow.db" not in said
    assert adopt(path, "--from-kedro-mlflow", "--force") == "Nothing to do.\n"
    deleted, _ = changes(path)
    of_metrics = ("kedro_mlflow.", "save_args", "mode: ", "kedro-mlflow")
    of_config = [*CONFIG.splitlines(), "server:", "  mlflow_tracking_uri: http://127.0.0.1:5000"]
    assert [x for x in deleted if not any(w in x for w in of_metrics) and x not in of_config] == []


@pytest.mark.slow
def test_converted_metrics_have_the_keys_of_before(with_kedro_mlflow: Adopted, store: Path) -> None:
    adopt(with_kedro_mlflow.path, "--from-kedro-mlflow")
    shutil.copy(store, with_kedro_mlflow.store)

    with_kedro_mlflow.kedro("run")

    (run,) = with_kedro_mlflow.runs()
    assert points_in(with_kedro_mlflow.store, run) == KEYS


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kedro_mlflow_itself_writes_these_keys(with_kedro_mlflow: Adopted, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    uv = Path(sys.executable).parent / "uv"
    run_command(uv, "venv", "--quiet", "--python", sys.executable, environment, cwd=tmp_path)
    wanted = ("kedro-mlflow>=2", "kedro-datasets", "kedro>=1,<2", "omegaconf<2.4", "setuptools")
    python = environment / "bin" / "python"
    run_command(uv, "pip", "install", "--quiet", "--python", python, *wanted, cwd=tmp_path)

    with_kedro_mlflow.command(environment / "bin" / "kedro", "run")
    adopt(with_kedro_mlflow.path, "--from-kedro-mlflow", "--force")
    with_kedro_mlflow.command(environment / "bin" / "kedro", "run")

    before, after = with_kedro_mlflow.runs()
    assert points_in(with_kedro_mlflow.store, before) == KEYS
    assert points_in(with_kedro_mlflow.store, after) == KEYS
    assert before.info.experiment_id == after.info.experiment_id
    compared = with_kedro_mlflow.kedro("metrics", "compare", "--last=2").stdout
    assert "spaceship.score" in compared


def test_a_file_that_git_ignores_is_changed_by_force_only(with_kedro_mlflow: Adopted) -> None:
    """Git could not bring it back."""
    path = with_kedro_mlflow.path
    for name, text in (("mlflow", CONFIG), ("catalog_more", ENTRIES)):
        spoil(f"conf/local/{name}.yml", text)(path)

    assert "git ignores conf/local/catalog_more.yml and others" in refused(
        path, "--from-kedro-mlflow"
    )
    assert "conf/local/mlflow.yml" in tool("adopt", path, "--from-kedro-mlflow", "--dry-run").stdout
    adopt(path, "--from-kedro-mlflow", "--force")
    assert "tracking_uri" in (path / "conf/local/mlflow.yml").read_text()


def spoil(file: str, text: str) -> Callable[[Path], None]:
    def add(path: Path) -> None:
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        with (path / file).open("a") as target:
            target.write(text)

    return add


PLUGIN = {
    "a dependency": (spoil("requirements.txt", "kedro-mlflow\n"), "its dependencies name it"),
    "a dependency with a hash": (
        spoil("requirements.txt", "kedro-mlflow==2.0.3 --hash=sha256:aa\n"),
        "its dependencies name it",
    ),
    "installed": (
        spoil(".venv/lib/python3.11/site-packages/kedro_mlflow-2.0.0.dist-info/METADATA", ""),
        "it is installed in",
    ),
    "its configuration": (spoil("conf/base/mlflow.yml", CONFIG), "mlflow.yml says 'server'"),
    "a hook of its own": (
        spoil("src/rockets/settings.py", "from kedro_mlflow.framework.hooks import MlflowHook\n"),
        "settings.py imports kedro_mlflow itself",
    ),
}


@pytest.mark.parametrize("case", PLUGIN)
def test_a_project_in_which_kedro_mlflow_is_active_is_refused(case: str, tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    change, sentence = PLUGIN[case]
    change(path)

    assert sentence in refused(path)


def test_where_kedro_mlflow_is_disabled_it_may_stay(tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    PLUGIN["a dependency"][0](path)
    spoil("src/rockets/settings.py", 'DISABLE_HOOKS_FOR_PLUGINS = ["kedro_mlflow"]\n')(path)

    adopt(path)

    assert "kedro-mlflow" in (path / "requirements.txt").read_text()


def test_what_has_no_counterpart_is_named_and_stays(with_kedro_mlflow: Adopted) -> None:
    path = with_kedro_mlflow.path
    more = """
model:
  type: kedro_mlflow.io.models.MlflowModelTrackingDataset
  flavor: mlflow.sklearn
late:
  type: kedro_mlflow.io.metrics.MlflowMetricDataset
  save_args: {step: 3}
"""
    spoil("conf/base/catalog.yml", more)(path)
    text = CONFIG.replace("run: {id: null", "run: {id: abc").replace(
        "sqlite:///mlflow.db", "mlruns"
    )
    (path / "conf/base/mlflow.yml").write_text(text)

    said = adopt(path, "--from-kedro-mlflow", "--force")

    assert "model is a kedro_mlflow.io.models.MlflowModelTrackingDataset, which has no" in said
    assert "late had save_args: {'step': 3}, which have no counterpart" in said
    assert "tracking.run.id has no counterpart (use --params=mlflow_run_id=ID" in said
    assert "mlflow migrate-filestore --source mlruns --target sqlite:///mlflow.db" in said
    assert "conf/base/catalog.yml still use kedro-mlflow" in said
    assert "kedro-mlflow>=2" in (path / "requirements.txt").read_text()
    assert "MlflowModelTrackingDataset\n  flavor" in (path / "conf/base/catalog.yml").read_text()


# Kedro-Viz

VIZ = """\
# What Kedro-Viz shows.
metrics:
  type: tracking.MetricsDataset # numbers
  filepath: data/09_tracking/metrics.json
  metadata:
    kedro-viz: {layer: reporting}

columns:
  type: tracking.JSONDataset
  filepath: data/09_tracking/columns.json # texts

"{part}.numbers":
  type: kedro_datasets.tracking.json_dataset.JSONDataset
  versioned: true
  filepath: "data/09_tracking/{part}/numbers.json"
"""
AFTER_VIZ = f"""\
# What Kedro-Viz shows.
metrics:
  type: {OURS} # numbers
  metadata:
    kedro-viz: {{layer: reporting}}

columns:
  type: json.JSONDataset
  versioned: true
  filepath: data/09_tracking/columns.json # texts

"{{part}}.numbers":
  type: {OURS}
"""
VERSIONS = ["2023-11-13T13.35.21.123Z", "2024-01-02T03.04.05.006Z"]


def save(project: Path, file: str, version: str, content: object) -> None:
    path = project / "data/09_tracking" / file / version / Path(file).name
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def with_kedro_viz(tmp_path: Path, store: Path) -> Adopted:
    """A project that used Kedro-Viz's experiment tracking, twice."""
    project = Adopted(copy_of(ROCKETS, tmp_path), "src", "rockets")
    project.write("conf/base/catalog.yml", VIZ)
    for number, version in enumerate(VERSIONS):
        save(project.path, "metrics.json", version, {"r2": 0.5 + number, "mae": 3.0})
        save(project.path, "columns.json", version, {"columns": ["a", "b"], "kind": "x", "n": 2})
    save(project.path, "ship/numbers.json", VERSIONS[0], {"deep": {"a": 1}, "b": 2.5})
    shutil.copy(store, project.store)
    return project


def test_kedro_vizs_entries_become_ours_where_they_hold_numbers(with_kedro_viz: Adopted) -> None:
    said = adopt(with_kedro_viz.path, "--from-kedro-viz")

    catalog = (with_kedro_viz.path / "conf/base/catalog.yml").read_text()
    assert catalog.startswith(AFTER_VIZ)
    assert "columns may hold more than numbers" in said
    assert with_kedro_viz.runs() == []
    assert adopt(with_kedro_viz.path, "--from-kedro-viz") == "Nothing to do.\n"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("nightly", "nightly"),
        ("a {b}", "a {{b}}"),
        ("${globals:exp}", "${globals:exp}"),
        ("{x} ${a:b} {y}", "{{x}} ${a:b} {{y}}"),
    ],
)
def test_the_name_of_a_run_is_read_from_where_it_was(
    with_kedro_mlflow: Adopted, given: str, expected: str
) -> None:
    config = CONFIG.replace("name: null", f'name: "{given}"')
    with_kedro_mlflow.write("conf/base/mlflow.yml", config)
    commit(with_kedro_mlflow.path)

    adopt(with_kedro_mlflow.path, "--from-kedro-mlflow")

    text = (with_kedro_mlflow.path / "conf/base/mlflow.yml").read_text()
    assert yaml.safe_load(text)["run_name"] == expected


def test_the_name_of_a_run_by_a_resolver_of_kedro_mlflow_is_to_be_chosen(
    with_kedro_mlflow: Adopted,
) -> None:
    config = CONFIG.replace("name: null", 'name: "${km.random_name:}"')
    with_kedro_mlflow.write("conf/base/mlflow.yml", config)
    commit(with_kedro_mlflow.path)

    said = adopt(with_kedro_mlflow.path, "--from-kedro-mlflow")

    assert "run_name was ${km.random_name:}, a resolver of kedro-mlflow; choose another" in said


def test_what_settings_refer_to_in_their_file_comes_along(with_kedro_mlflow: Adopted) -> None:
    config = CONFIG.replace("sqlite:///mlflow.db", "${_store.uri}")
    store = "_store:\n  uri: sqlite:///mlflow.db\n"
    with_kedro_mlflow.write("conf/base/mlflow.yml", store + config)
    commit(with_kedro_mlflow.path)

    adopt(with_kedro_mlflow.path, "--from-kedro-mlflow")

    text = (with_kedro_mlflow.path / "conf/base/mlflow.yml").read_text()
    assert yaml.safe_load(text) == {
        "tracking_uri": "${_store.uri}",
        "experiment": "it's rockets",
        "_store": {"uri": "sqlite:///mlflow.db"},
    }
    assert adopt(with_kedro_mlflow.path, "--from-kedro-mlflow", "--force") == "Nothing to do.\n"


def test_a_plugin_that_an_entry_refers_to_stays_among_the_dependencies(
    with_kedro_mlflow: Adopted,
) -> None:
    path = with_kedro_mlflow.path / "conf/base/catalog.yml"
    kind = "kedro_mlflow.io.metrics.MlflowMetricDataset"
    path.write_text(path.read_text() + f"\n_kind: {kind}\nreferring: {{type: '${{_kind}}'}}\n")
    commit(with_kedro_mlflow.path)

    said = adopt(with_kedro_mlflow.path, "--from-kedro-mlflow")

    assert "conf/base/catalog.yml still use kedro-mlflow: it stays in the dependencies" in said


@pytest.mark.slow
def test_what_kedro_vizs_datasets_have_saved_becomes_finished_runs(with_kedro_viz: Adopted) -> None:
    path = with_kedro_viz.path
    before = snapshot(path)
    del before["mlflow.db"]

    said = adopt(path, "--from-kedro-viz", "--import-history")

    assert "Imported 2 of 2 runs into the experiment 'rockets'." in said
    first, second = with_kedro_viz.runs()
    assert [first.info.run_name, second.info.run_name] == VERSIONS
    assert first.info.status == second.info.status == "FINISHED"
    assert first.info.start_time == 1699882521123
    assert first.data.metrics == {
        "metrics.r2": 0.5,
        "metrics.mae": 3.0,
        "columns.n": 2.0,
        "ship.numbers.deep.a": 1.0,
        "ship.numbers.b": 2.5,
    }
    assert first.data.params == {"columns.columns": '["a", "b"]', "columns.kind": "x"}
    (point,) = points_in(with_kedro_viz.store, second)["metrics.r2"]
    assert point == (0, 1.5)
    assert "1.5" in with_kedro_viz.kedro("metrics", "compare", "--last=2").stdout
    old = {name: text for name, text in snapshot(path).items() if "09_tracking" in name}
    assert old.items() <= before.items()


@pytest.mark.slow
def test_what_has_been_imported_is_not_imported_again(with_kedro_viz: Adopted) -> None:
    before = copy_of(with_kedro_viz.path, with_kedro_viz.path.parent / "again")
    adopt(with_kedro_viz.path, "--from-kedro-viz", "--import-history")
    shutil.copy(with_kedro_viz.store, before / "mlflow.db")

    said = adopt(before, "--from-kedro-viz", "--import-history")

    assert "Imported 0 of 2 runs" in said


def test_a_store_that_cannot_be_reached_leaves_the_project_as_it_was(
    with_kedro_viz: Adopted,
) -> None:
    (with_kedro_viz.path / "conf/base/mlflow.yml").write_text(
        "tracking_uri: sqlite:////nowhere/at/all/mlflow.db\n"
    )

    before = snapshot(with_kedro_viz.path)
    done = tool("adopt", with_kedro_viz.path, "--from-kedro-viz", "--import-history")

    assert done.returncode == 1
    assert "can't be opened" in done.stderr
    assert snapshot(with_kedro_viz.path) == before


def test_the_import_goes_with_the_conversion(with_kedro_viz: Adopted) -> None:
    done = tool("adopt", with_kedro_viz.path, "--import-history")

    assert (done.returncode, "goes with --from-kedro-viz" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("content", "ours"),
    [
        ({"a": 1, "b": {"c": [1, 2.5]}}, True),
        ({"a": [[1, 2], [3, 4]]}, False),
        ({"a": {}}, False),
        ({"a": []}, False),
        ({}, False),
        ([1, 2], False),
        ({"a": "1"}, False),
    ],
)
def test_what_mlflow_takes_for_metrics(content: object, ours: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))

    assert kedro_viz.is_of_numbers(Saved("x", VERSIONS[0], path)) == ours


@pytest.mark.parametrize(
    ("name", "filepath", "found"),
    [
        ("x", "data/09_tracking/metrics.json", {"x"}),
        (
            "{part}.numbers",
            "data/09_tracking/{part}/numbers.json",
            {"ship.numbers", "numbers.numbers"},
        ),
        ("{0}_{part}", "data/{0}/{part}/numbers.json", {"09_tracking_ship", "09_tracking_numbers"}),
        ("{part}", "data/09_tracking/{part}/{part}.json", {"numbers"}),
        ("{part}", "data/09_tracking/nothing.json", set()),
        ("{part}", "data/09_tracking/{broken/numbers.json", set()),
    ],
)
def test_the_files_of_an_entry(
    with_kedro_viz: Adopted, name: str, filepath: str, found: set[str]
) -> None:
    save(with_kedro_viz.path, "numbers/numbers.json", VERSIONS[0], {"a": 1})

    saved = kedro_viz.saved_by(find_project(with_kedro_viz.path), name, filepath)

    assert {its.dataset for its in saved} == found


@pytest.mark.parametrize("filepath", ["", "/data/x.json", "../x.json", "${root}/x.json", "s3://x"])
def test_files_that_are_not_found_are_named(with_kedro_viz: Adopted, filepath: str) -> None:
    line = f"  filepath: {json.dumps(filepath)}\n" if filepath else ""
    with_kedro_viz.write("conf/base/catalog.yml", f"m:\n  type: tracking.MetricsDataset\n{line}")

    said = adopt(with_kedro_viz.path, "--from-kedro-viz")

    assert f"m: what it has saved is not found by {filepath!r}, and not imported." in said
    assert f"m:\n  type: {OURS}\n" in (with_kedro_viz.path / "conf/base/catalog.yml").read_text()


def test_a_file_of_before_that_is_broken_is_named(with_kedro_viz: Adopted) -> None:
    (path,) = with_kedro_viz.path.glob(f"data/09_tracking/columns.json/{VERSIONS[0]}/*")
    path.write_text("{")

    assert f"{path} is not JSON" in refused(with_kedro_viz.path, "--from-kedro-viz")


def test_a_catalog_of_json_is_left_and_named(with_kedro_viz: Adopted) -> None:
    text = '{"m": {"type": "tracking.MetricsDataset", "filepath": "data/m.json"}}'
    with_kedro_viz.write("conf/base/catalog_old.json", text)

    said = adopt(with_kedro_viz.path, "--from-kedro-viz")

    assert "conf/base/catalog_old.json is JSON, which is left as it is" in said
    assert (with_kedro_viz.path / "conf/base/catalog_old.json").read_text() == text


# Catalogs of all kinds


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a:\n  type: T", "a:\n  type: N\n  key: k"),
        ("a: {type: T}", "a: {type: N, key: k}"),
        ("a: {drop: [1, {b: c}], type: T, x: 1}\n", "a: {type: N, x: 1, key: k}\n"),
        ("a:\n  drop: |\n    some\n\n    text\n  type: T\n", "a:\n  type: N\n  key: k\n"),
        ("a:\n  type: T\n  drop:\n    - x\n# b\nb: 1\n", "a:\n  type: N\n  key: k\n# b\nb: 1\n"),
        ("  a:\n     type: 'T' # t\n", "  a:\n     type: N # t\n     key: k\n"),
        ("---\na:\n  type: >-\n    T\n  x: 1\n", "---\na:\n  type: N\n  key: k\n  x: 1\n"),
        ("a: # größe 😀\n  type: T\n", "a: # größe 😀\n  type: N\n  key: k\n"),
    ],
)
def test_an_entry_is_changed_where_it_stands(before: str, after: str) -> None:
    edits = Edits(before)
    (entry, *_) = entries_of(before)
    assert entry.type == "T"

    edits.change(entry, "N", ["drop"], {"key": "k"})

    assert edits.result() == after
    assert yaml.safe_load(after)["a"]["type"] == "N"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  <<: *base", "  <<: *base\n  key: k"),
        ("  <<: [*base]\n  drop: *one\n  x: 1", "  <<: [*base]\n  key: k\n  x: 1"),
        ("  x: *one\n  <<: *base", "  x: *one\n  key: k\n  <<: *base"),
        ("  {<<: *base, drop: *one, x: *one}", "  {<<: *base, x: *one, key: k}"),
    ],
)
def test_an_entry_whose_type_is_merged_is_given_a_key(before: str, after: str) -> None:
    text = "_base: &base\n  type: T\n  list: [&one 1]\na:\n"
    edits = Edits(f"{text}{before}\n")
    for entry in entries_of(edits.text):
        added = {} if entry.name == "_base" else {"key": "k"}
        assert edits.change(entry, "N", ["drop"], added)

    assert edits.result() == f"{text.replace('T', 'N')}{after}\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "_t: &m T\nmine: {x: 1}\na:\n  type: *m # why\n  x: 1\n",
            "_t: &m T\nmine: {x: 1}\na:\n  type: N # why\n  key: k\n  x: 1\n",
        ),
        (
            "a:\n  type: &m T\nmine: {x: 1}\nb: {type: *m}\n",
            "a:\n  type: &m N\n  key: k\nmine: {x: 1}\nb: {type: N, key: k}\n",
        ),
        (
            "a: &a {type: &m 'T', drop: 1}\nmine: 1\nb:\n  type: *m\nc: *a\n",
            "a: &a {type: &m N, key: k}\nmine: 1\nb:\n  type: N\n  key: k\nc: *a\n",
        ),
        (
            "_l: &l x\nmine: 1\na:\n  type: T\n  drop:\n    mode: *l\n\n# b\nb: 1\n",
            "_l: &l x\nmine: 1\na:\n  type: N\n  key: k\n\n# b\nb: 1\n",
        ),
        (
            "a:\n  type: T\n  drop: &d {x: 1}\nb:\n  type: T\n  drop: *d\n",
            "a:\n  type: N\n  key: k\nb:\n  type: N\n  key: k\n",
        ),
        ("a:\n  type: T\n  drop: &d {x: 1}\nmine: *d\n", None),
        ("a:\n  type: &m T\nmine: {was: *m}\n", None),
    ],
)
def test_what_an_alias_stands_for_stays_or_all_does(before: str, after: str | None) -> None:
    edits = Edits(before)
    for entry in entries_of(before):
        if entry.type == "T":
            edits.change(entry, "N", ["drop"], {"key": "k"})

    assert edits.result() == after


def test_a_catalog_whose_aliases_stand_in_the_way_is_left_and_named(
    with_kedro_mlflow: Adopted,
) -> None:
    path = with_kedro_mlflow.path / "conf/prod/catalog.yml"
    kind = "kedro_mlflow.io.metrics.MlflowMetricDataset"
    text = f"late:\n  type: &kind {kind}\n_was: *kind\n"
    path.write_text(text)
    commit(with_kedro_mlflow.path)

    said = adopt(with_kedro_mlflow.path, "--from-kedro-mlflow")

    assert "conf/prod/catalog.yml is written in a way that this command can't change" in said
    assert "conf/prod/catalog.yml still use kedro-mlflow: it stays in the dependencies" in said
    assert path.read_text() == text


@pytest.mark.parametrize("value", ["a", "a b", "a,b", "a: b", "true", "1", "{x}", "größe", "", "'"])
def test_a_text_in_yaml_is_itself(value: str) -> None:
    assert yaml.safe_load(f"{{key: {as_yaml(value)}}}") == {"key": value}
    assert yaml.safe_load(f"key: {as_yaml(value)}") == {"key": value}


def test_entries_that_share_what_they_are_are_changed_once() -> None:
    text = "_base: &base\n  type: T\na:\n  <<: *base\n  drop: 1\nb: *base\n"
    edits = Edits(text)
    for entry in entries_of(text):
        assert entry.type == "T"
        edits.change(entry, "N", ["drop"])

    assert edits.result() == "_base: &base\n  type: N\na:\n  <<: *base\nb: *base\n"
