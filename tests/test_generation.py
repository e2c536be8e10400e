"""What is asked, made and refused when a project is made of the starter."""

from __future__ import annotations

import ast
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import kedro
import pytest
import yaml
from cookiecutter.environment import StrictEnvironment
from cookiecutter.exceptions import CookiecutterException, OutputDirExistsException
from cookiecutter.main import cookiecutter
from helpers import KEDRO, STARTER, TEMPLATE
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError
from pre_gen_project import refuse

tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

# Narrow: the ${{ }} of a GitHub workflow is none.
JINJA = re.compile(r"\{\{-? ?_?cookiecutter|\{%|%\}|\{#")

FILES = {
    ".gitignore",
    ".pre-commit-config.yaml",
    "README.md",
    "conf/base/catalog.yml",
    "conf/base/mlflow.yml",
    "conf/base/parameters.yml",
    "conf/local/.gitkeep",
    "notebooks/metrics.ipynb",
    "templates/airflow/dag.py.j2",
    "pyproject.toml",
    "requirements.txt",
    "src/PACKAGE/__init__.py",
    "src/PACKAGE/__main__.py",
    "src/PACKAGE/pipeline_registry.py",
    "src/PACKAGE/pipelines/__init__.py",
    "src/PACKAGE/settings.py",
    "src/PACKAGE/cli.py",
    "src/PACKAGE/tracking/__init__.py",
    "src/PACKAGE/tracking/binding/__init__.py",
    "src/PACKAGE/tracking/binding/datasets.py",
    "src/PACKAGE/tracking/binding/notebook.py",
    "src/PACKAGE/tracking/binding/streams.py",
    "src/PACKAGE/tracking/dask/__init__.py",
    "src/PACKAGE/tracking/dask/cluster.py",
    "src/PACKAGE/tracking/dask/code.py",
    "src/PACKAGE/tracking/dask/runner.py",
    "src/PACKAGE/tracking/dask/worker.py",
    "src/PACKAGE/tracking/cli.py",
    "src/PACKAGE/tracking/config.py",
    "src/PACKAGE/tracking/dataset.py",
    "src/PACKAGE/tracking/delivery/__init__.py",
    "src/PACKAGE/tracking/delivery/binding.py",
    "src/PACKAGE/tracking/delivery/breaker.py",
    "src/PACKAGE/tracking/delivery/delivery.py",
    "src/PACKAGE/tracking/delivery/drain.py",
    "src/PACKAGE/tracking/delivery/earlier.py",
    "src/PACKAGE/tracking/delivery/nested.py",
    "src/PACKAGE/tracking/delivery/opening.py",
    "src/PACKAGE/tracking/delivery/outbox.py",
    "src/PACKAGE/tracking/delivery/resolved.py",
    "src/PACKAGE/tracking/delivery/route.py",
    "src/PACKAGE/tracking/delivery/shared.py",
    "src/PACKAGE/tracking/delivery/sync.py",
    "src/PACKAGE/tracking/hook.py",
    "src/PACKAGE/tracking/names.py",
    "src/PACKAGE/tracking/points.py",
    "src/PACKAGE/tracking/process/__init__.py",
    "src/PACKAGE/tracking/process/active_runs.py",
    "src/PACKAGE/tracking/process/contexts.py",
    "src/PACKAGE/tracking/process/liveness.py",
    "src/PACKAGE/tracking/process/membership.py",
    "src/PACKAGE/tracking/process/mlflow_globals.py",
    "src/PACKAGE/tracking/process/state.py",
    "src/PACKAGE/tracking/process/termination.py",
    "src/PACKAGE/tracking/provenance.py",
    "src/PACKAGE/tracking/redaction.py",
    "src/PACKAGE/tracking/run.py",
    "src/PACKAGE/tracking/scanning/__init__.py",
    "src/PACKAGE/tracking/scanning/known.py",
    "src/PACKAGE/tracking/scanning/pairs.py",
    "src/PACKAGE/tracking/scanning/uris.py",
    "src/PACKAGE/tracking/reports/__init__.py",
    "src/PACKAGE/tracking/reports/children.py",
    "src/PACKAGE/tracking/reports/commands.py",
    "src/PACKAGE/tracking/reports/curves.py",
    "src/PACKAGE/tracking/reports/live.py",
    "src/PACKAGE/tracking/reports/saving_once.py",
    "src/PACKAGE/tracking/reports/options.py",
    "src/PACKAGE/tracking/reports/page.py",
    "src/PACKAGE/tracking/reports/reading.py",
    "src/PACKAGE/tracking/reports/report.py",
    "src/PACKAGE/tracking/reports/rows.py",
    "src/PACKAGE/tracking/reports/rules.py",
    "src/PACKAGE/tracking/reports/runs.py",
    "src/PACKAGE/tracking/reports/serving.py",
    "src/PACKAGE/tracking/reports/sharing.py",
    "src/PACKAGE/tracking/reports/sheet.py",
    "src/PACKAGE/tracking/reports/system.py",
    "src/PACKAGE/tracking/reports/tables.py",
    "src/PACKAGE/tracking/reports/tally.py",
    "src/PACKAGE/tracking/store/__init__.py",
    "src/PACKAGE/tracking/store/busy.py",
    "src/PACKAGE/tracking/store/client.py",
    "src/PACKAGE/tracking/store/database.py",
    "src/PACKAGE/tracking/store/errors.py",
    "src/PACKAGE/tracking/store/keys.py",
    "src/PACKAGE/tracking/store/mlflow_store.py",
    "src/PACKAGE/tracking/store/problems.py",
    "src/PACKAGE/tracking/store/queries.py",
    "src/PACKAGE/tracking/store/schema.py",
    "src/PACKAGE/tracking/store/sqlite.py",
    "templates/conftest.py",
    "templates/pipeline/cookiecutter.json",
    "templates/pipeline/{{ cookiecutter.pipeline_name }}/__init__.py",
    "templates/pipeline/{{ cookiecutter.pipeline_name }}/nodes.py",
    "templates/pipeline/{{ cookiecutter.pipeline_name }}/pipeline.py",
    "templates/pipeline/{{ cookiecutter.pipeline_name }}/config/"
    "catalog_{{ cookiecutter.pipeline_name }}.yml",
    "templates/pipeline/{{ cookiecutter.pipeline_name }}/config/"
    "parameters_{{ cookiecutter.pipeline_name }}.yml",
    "templates/pipeline/{{ cookiecutter.pipeline_name }}/tests/"
    "test_{{ cookiecutter.pipeline_name }}.py",
    "tests/conftest.py",
    "tests/test_tracking.py",
}
EXAMPLE_FILES = {
    "conf/base/parameters_training.yml",
    "src/PACKAGE/pipelines/training/__init__.py",
    "src/PACKAGE/pipelines/training/nodes.py",
    "src/PACKAGE/pipelines/training/pipeline.py",
    "tests/pipelines/training/test_training.py",
}
CI_FILES = {".github/workflows/checks.yml"}
KEDROS = "templates/"  # rendered at `kedro pipeline create` and `kedro airflow create`

