"""``adopt`` brings metrics tracking to projects that are there, and changes nothing else."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import tomlkit
from adopting import (
    STRIDE,
    TOOL,
    Adopted,
    adopt,
    assert_as_before_or_finished,
    changes,
    commit,
    copy_of,
    kedro_new,
    killed_at,
    refused,
    snapshot,
    tool,
)
from click.testing import CliRunner
from helpers import ALL_COMBINATIONS, PACKAGE, STARTER, points_in, run_command

from kedro_mlflow_metrics_starter import template, transaction
from kedro_mlflow_metrics_starter.cli import main

ROCKETS = STARTER / "tests" / "projects" / "rockets"
SCORES = """
# What the models are worth.
"{part}.scores":
  type: rockets.tracking.MlflowMetricsDataset
"""


def in_source(path: Path) -> str:
    return "src"


def in_its_root(path: Path) -> str:
    shutil.move(path / "src" / "rockets", path / "rockets")
    for file in (path / "pyproject.toml",):
        file.write_text(file.read_text().replace('"src"', '"."'))
    return "."


def with_crlf(path: Path) -> str:
    for file in path.rglob("*"):
        if file.is_file() and file.stat().st_size:
            file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    return "src"


LAYOUTS = [in_source, in_its_root, with_crlf]


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.__name__)
def layout(request: pytest.FixtureRequest) -> Callable[[Path], str]:
    function: Callable[[Path], str] = request.param
    return function


@pytest.fixture
def rockets(tmp_path: Path, layout: Callable[[Path], str]) -> Adopted:
    path = copy_of(ROCKETS, tmp_path)
    source = layout(path)
    commit(path)
    return Adopted(path, source, "rockets")


@pytest.fixture(scope="module")
def kedros_own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of Kedro's own template, to copy."""
    path = kedro_new(tmp_path_factory.mktemp("kedro"), "lint,test,data")
    commit(path)
    return path


@pytest.fixture
def shuttle(kedros_own: Path, tmp_path: Path) -> Adopted:
    return Adopted(copy_of(kedros_own, tmp_path), "src", "shuttle_price")


# What is changed, and what is not


def test_git_finds_additions_only(rockets: Adopted) -> None:
    said = adopt(rockets.path)

    deleted, added = changes(rockets.path)
    assert deleted == []
    assert added
    package = rockets.source / "rockets"
    copied = {name: text for name, text in snapshot(package / "tracking").items()}
    assert copied == snapshot(PACKAGE / "tracking")
    assert "cli.py" in said


def test_line_ends_stay(rockets: Adopted, layout: Callable[[Path], str]) -> None:
    adopt(rockets.path)

    for file in ("src/rockets/settings.py", "src/rockets/cli.py", "conf/base/catalog.yml"):
        text = (rockets.path / file.replace("src", rockets.where)).read_bytes()
        returns = text.count(b"\n") if layout is with_crlf else 0
        assert text.count(b"\r\n") == returns


def test_kedros_own_project_gets_additions_only(shuttle: Adopted) -> None:
    adopt(shuttle.path, "--example")

    assert changes(shuttle.path)[0] == []


def test_the_second_time_nothing_changes(rockets: Adopted) -> None:
    adopt(rockets.path)
    before = snapshot(rockets.path)

    assert adopt(rockets.path) == "Nothing to do.\n"
    assert snapshot(rockets.path) == before


def test_a_project_of_this_starter_has_all_already(bake: Callable[..., Path]) -> None:
    assert adopt(bake()) == "Nothing to do.\n"


def test_a_tracking_of_ours_that_differs_is_left_and_named(rockets: Adopted) -> None:
    adopt(rockets.path)
    (rockets.source / "rockets/tracking/dataset.py").write_text("# mine\n")

    said = adopt(rockets.path)

    assert said.startswith("Nothing to do.\n")
    assert "rockets/tracking is there, and not as in this version: it is left as it is." in said


def test_with_the_example_the_second_time_nothing_changes(shuttle: Adopted) -> None:
    adopt(shuttle.path, "--example")

    assert adopt(shuttle.path, "--example") == "Nothing to do.\n"
    assert adopt(shuttle.path) == "Nothing to do.\n"