DEFAULTS = json.loads((STARTER / "cookiecutter.json").read_text())
ANSWERS = {
    **{key: value for key, value in DEFAULTS.items() if not key.startswith("_")},
    "project_name": "Lab",
    "repo_name": "lab",
    "python_package": "lab",
}


@pytest.fixture(scope="session")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the starter as it lies here: no caches, nothing that git ignores."""
    clone = tmp_path_factory.mktemp("clone") / "starter"
    listed = git(STARTER, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in listed.strip("\0").split("\0"):
        if (STARTER / name).exists():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).write_bytes((STARTER / name).read_bytes())
    git(clone, "init", "--quiet")
    git(clone, "add", "--all")
    git(clone, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "--quiet", "--message=x")
    return clone


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def run(folder: Path, *command: str | Path, typed: str = "") -> str:
    """Run a command in a folder, with this typed in; it must succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**os.environ, "HOME": str(folder)},  # cookiecutter keeps clones and answers there
        input=typed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make(folder: Path, answers: dict[str, Any]) -> None:
    cookiecutter(str(STARTER), no_input=True, extra_context=answers, output_dir=str(folder))


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder)}


def expected(
    package: str, *, example: bool = True, ci: bool = False, bundled: bool = True
) -> set[str]:
    names = FILES | (EXAMPLE_FILES if example else set()) | (CI_FILES if ci else set())
    names = {name for name in names if bundled or "/PACKAGE/tracking/" not in name}
    return {name.replace("PACKAGE", package) for name in names}


def load(project: Path, name: str) -> Any:
    return yaml.safe_load((project / "conf" / "base" / name).read_text(encoding="utf-8"))


# How a project is made


@pytest.mark.parametrize("name", ["Sklearn Tools", "Scikit Learn Demo", "My Tracking"])
@pytest.mark.parametrize("tracking", ["bundled", "package"])
def test_a_name_is_not_taken_for_what_is_dropped(
    bake: Callable[..., Path], name: str, tracking: str
) -> None:
    project = bake(project_name=name, include_example="no", tracking=tracking)

    found = tomllib.loads((project / "pyproject.toml").read_text())
    usual = tomllib.loads((bake(tracking=tracking) / "pyproject.toml").read_text())
    assert found.keys() == usual.keys()
    assert found["project"].keys() == usual["project"].keys()
    assert found["tool"].keys() == usual["tool"].keys()
    assert len(found["project"]["scripts"]) == 1
    assert "scikit-learn" not in str(found["project"]["dependencies"])


def test_what_kedro_and_mlflow_require_is_no_name_for_a_package() -> None:
    """The modules of what they require directly, as it is installed here; all distributions.

    Of a project that is called as one of these, no installer finds versions that go together.
    """
    distributions = {re.sub("[-.]", "_", name) for name in all_required_by(*INSTALLED)}
    modules = {
        name
        for name, distributions in packages_distributions().items()
        if {its.lower() for its in distributions} & required_by("kedro", "mlflow", "distributed")
        and re.fullmatch("[a-z][a-z0-9_]*[a-z0-9]", name)
    }

    assert len(modules) > 40
    assert len(distributions) > 100
    assert [
        name
        for name in sorted(modules | distributions)
        if not refuse({**ANSWERS, "python_package": name})
    ] == []


INSTALLED = {"kedro", "mlflow", "distributed", "scikit-learn", "omegaconf"} | {
    *("ipykernel", "ipython", "mypy", "pre-commit", "pytest", "ruff")
}


def required_by(*names: str) -> set[str]:
    lines = {line for name in names for line in requires(name) or [] if "extra ==" not in line}
    return {re.split(r"[^\w.-]", line)[0].lower() for line in lines}


def all_required_by(*names: str) -> set[str]:
    """The names, and those of all that is required in turn."""
    found, new = set[str](), {*names}
    while new:
        found |= new
        for name in [*new]:
            with suppress(PackageNotFoundError):  # of another system
                new |= required_by(name)
        new -= found
    return found


def test_with_a_name_nothing_is_asked(starter: Path, tmp_path: Path) -> None:
    relative = os.path.relpath(starter, tmp_path)

    printed = run(tmp_path, KEDRO, "new", f"--starter={relative}", "--name", "My Project")

    assert "Project Name" not in printed
    assert files(tmp_path / "my-project") == expected("my_project")
    settings = (tmp_path / "my-project/src/my_project/settings.py").read_text()
    assert "HOOKS = (MlflowPipelineHook(),)" in settings
    assert "my_model_metrics" in load(tmp_path / "my-project", "catalog.yml")