def test_a_dry_run_prints_what_would_be_written(rockets: Adopted, tmp_path: Path) -> None:
    before = snapshot(rockets.path)
    done = subprocess.run(
        [*TOOL, "adopt", rockets.path, "--dry-run"],
        env={"PYTHONPATH": str(STARTER / "src"), "PATH": ""},
        capture_output=True,
        check=True,
    )
    assert snapshot(rockets.path) == before

    copy = copy_of(rockets.path, tmp_path / "copy")
    (tmp_path / "adopt.diff").write_bytes(done.stdout)
    run_command("git", "apply", "--whitespace=nowarn", tmp_path / "adopt.diff", cwd=copy)
    adopt(rockets.path)
    assert snapshot(copy) == snapshot(rockets.path)


# That it works


def own_tests(project: Adopted) -> str:
    """The last line of what the project's own tests print; they must pass."""
    done = project.command(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    return done.stdout.splitlines()[-1].partition(" in ")[0]


def test_an_adopted_project_runs(tmp_path: Path, store: Path) -> None:
    rockets = Adopted(copy_of(ROCKETS, tmp_path), "src", "rockets")
    adopt(rockets.path)

    shutil.copy(store, rockets.store)
    with (rockets.path / "conf/base/catalog.yml").open("a") as catalog:
        catalog.write(SCORES)
    rockets.kedro("run")

    (run,) = rockets.runs()
    assert "active.scores.max_error" in run.data.metrics


@pytest.mark.slow
def test_a_project_of_many_parts_is_as_before_and_has_its_metrics_in_mlflow(
    rockets: Adopted, store: Path
) -> None:
    before = own_tests(rockets)
    (rockets.path / "nodes.txt").unlink()

    adopt(rockets.path)

    assert own_tests(rockets) == before
    shutil.copy(store, rockets.store)
    catalog = rockets.path / "conf/base/catalog.yml"
    catalog.write_bytes(catalog.read_bytes() + SCORES.encode())
    (rockets.path / "nodes.txt").unlink()
    rockets.kedro("run")
    (run,) = rockets.runs()
    assert run.info.status == "FINISHED"
    points = points_in(rockets.store, run)
    assert len(points["active.scores.error"]) == len(points["candidate.scores.error"]) == 8
    assert points["active.scores.max_error"] != points["candidate.scores.max_error"]
    recorded = (rockets.path / "nodes.txt").read_text().split()
    assert sorted(recorded)[-2:] == ["candidate.train", "preprocess"]
    assert "Lift-off to Mars!" in rockets.kedro("launch", "--to=Mars").stdout
    assert "candidate.scores.max_error" in rockets.kedro("metrics", "show").stdout
    rockets.command(sys.executable, "-m", "rockets")
    assert len(rockets.runs()) == 2


@pytest.mark.slow
def test_the_example_runs_and_its_tests_pass(shuttle: Adopted, store: Path) -> None:
    said = adopt(shuttle.path, "--example")

    assert "conf/base/parameters_training.yml" in said
    assert "scikit-learn" in (shuttle.path / "requirements.txt").read_text()
    shutil.copy(store, shuttle.store)
    shuttle.kedro("run", "--params=training.epochs=2")
    (run,) = shuttle.runs()
    assert "my_model_metrics.accuracy" in run.data.metrics


def test_what_a_cluster_needs_is_a_dependency_if_asked_for(shuttle: Adopted) -> None:
    adopt(shuttle.path)
    assert "dask" not in (shuttle.path / "requirements.txt").read_text()

    adopt(shuttle.path, "--distributed=dask", "--force")

    assert "distributed>=2024.8" in (shuttle.path / "requirements.txt").read_text()
    assert adopt(shuttle.path, "--distributed=dask", "--force") == "Nothing to do.\n"


TOOLS = ["lint", "test", "log", "docs", "data"]  # for pyspark Kedro asks GitHub
COMBINATIONS = [
    ",".join(tool for bit, tool in enumerate(TOOLS) if number >> bit & 1) or "none"
    for number in range(2 ** len(TOOLS))
]
TRIED = COMBINATIONS if ALL_COMBINATIONS else ["none", *TOOLS, COMBINATIONS[-1]]
METRICS = """\
from kedro.pipeline import Node, Pipeline


def evaluate() -> dict[str, float]:
    return {"accuracy": 0.9}


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline([Node(evaluate, inputs=None, outputs="my_model_metrics")])
"""


@pytest.mark.slow
@pytest.mark.parametrize("tools", TRIED)
def test_every_project_of_kedros_can_be_adopted(tools: str, tmp_path: Path, store: Path) -> None:
    shuttle = Adopted(kedro_new(tmp_path, tools), "src", "shuttle_price")
    commit(shuttle.path)
    has_tests = (shuttle.path / "tests").is_dir()
    before = own_tests(shuttle) if has_tests else ""

    adopt(shuttle.path)

    deleted, added = changes(shuttle.path)
    assert all(f"{line}," in added for line in deleted)  # of a list that has no comma at its end
    assert not has_tests or own_tests(shuttle) == before
    if "lint" in tools:
        shuttle.command(sys.executable, "-m", "ruff", "check", "src")
    shutil.copy(store, shuttle.store)
    shuttle.write("src/PACKAGE/pipelines/evaluation/__init__.py", METRICS)
    shuttle.kedro("run")
    (run,) = shuttle.runs()
    assert run.data.metrics == {"my_model_metrics.accuracy": 0.9}


@pytest.mark.slow
def test_the_tests_of_the_example_pass_in_an_adopted_project(shuttle: Adopted) -> None:
    adopt(shuttle.path, "--example")

    tests = ("-m", "pytest", "-q", "--no-cov", "tests/pipelines/training")
    assert "3 passed" in shuttle.command(sys.executable, *tests).stdout


@pytest.mark.slow
def test_a_pipeline_by_command_in_an_adopted_project(shuttle: Adopted, store: Path) -> None:
    adopt(shuttle.path)
    before = snapshot(shuttle.path)

    shuttle.kedro("pipeline", "create", "churn")

    shutil.copy(store, shuttle.store)
    shuttle.kedro("run", "--pipelines=churn")
    (run,) = shuttle.runs()
    assert run.data.metrics["churn_metrics.accuracy"] == 0.8
    assert "accuracy" in shuttle.kedro("metrics", "check").stdout
    tests = ("-m", "pytest", "-q", "--no-cov", "tests/pipelines/churn")
    assert "1 passed" in shuttle.command(sys.executable, *tests).stdout
    shuttle.command(sys.executable, "-m", "ruff", "check", "src", "templates")
    shuttle.kedro("pipeline", "delete", "churn", "--yes")
    made = {name for name in snapshot(shuttle.path) if "churn" in name}
    assert (made, before.items() <= snapshot(shuttle.path).items()) == (set(), True)


def test_templates_of_the_projects_own_stay(tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    own = path / "templates/pipeline/cookiecutter.json"
    own.parent.mkdir(parents=True)
    own.write_text('{"pipeline_name": "own"}')
    commit(path)

    adopt(path)

    assert [*own.parent.iterdir()] == [own]
    assert own.read_text() == '{"pipeline_name": "own"}'
    assert (path / "templates/airflow/dag.py.j2").is_file()


# As a package


def test_as_a_package_the_project_names_it_and_bundles_nothing(shuttle: Adopted) -> None:
    said = adopt(shuttle.path, "--as-package", "--example")

    found = snapshot(shuttle.path)
    assert not any("/tracking/" in name for name in found)
    named = {name for name, text in found.items() if b"kedro_mlflow_metrics" in text}
    assert named == {
        "conf/base/catalog.yml",
        "src/shuttle_price/cli.py",
        "src/shuttle_price/settings.py",
        "templates/airflow/dag.py.j2",
        "templates/pipeline/cookiecutter.json",
    }
    assert not [name for name, text in found.items() if b"shuttle_price.tracking" in text]
    for file in ("requirements.txt", "pyproject.toml"):
        assert b"kedro-mlflow-metrics~=0." in found[file]
        assert b'"mlflow' not in found[file]
    assert "src/shuttle_price/cli.py" in said
    assert "kedro-mlflow-metrics is in no public index: install it with --find-links" in said
    assert changes(shuttle.path)[0] == []
    assert adopt(shuttle.path, "--as-package", "--force") == "Nothing to do.\n"
    assert adopt(shuttle.path, "--force") == "Nothing to do.\n"
    assert "as a package: upgrade kedro-mlflow-metrics" in refused(shuttle.path, command="update")


@pytest.mark.slow
def test_a_project_as_a_package_runs(tmp_path: Path, store: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    adopt(path, "--as-package")
    project = Adopted(path, "src", "rockets")
    shutil.copy(store, project.store)
    with (path / "conf/base/catalog.yml").open("a") as catalog:
        catalog.write(SCORES.replace("rockets.tracking", "kedro_mlflow_metrics"))
    here = os.pathsep.join([str(path / "src"), str(STARTER / "tests/package")])

    project.kedro("run", PYTHONPATH=here)

    assert [run.info.status for run in project.runs()] == ["FINISHED"]
    shown = project.kedro("metrics", "show", PYTHONPATH=here).stdout
    assert "candidate.scores.max_error" in shown


def test_what_is_bundled_is_not_left_unused(rockets: Adopted) -> None:
    adopt(rockets.path)

    said = refused(rockets.path, "--as-package", "--force")

    assert (
        "which --as-package would leave unused; delete it, and write kedro_mlflow_metrics" in said
    )


# What is refused


def write(path: Path, text: str) -> Callable[[Path], object]:
    return lambda project: (project / path).write_text(text)


def replace(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(project: Path) -> None:
        text = (project / file).read_text()
        assert old in text
        (project / file).write_text(text.replace(old, new))

    return change


def add_setting(line: str) -> Callable[[Path], None]:
    def change(project: Path) -> None:
        with (project / "src/rockets/settings.py").open("a") as file:
            file.write(f"{line}\n")

    return change


def own_tracking(project: Path) -> None:
    folder = project / "src/rockets/tracking"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""Tracks rockets."""\n')


REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no project": (lambda path: (path / "pyproject.toml").unlink(), "it has no pyproject.toml"),
    "no Kedro project": (
        replace("pyproject.toml", "tool.kedro", "tool.other"),
        "no [tool.kedro] with a package_name",
    ),
    "no TOML": (
        replace("pyproject.toml", "[tool.kedro]", "[tool.kedro"),
        "pyproject.toml can't be",
    ),
    "an old Kedro": (
        replace("pyproject.toml", '"1.0.0"', '"0.19.14"'),
        "The project is made for Kedro 0.19.14",
    ),
    "an old Kedro in its dependencies": (
        replace("requirements.txt", "kedro>=1.0,<2", "kedro~=0.19.3"),
        "requires kedro~=0.19.3",
    ),
    "an old MLflow": (
        replace("requirements.txt", "kedro>=1.0,<2", "kedro>=1\nmlflow==2.9.2"),
        "requires mlflow==2.9.2",
    ),
    "an old Python": (
        replace("pyproject.toml", '">=3.10"', '">=3.9,<4"'),
        "allows Python below 3.10 (python<4,>=3.9)",
    ),
    "an old Python of Poetry's": (
        replace(
            "pyproject.toml",
            "[tool.kedro]",
            '[tool.poetry.dependencies]\npython = "^3.9"\n[tool.kedro]',
        ),
        "allows Python below 3.10 (python==3.*,>=3.9)",
    ),
    "no package": (
        replace("pyproject.toml", '"src"\n', '"lib"\n'),
        "no lib/rockets/settings.py",
    ),
    "settings with an error": (
        replace("src/rockets/settings.py", "HOOKS = (", "HOOKS = (("),
        "settings.py can't be read",
    ),
    "a cli with an error": (
        replace("src/rockets/cli.py", "def cli(", "def cli(("),
        "cli.py can't be read",
    ),
    "a package called tracking": (own_tracking, "src/rockets/tracking of its own"),
    "a module called tracking": (
        write(Path("src/rockets/tracking.py"), "points = []\n"),
        "src/rockets/tracking of its own",
    ),
    "a catalog that is not YAML": (
        replace("conf/base/catalog.yml", "shuttles:", "shuttles: {"),
        "conf/base/catalog.yml is not YAML",
    ),
    "another catalog that is not YAML": (
        write(Path("conf/base/catalog_more.yml"), "a: {"),
        "conf/base/catalog_more.yml is not YAML",
    ),
    "a catalog that is a list": (
        write(Path("conf/base/catalog.yml"), "- shuttles\n"),
        "is not a mapping",
    ),
    "a catalog in braces": (
        write(Path("conf/base/catalog.yml"), "{a: {type: MemoryDataset}}\n"),
        "catalog.yml is not a mapping of one dataset below the other",
    ),
    "catalogs of other names": (
        replace(
            "src/rockets/settings.py",
            '"base_env": "base"',
            '"base_env": "base", "config_patterns": {"catalog": ["datasets*", "datasets*/**"]}',
        ),
        "Kedro finds the project's catalogs by 'datasets*', 'datasets*/**'",
    ),
    "settings of which a value is an expression": (
        add_setting('CONF_SOURCE = "co" + "nf"'),
        "settings.py gives CONF_SOURCE as an expression",
    ),
    "settings with arguments from elsewhere": (
        add_setting("CONFIG_LOADER_ARGS = {**OTHERS}"),
        "settings.py gives CONFIG_LOADER_ARGS['base_env'] as an expression",
    ),
    "a configuration out of the project": (
        add_setting('CONF_SOURCE = "../conf"'),
        "CONF_SOURCE is '../conf', out of the project",
    ),
    "a mlflow.yml that is not YAML": (
        write(Path("conf/base/mlflow.yml"), "experiment: {"),
        "conf/base/mlflow.yml is not YAML",
    ),
    "a mlflow.yml that is a number": (
        write(Path("conf/base/mlflow.yml"), "3\n"),
        "conf/base/mlflow.yml says '3', and is not of this",
    ),
    "a catalog that is not UTF-8": (
        lambda path: (path / "conf/base/catalog.yml").write_bytes("# größe\n".encode("latin-1")),
        "catalog.yml is not UTF-8",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_done_safely_is_refused_in_a_sentence(case: str, tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    spoil, sentence = REFUSALS[case]
    spoil(path)
    commit(path)

    assert sentence in refused(path)


def test_changes_that_are_not_committed_are_refused_but_by_force(tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    commit(path)
    (path / "requirements.txt").write_text("kedro\n")

    assert "not committed (requirements.txt)" in refused(path)
    assert "requirements.txt" in tool("adopt", path, "--dry-run").stdout
    adopt(path, "--force")


def test_a_name_that_the_example_needs_is_refused(tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    (path / "conf/base/parameters_split.yml").write_text("split: 0.2\n")

    assert "needs 'split', which conf/base/parameters_split.yml has" in refused(path, "--example")


# The catalog


def test_the_pattern_is_left_out_where_it_would_take_other_datasets(tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    replace("src/rockets/pipelines/data_science/__init__.py", '"scores"', '"system_metrics"')(path)

    said = adopt(path)

    assert "the code names system_metrics" in said
    catalog = (path / "conf/base/catalog.yml").read_text()
    assert "my_model_metrics:" in catalog
    assert "{name}_metrics" not in catalog
    assert "Nothing to do." in adopt(path)


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ('f"{model}_metrics"', "…_metrics"),
        ('model + "_metrics"', "…_metrics"),
        ('"{}_metrics".format(model)', "{}_metrics"),
        ('"{model}.own_metrics".format(model=model)', "{model}.own_metrics"),
        ('"%s_metrics@pandas" % model', "%s_metrics@pandas"),
    ],
)
def test_the_pattern_is_left_out_where_the_code_puts_such_names_together(
    code: str, named: str, tmp_path: Path
) -> None:
    path = copy_of(ROCKETS, tmp_path)
    write(Path("src/rockets/more.py"), f"def output(model):\n    return {code}\n")(path)

    assert f"the code names {named}, which it would make metrics" in adopt(path)
    assert "{name}_metrics" not in (path / "conf/base/catalog.yml").read_text()


@pytest.mark.parametrize(
    "file", ["base/catalog.yml", "base/catalog_tables.yml", "prod/catalog.yml"]
)
def test_a_pattern_of_the_projects_own_goes_on_to_take_its_datasets(
    file: str, tmp_path: Path
) -> None:
    """Of patterns that differ in the names of placeholders Kedro takes the first by alphabet."""
    path = copy_of(ROCKETS, tmp_path)
    (path / "conf/prod").mkdir()
    with (path / "conf" / file).open("a") as catalog:
        catalog.write(
            "\n'{table}_metrics': {type: pandas.ParquetDataset, filepath: '{table}.pq'}\n"
        )

    said = adopt(path)

    sentence = (
        "'{name}_metrics' was not added to the catalog:"
        f" conf/{file} has '{{table}}_metrics', which is for the same names."
    )
    assert sentence in said.splitlines()
    catalog_text = (path / "conf/base/catalog.yml").read_text()
    assert "my_model_metrics:" in catalog_text
    assert "{name}_metrics" not in catalog_text
    assert "Nothing to do." in adopt(path)


def test_the_pattern_joins_those_of_another_shape(tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    with (path / "conf/base/catalog.yml").open("a") as catalog:
        catalog.write("\n'{space}.{table}_metrics': {type: MemoryDataset}\n")

    assert "was not added" not in adopt(path)
    assert '"{name}_metrics":' in (path / "conf/base/catalog.yml").read_text()


@pytest.mark.parametrize("file", ["datasets_all.yml", "datasets/all.yml"])
def test_catalogs_are_found_by_patterns_of_the_projects_own(file: str, tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    patterns = '"config_patterns": {"catalog": ["catalog*", "datasets*", "**/datasets*/**"]}'
    replace("src/rockets/settings.py", '"base_env"', f'{patterns}, "base_env"')(path)
    (path / "conf/base/datasets").mkdir()
    write(Path("conf/base", file), "'{table}_metrics': {type: MemoryDataset}\n")(path)

    assert f"conf/base/{file} has '{{table}}_metrics', which is for the same names" in adopt(path)


def test_an_entry_of_another_file_is_not_added_again(tmp_path: Path) -> None:
    """Kedro refuses two of one name in one environment."""
    path = copy_of(ROCKETS, tmp_path)
    (path / "conf/base/catalog").mkdir()
    (path / "conf/base/catalog/more.yaml").write_text("my_model_metrics: {type: MemoryDataset}\n")

    adopt(path)

    assert "my_model_metrics:" not in (path / "conf/base/catalog.yml").read_text()


def test_the_configuration_is_where_the_settings_say(tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    shutil.move(path / "conf", path / "configuration")
    shutil.move(path / "configuration/base", path / "configuration/common")
    replace("src/rockets/settings.py", '"base_env": "base"', '"base_env": "common"')(path)
    replace("src/rockets/settings.py", "# end", 'CONF_SOURCE = "configuration"\n# end')(path)

    adopt(path)

    assert (path / "configuration/common/mlflow.yml").is_file()
    assert "my_model_metrics" in (path / "configuration/common/catalog.yml").read_text()
    assert not (path / "conf").exists()


# settings.py


def test_a_hook_that_another_module_registers_is_not_registered_again(tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    more = "\nfrom rockets.tracking import MlflowPipelineHook as Hook\n\nHOOKS = (Hook(),)\n"
    replace("src/rockets/hooks.py", "from kedro.pipeline import Node\n", f"{more}\n")(path)
    write(Path("src/rockets/settings.py"), "from rockets.hooks import HOOKS\n")(path)
    commit(path)

    said = adopt(path)

    assert (path / "src/rockets/settings.py").read_text() == "from rockets.hooks import HOOKS\n"
    assert "src/rockets/settings.py is left as it is: src/rockets/hooks.py names" in said
    assert "Nothing to do." in adopt(path)


def test_a_hook_of_another_name_is_not_registered_again(tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    text = "from rockets.tracking import MlflowPipelineHook as Hook\n\nHOOKS = (Hook(),)\n"
    write(Path("src/rockets/settings.py"), text)(path)
    commit(path)

    adopt(path)

    assert (path / "src/rockets/settings.py").read_text() == text


# Dependencies


@pytest.mark.parametrize("value", ["conf/", "./conf", "conf"])
def test_settings_that_are_there_stay(value: str, tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    add_setting(f"CONF_SOURCE = {value!r}")(path)
    write(Path("conf/base/mlflow.yml"), "_name: &name theirs\nexperiment: *name\n")(path)
    write(Path("conf/base/mlflow.md"), "experiments: of ours")(path)
    commit(path)

    assert "mlflow" not in adopt(path).replace("templates", "")
    assert (path / "conf/base/mlflow.yml").read_text().startswith("_name")


def test_arguments_without_a_base_are_of_one_folder(tmp_path: Path) -> None:
    """As Kedro's own loader takes them."""
    path = copy_of(ROCKETS, tmp_path)
    add_setting("CONFIG_LOADER_ARGS = {}")(path)
    commit(path)

    adopt(path)

    assert (path / "conf/mlflow.yml").is_file()
    assert not (path / "conf/base/mlflow.yml").exists()


def test_an_entry_is_left_out_where_the_code_has_a_use_for_its_name(tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    write(Path("src/rockets/more.py"), 'OUTPUT = "my_baseline_metrics"\n')(path)
    commit(path)

    said = adopt(path)

    assert "'my_baseline_metrics' was not added to the catalog" in said
    assert "my_baseline_metrics" not in (path / "conf/base/catalog.yml").read_text()


def test_a_package_called_cli_is_told_what_to_add(tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    folder = path / "src/rockets/cli"
    folder.mkdir()
    (path / "src/rockets/cli.py").rename(folder / "__init__.py")
    commit(path)

    said = adopt(path)

    assert "src/rockets/cli is left as it is" in said
    assert "from rockets.tracking.cli import metrics as tracking_metrics" in said
    assert not (path / "src/rockets/cli.py").exists()


def test_a_lock_with_hashes_is_read_and_left(tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    kedro = "kedro==1.7.0 \\\n  --hash=sha256:aa \\\n  --hash=sha256:bb\n"
    lock = f"{kedro}mlflow==3.17.0 --hash=sha256:cc\n"
    (path / "requirements.txt").write_text(lock)
    commit(path)

    assert "is a lock with hashes: make it anew, with omegaconf<2.4.\n" in adopt(path)
    assert (path / "requirements.txt").read_text() == lock
    (path / "requirements.txt").write_text(lock.replace("3.17.0", "2.9.2"))
    assert "requires mlflow==2.9.2" in refused(path, "--force")


def test_a_list_that_the_build_reads_elsewhere_is_named(tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    (path / "requirements.txt").unlink()
    replace("pyproject.toml", 'dependencies = {file = "requirements.txt"}\n', "")(path)
    commit(path)

    said = adopt(path)

    assert "pyproject.toml leaves its dependencies to the build: name there" in said
    assert "mlflow" not in tomlkit.parse((path / "pyproject.toml").read_text())["project"]
    assert not (path / "requirements.txt").exists()


def test_with_an_mlflow_of_its_own_a_project_may_allow_an_older_python(tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    replace("pyproject.toml", '">=3.10"', '">=3.9"')(path)
    replace("requirements.txt", "kedro>=1.0,<2", "kedro>=1\nmlflow>=3.7")(path)

    assert "Wrote src/rockets/tracking/" in adopt(path)


def test_both_lists_get_what_is_missing(shuttle: Adopted) -> None:
    adopt(shuttle.path)

    for file in ("pyproject.toml", "requirements.txt"):
        text = (shuttle.path / file).read_text()
        assert text.count("mlflow>=3.7,<4") == text.count("omegaconf<2.4") == 1
        assert text.count("kedro~=") == 1
        assert "scikit-learn" not in text


CHECKS = """
[tool.mypy]
strict = true

[[tool.mypy.overrides]]
module = ["pandas.*"]
ignore_missing_imports = true

[tool.coverage.report]
fail_under = 90 # of our own

[tool.ruff.lint]
select = ["ALL"]
"""


def test_the_projects_own_checks_leave_tracking_out(tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    with (path / "pyproject.toml").open("a") as pyproject:
        pyproject.write(CHECKS)
    commit(path)

    adopt(path)

    assert changes(path)[0] == []
    tools = tomlkit.parse((path / "pyproject.toml").read_text()).unwrap()["tool"]
    assert tools["ruff"]["extend-exclude"] == ["src/rockets/tracking", "templates/pipeline"]
    assert tools["coverage"]["run"]["omit"] == ["src/rockets/tracking/*"]
    assert tools["mypy"]["overrides"][1] == {"module": "rockets.tracking.*", "ignore_errors": True}
    assert adopt(path) == "Nothing to do.\n"


def test_a_list_in_a_file_that_is_a_link_is_changed_where_it_is(tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    (path / "requirements").mkdir()
    shutil.move(path / "requirements.txt", path / "requirements/base.txt")
    (path / "requirements.txt").symlink_to("requirements/base.txt")

    adopt(path)

    assert (path / "requirements.txt").is_symlink()
    assert "mlflow" in (path / "requirements/base.txt").read_text()


# All or nothing


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return copy_of(ROCKETS, tmp_path / "before")


@pytest.fixture
def after(before: Path, tmp_path: Path) -> dict[str, bytes]:
    """What adopting makes of the project."""
    path = copy_of(before, tmp_path / "after")
    adopt(path)
    return snapshot(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_killed_at_any_write_the_project_is_as_before_or_soon_finished(
    part: float, before: Path, after: dict[str, bytes], tmp_path: Path
) -> None:
    assert assert_as_before_or_finished(int(170 * part), before, after, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_every_write_the_project_is_as_before_or_soon_finished(
    before: Path, after: dict[str, bytes], tmp_path: Path
) -> None:
    number = 0
    while assert_as_before_or_finished(number, before, after, tmp_path):
        number += STRIDE
    assert number > 100


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_without_the_guard_every_state_between_works_and_the_next_call_finishes(
    before: Path, after: dict[str, bytes], tmp_path: Path
) -> None:
    seen = [snapshot(before)]
    for number in itertools.count(step=STRIDE):
        path = copy_of(before, tmp_path / f"killed{number}")
        if not killed_at(number, path, UNGUARDED="1"):
            break
        found = {k: v for k, v in snapshot(path).items() if not k.startswith(".kedro-mlflow")}
        if found not in seen:
            seen.append(found)
            project = Adopted(copy_of(path, tmp_path / f"run{number}"), "src", "rockets")
            project.kedro("run", "--pipelines=processing")
        said = adopt(path)
        assert said in ("Finished what was interrupted.\nNothing to do.\n", "Nothing to do.\n") or (
            found == snapshot(before)
        )
        assert snapshot(path) == after
    assert len(seen) > 2


def test_what_was_changed_after_an_interruption_is_not_overwritten(
    before: Path, tmp_path: Path
) -> None:
    killed_at(1, before, UNGUARDED="1", COUNTED="os.rename")
    (before / "requirements.txt").write_text("kedro\n")
    assert not (before / "src/rockets/cli.py").read_text().count("metrics")

    assert "interrupted change is not finished" in refused(before, "--dry-run")
    done = tool("adopt", before)

    assert "requirements.txt was changed since" in done.stderr
    assert (before / "requirements.txt").read_text() == "kedro\n"


def test_the_template_of_a_clone_on_windows_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"a = 1\r\n")

    assert template.files_in(tmp_path) == {"a.py": b"a = 1\n"}


def test_what_is_written_in_part_is_said_to_be(
    before: Path,
) -> None:
    """After the moment from which on the change is made: a disk that is full, a file in use."""
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "settings.py":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction, "_guard", nullcontext)
        patch.setattr(os, "replace", full)
        done = CliRunner().invoke(main, ["adopt", str(before), "--force"])

    assert done.exit_code == 1
    assert "written in part: src/rockets/settings.py can't be written (No space" in done.output
    assert "nothing was written" not in done.output
    assert adopt(before, "--force") == "Finished what was interrupted.\nNothing to do.\n"


def test_what_cannot_be_written_leaves_all_as_it_was(tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    (path / "conf/base/catalog.yml").unlink()
    (path / "conf/base/catalog.yml").symlink_to(tmp_path / "catalog.yml")
    (tmp_path / "catalog.yml").write_text("")

    assert "conf/base/catalog.yml is a link out of the project" in refused(path)