def test_from_git(starter: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    url = f"git+file://{starter.as_posix()}"

    run(tmp_path / "out", KEDRO, "new", f"--starter={url}", "--name", "From Git")

    assert files(tmp_path / "out" / "from-git") == expected("from_git")


def test_without_a_name_the_name_alone_is_asked(starter: Path, tmp_path: Path) -> None:
    printed = run(tmp_path, KEDRO, "new", f"--starter={starter}", typed="Asked For\n")

    assert printed.count("[New Kedro Project]:") == 1  # a second question would find no answer
    assert files(tmp_path / "asked-for") == expected("asked_for")


def test_with_a_file_of_answers(starter: Path, tmp_path: Path) -> None:
    (tmp_path / "answers.yml").write_text(
        "project_name: By File\n"
        "include_example: no\n"  # not in quotes: a bool
        "tracking_uri: http://127.0.0.1:5000\n"
        "experiment: first\n"
        "separator: /\n"
    )

    run(tmp_path, KEDRO, "new", f"--starter={starter}", "--config", "answers.yml")

    project = tmp_path / "by-file"
    assert files(project) == expected("by_file", example=False)
    assert load(project, "mlflow.yml") == {
        "tracking_uri": "http://127.0.0.1:5000",
        "experiment": "first",
        "separator": "/",
    }


def test_with_cookiecutter_alone(starter: Path, tmp_path: Path) -> None:
    command = KEDRO.with_name("cookiecutter")
    run(tmp_path, command, "--no-input", starter, "project_name=Plain Lab", "include_example=no")

    assert files(tmp_path / "plain-lab") == expected("plain_lab", example=False)


# What is made


@pytest.fixture(scope="module", params=["yes", "no"])
def project(request: pytest.FixtureRequest, starter: Path, tmp_path_factory: Any) -> Path:
    """A project made of the clone, with the example and without it."""
    answers = {"project_name": "Lab", "include_example": request.param}
    folder = tmp_path_factory.mktemp("out")
    made = cookiecutter(str(starter), no_input=True, extra_context=answers, output_dir=str(folder))
    return Path(made)


def has_example(project: Path) -> bool:
    return (project / "src" / "lab" / "pipelines" / "training").exists()


def test_a_project_has_these_files_and_no_others(project: Path) -> None:
    assert files(project) == expected("lab", example=has_example(project))
    assert (project / "tests" / "pipelines").exists() == has_example(project)
    assert not (project / ".github").exists()


def test_no_jinja_is_left(project: Path) -> None:
    assert unrendered(project) == []


def unrendered(project: Path) -> list[str]:
    texts = contents(project).items()
    return [n for n, text in texts if not n.startswith(KEDROS) and JINJA.search(text.decode())]


def test_python_of_the_template_has_no_jinja() -> None:
    """But for what Kedro renders, where it stands within strings: all of it can be checked."""
    modules = list(TEMPLATE.rglob("*.py"))
    assert modules
    for path in modules:
        text = path.read_text(encoding="utf-8")
        if KEDROS in path.as_posix():
            ast.parse(text)
            strings = [t.string for t in tokens(text) if t.type == tokenize.STRING]
            assert len(JINJA.findall(text)) == sum(len(JINJA.findall(s)) for s in strings)
        else:
            assert not JINJA.search(text), path


def tokens(text: str) -> list[tokenize.TokenInfo]:
    return list(tokenize.generate_tokens(io.StringIO(text).readline))


def test_all_of_a_project_can_be_parsed(project: Path) -> None:
    parsers: dict[str, Callable[[str], Any]] = {
        ".py": ast.parse,
        ".toml": tomllib.loads,
        ".yaml": yaml.safe_load,
        ".yml": yaml.safe_load,
    }
    for name, text in contents(project).items():
        if name.startswith(KEDROS) and not name.endswith(".py"):
            continue
        if parse := parsers.get(Path(name).suffix):
            parse(text.decode())


def test_every_file_ends_with_one_line_end(project: Path) -> None:
    for name, text in contents(project).items():
        assert not text or re.search(rb"[^\s]\n\Z", text), name


def test_settings_are_kedros_with_the_hook(project: Path) -> None:
    shipped = "templates/project/*/src/*/settings.py"
    (path,) = Path(kedro.__file__).parent.glob(shipped)
    before = path.read_text().replace("{{cookiecutter.python_package}}", "my_package").splitlines()

    after = (project / "src" / "lab" / "settings.py").read_text().splitlines()

    added = ["", "from lab.tracking import MlflowPipelineHook", "HOOKS = (MlflowPipelineHook(),)"]
    example = before.index("# HOOKS = (ProjectHooks(),)") + 1
    assert after == [*before[:3], *added[:2], *before[3:example], added[2], *before[example:]]


def test_the_catalog_has_metrics_datasets(project: Path) -> None:
    metrics = {"type": "lab.tracking.MlflowMetricsDataset"}
    catalog = load(project, "catalog.yml")
    of_example = [
        catalog.pop("training_metrics", {}).get("metrics"),
        catalog["my_model_metrics"].pop("metrics", None),
    ]
    assert catalog == {
        "my_model_metrics": metrics,
        "my_baseline_metrics": {**metrics, "prefix": "baseline"},
        "{name}_metrics": metrics,
    }
    assert all(of_example) == any(of_example) == has_example(project)


def test_without_the_example_nothing_speaks_of_it(bake: Callable[..., Path]) -> None:
    project = bake(include_example="no")
    for path in [*project.rglob("*.py"), *project.rglob("*.yml"), *project.glob("*.t*")]:
        if "tracking" in path.parts:  # the same text in every project
            continue
        code = re.sub(r"#.*", "", path.read_text())
        assert not re.search(r"training|digits|sklearn|scikit", code), path


@pytest.mark.parametrize(
    ("answer", "example"),
    [("yes", True), ("Y", True), ("true", True), (True, True), ("No", False), (False, False)],
)
def test_yes_and_no_in_all_spellings(
    bake: Callable[..., Path], answer: object, example: bool
) -> None:
    project = bake(include_example=answer)

    assert has_example(project) == example
    assert ("## The example" in (project / "README.md").read_text()) == example
    assert ("scikit-learn" in (project / "requirements.txt").read_text()) == example
    assert load(project, "parameters.yml") is None
    assert (project / "conf/base/parameters_training.yml").exists() == example


def test_without_answers_mlflow_has_its_defaults(bake: Callable[..., Path]) -> None:
    assert load(bake(), "mlflow.yml") is None
    assert load(bake(tracking_uri=None, experiment=None), "mlflow.yml") is None


@pytest.mark.parametrize(
    "experiment",
    [
        'it\'s "quoted": a # b, {c: [d]} & *e !f | >g %h @i `j` $k $(l) \\n \\',
        "Größe 😀 実験",
        "{% raw %}{{ cookiecutter.nope }} {% endraw %}!",
        "yes",
        "1e3",
        "- ~",
    ],
)
@pytest.mark.parametrize(
    "tracking_uri",
    [
        "postgresql+psycopg2://me:p%40ss@[::1]:5432/db?sslmode=require&a=%20",
        "databricks",
    ],
)
def test_answers_of_every_kind_end_where_they_belong(
    bake: Callable[..., Path], experiment: str, tracking_uri: str
) -> None:
    project = bake(experiment=experiment, tracking_uri=tracking_uri, separator="/")

    given = {
        "tracking_uri": tracking_uri,
        "experiment": re.sub(r"\{% \w+ %\}", "", experiment),  # which cookiecutter renders
        "separator": "/",
    }
    assert ascii(load(project, "mlflow.yml")) == ascii(given)  # xdist can't tell of half an emoji
    assert len(load(project, "catalog.yml")) == 4
    tomllib.loads((project / "pyproject.toml").read_text())


def test_a_project_is_not_made_over_another(bake: Callable[..., Path]) -> None:
    project = bake()
    (project / "README.md").write_text("mine")
    before = contents(project)

    with pytest.raises(OutputDirExistsException):
        cookiecutter(
            str(STARTER),
            no_input=True,
            extra_context={"project_name": "Lab", "include_example": "no"},
            output_dir=str(project.parent),
        )

    assert contents(project) == before


# What is refused

REFUSED = {
    "project_name": [
        *["", "x", " Lab", "-Lab", "_Lab", "Lab\n", "La\nb", "Lab\0", "Lab\x1b[31m", "Lab\u200f"],
        *["\u202elab", 'My "Lab"', "Lab's", "{Lab}", "{{ Lab }}", "{% Lab %}", "$(touch lab)"],
        *["`lab`", "Lab;", "a/b", "..", "Lab!", "Lab\ud800"],
    ],
    "repo_name": [
        *["", ".", "..", "a/b", "../x", "/abs", "a\\b", "C:\\lab", "~", "-rf", "lab\n", "lab "],
        *[".git", "lab.", "größe", "lab\u202e", "{{ lab }}", "x" * 101, "mlflow", "Kedro"],
    ],
    "python_package": [
        *["", "1lab", "my lab", "my-lab", "my.lab", "_lab", "lab_", "größe", "lab\n", "../lab"],
        *["class", "None", "match", "json", "test", "email", "kedro", "mlflow", "numpy", "Docker"],
        *[
            "PyYAML",
            "alembic",
            "dask",
            "distributed",
            "kedro_mlflow_metrics",
            "mlflow_tracing",
            "pytest",
            "python__dotenv",
            "scikit_learn",
            "tests",
            "x" * 101,
        ],
    ],
    "include_example": ["", "maybe", "1", "yes\n", "none"],
    "tracking": ["", "Bundled", "wheel", "package\n"],
    "tracking_uri": [
        *["mlruns", "./mlruns", "/tmp/mlflow.db", "http://", "://x", "http://a b", "http://a\nb"],
        *["http://a'", "http://{a}", "${oc.env:URI}", "http://\u202ea", "C:\\mlflow.db", " "],
    ],
    "experiment": [" a", "a ", " ", "a\nb", "a\tb", "a\0", "a\u202eb", "x" * 501, "${oc.env:USER}"],
    "separator": ["", "-", "./", "::", ". "],
    "ci": ["", "GitHub", "gitlab", "no", "none\n"],
    "distributed": ["", "Dask", "ray", "dask\n"],
    "kedro_version": ["", "latest", "1.7\n", "1.7'", "{{ 1 }}"],
}
ACCEPTED = {
    "project_name": ["Lab 2", "my-lab_2", "Größe", "2nd", "מעבדה", "Lab "],
    "repo_name": ["lab", "L", "my.lab_2-x", "x" * 100],
    "python_package": ["lab", "L", "my_lab2", "x" * 100, "labs", "kedro_lab"],
    "include_example": ["yes", "No", "TRUE", "false", "y", "N"],
    "tracking": ["bundled", "package"],
    "tracking_uri": [
        "",
        "databricks",
        "databricks://me",
        "sqlite:///mlflow.db",
        "http://a:1/?b=%20",
    ],
    "experiment": ["", "/Users/me/lab", "a: #'\"{}%$😀", "x" * 500],
    "separator": [".", "/"],
    "ci": ["none", "github"],
    "distributed": ["none", "dask"],
    "kedro_version": ["1.0.0", "1.8.0rc1", "2.0.dev1+g1a2b3c"],
}


def pairs(answers: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(key, value) for key, values in answers.items() for value in values]


@pytest.mark.parametrize(("key", "value"), pairs(ACCEPTED))
def test_a_good_answer_is_accepted(key: str, value: str) -> None:
    assert refuse({**ANSWERS, key: value}) is None


@pytest.mark.parametrize(("key", "value"), pairs(REFUSED))
def test_a_bad_answer_is_refused_with_the_value_and_the_way_out(key: str, value: str) -> None:
    assert_one_sentence(refuse({**ANSWERS, key: value}), key, value)


def assert_one_sentence(refusal: str | None, key: str, value: str) -> None:
    assert refusal is not None
    assert refusal.isprintable()
    assert refusal.endswith(".")
    assert key in refusal
    assert repr(value[:60])[:-1] in refusal
    assert len(re.findall(r"; [a-z]", refusal.replace(repr(value), ""))) == 1


@pytest.mark.parametrize("value", [True, {}, ["a"]])
@pytest.mark.parametrize("key", sorted(ANSWERS.keys() - {"include_example"}))
def test_what_is_not_text_is_refused(key: str, value: object) -> None:
    refusal = refuse({**ANSWERS, key: value})
    assert refusal == f"{key} is {value!r}, which is not text; put it in quotes."


@given(
    st.fixed_dictionaries(
        {
            key: st.one_of(st.sampled_from(ACCEPTED[key]), st.sampled_from(REFUSED[key]), st.text())
            for key in ANSWERS
        }
    )
)
def test_any_text_is_accepted_or_refused_in_one_sentence(answers: dict[str, str]) -> None:
    refusal = refuse(answers)
    assert refusal is None or (refusal.isprintable() and refusal.endswith("."))


@given(
    project_name=st.from_regex(r"[^\W_][\w -]+", fullmatch=True),
    tracking_uri=st.from_regex(r"[a-z]+://\S+", fullmatch=True),
    experiment=st.text(st.characters(exclude_categories=["C", "Z"])),
    separator=st.sampled_from([".", "/"]),
)
def test_what_is_accepted_can_be_parsed_and_is_as_given(**given: str) -> None:
    answers = {**ANSWERS, **given}
    if refuse(answers):
        return
    render = StrictEnvironment(context={}, keep_trailing_newline=True).from_string
    mlflow, pyproject = (
        render((TEMPLATE / name).read_text()).render(cookiecutter=answers)
        for name in ("conf/base/mlflow.yml", "pyproject.toml")
    )

    config = {"tracking_uri": "", "experiment": "", "separator": "."}
    config.update(yaml.safe_load(mlflow) or {})
    assert ascii(config) == ascii({key: answers[key] for key in config})
    tool = tomllib.loads(pyproject)["tool"]["kedro"]
    assert tool["project_name"] == answers["project_name"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("project_name", 'My "Lab"'),
        ("project_name", "Lab\n\u202e"),
        ("project_name", "$(touch ../lab)"),
        ("project_name", "{% raw %}{{ Lab }}{% endraw %}"),
        ("repo_name", "a/b"),
        ("repo_name", "../x"),
        ("repo_name", "ABSOLUTE"),
        ("repo_name", "a\\b"),
        ("repo_name", "x" * 300),
        ("python_package", "class"),
        ("python_package", "x" * 300),
        ("include_example", "maybe"),
        ("tracking_uri", "mlruns"),
        ("experiment", "a\nb'); import os"),
        ("separator", "-"),
        ("ci", "gitlab"),
        ("distributed", "ray"),
        ("tracking", "wheel"),
    ],
)
def test_a_refusal_is_one_sentence_and_leaves_nothing_behind(
    key: str, value: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    value = value.replace("ABSOLUTE", str(tmp_path / "lab"))
    answers = {"project_name": "Lab", "python_package": "lab", "repo_name": "lab", key: value}
    (tmp_path / "out").mkdir()

    with pytest.raises(CookiecutterException, match="exit status: 1"):
        make(tmp_path / "out", answers)

    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]
    (printed,) = capfd.readouterr().err.splitlines()
    assert printed.startswith("Refused: ")
    assert_one_sentence(printed, key, re.sub(r"\{% \w+ %\}", "", value))


@pytest.mark.parametrize(
    "answers",
    [
        {"project_name": "{{ 7 * 7 }}"},
        {"project_name": "{{ nope }}"},
        {"project_name": "{% if %}"},
        {"project_name": "{# Lab #}"},
        {"experiment": "{{ cookiecutter.update({'repo_name': '../x'}) }}"},
        {"experiment": True},
        {"experiment": {"a": 1}},
        {"repo_name": None},
        {"repo_name": True},
        {"repo_name": {"a": 1}},
    ],
)
def test_no_project_is_made_of_what_cookiecutter_renders_or_takes_for_no_text(
    answers: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()

    with pytest.raises((CookiecutterException, TemplateError)):
        make(tmp_path / "out", {"project_name": "Lab", **answers})

    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]
