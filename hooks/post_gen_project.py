"""Wires a project: the hook into ``settings.py``, the metrics datasets into ``catalog.yml``.

Cookiecutter renders this file and runs the copy in the new project's folder. The work is done by
pure functions, text in and text out: they find the place by parsing, leave all else as it is,
and change nothing the second time.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

# The answers as JSON, in which Jinja's tojson has escaped every single quote: nothing can leave
# this string.
ANSWERS = r'{{ cookiecutter.__answers }}'  # fmt: skip

HOOK = "MlflowPipelineHook"

METRICS_ENTRIES = """\
# What a node returns under this name, a dict of numbers, goes to MLflow. There its keys begin
# with the name: my_model_metrics.accuracy
my_model_metrics:
  type: PACKAGE.tracking.MlflowMetricsDataset

# The same with a prefix of your own choice: baseline.accuracy
my_baseline_metrics:
  type: PACKAGE.tracking.MlflowMetricsDataset
  prefix: baseline

# A dataset factory: any other name that ends in _metrics is a metrics dataset, too.
"{name}_metrics":
  type: PACKAGE.tracking.MlflowMetricsDataset
"""

# Of the example, whose metrics they name; the first takes the place of the one above.
EXAMPLE_ENTRIES = """\
# What a node returns under this name, a dict of numbers, goes to MLflow. There its keys begin
# with the name: my_model_metrics.accuracy. What its metrics mean may be said: which is better, and
# the limits for `kedro metrics check`.
my_model_metrics:
  type: PACKAGE.tracking.MlflowMetricsDataset
  metrics:
    accuracy: {greater_is_better: true, threshold: 0.9, max_regression: 0.01}
    loss: {greater_is_better: false}

training_metrics:
  type: PACKAGE.tracking.MlflowMetricsDataset
  metrics:
    accuracy: {greater_is_better: true}
    loss: {greater_is_better: false}
"""

EXAMPLE_ONLY = (
    "src/PACKAGE/pipelines/training",
    "tests/pipelines",
    "conf/base/parameters_training.yml",
)
# tracking/ in the wheel, and what a project requires that does not bundle it.
MODULE, DISTRIBUTION = "kedro_mlflow_metrics", "kedro-mlflow-metrics"
# What DaskRunner needs.
DASK = "distributed>=2024.8"
NULL = "tag:yaml.org,2002:null"


def main(project: Path = Path()) -> None:
    """Wire the project in this folder, as answered."""
    answers = json.loads(ANSWERS)
    package = answers["python_package"]
    has_example = answers["__example"] == "yes"
    for cache in [*project.rglob("__pycache__")]:  # of a template that pip has installed
        shutil.rmtree(cache)
    tracking = MODULE if answers["tracking"] == "package" else f"{package}.tracking"
    entries = (EXAMPLE_ENTRIES + "\n" if has_example else "") + METRICS_ENTRIES
    wire(project, package, tracking, entries)
    if not has_example:
        for path in EXAMPLE_ONLY:
            remove(project / path.replace("PACKAGE", package))
        for file in ("requirements.txt", "pyproject.toml"):
            edit(project / file, lambda text: drop(text, "scikit-learn>=", "\n"))
        edit(project / "pyproject.toml", lambda text: drop(text, "sklearn.*", "\n\n"))
    if answers["ci"] == "none":
        remove(project / ".github")
    bundled = (project / "src" / package / "tracking/__init__.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'^__version__ = "(.*)"$', bundled, re.MULTILINE)
    edit(project / "pyproject.toml", lambda text: text.replace("STARTER_VERSION", version))
    fill_in(project, package, tracking)
    if answers["distributed"] == "dask":
        require(project, DASK)
    if tracking == MODULE:
        require(project, required(version))
        remove(project / "src" / package / "tracking")
        edit(project / "pyproject.toml", without_checks)


def fill_in(project: Path, package: str, tracking: str) -> None:
    """Write the name of the module that tracks where Cookiecutter does not render."""
    files = ["templates/pipeline/cookiecutter.json", "templates/airflow/dag.py.j2"]
    for file in [*files, f"src/{package}/cli.py"]:
        edit(project / file, lambda text: named(text, tracking))


def named(text: str, tracking: str) -> str:
    """A text of the template with the name of the module that tracks."""
    text = text.replace("PACKAGE.tracking", tracking)
    if tracking != MODULE:
        return text
    return text.replace("\nfrom .tracking", f"from {tracking}")  # among the imports from elsewhere


def without_checks(text: str) -> str:
    """The text of the template's ``pyproject.toml`` without what is for ``tracking/`` alone."""
    text = drop(text, "src/*/tracking", "\n")
    text = drop(text, ".tracking.*", "\n\n")
    text = text.replace('"D1", ', "").replace('"PL", ', "")
    return re.sub(r"^ignore = \[\n( .*\n)*\]\n", "", text, count=1, flags=re.MULTILINE)


def required(version: str) -> str:
    """What a project that does not bundle this version requires: it, or a later one like it."""
    return f"{DISTRIBUTION}~={version.rpartition('.')[0]}"


def require(project: Path, dependency: str) -> None:
    """Add a dependency, the last, to both lists of the template's."""
    edit(project / "requirements.txt", lambda text: f"{text}{dependency}\n")
    end = '\n]\ndynamic = ["version"]\n'
    with_it = f'\n  "{dependency}",{end}'
    edit(project / "pyproject.toml", lambda text: text.replace(end, with_it, 1))


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def wire(project: Path, package: str, tracking: str, entries: str = METRICS_ENTRIES) -> None:
    """Register the hook and add the metrics datasets; in a wired project, do nothing."""
    entries = named(entries, tracking)
    edit(project / "src" / package / "settings.py", lambda text: register_hook(text, tracking))
    edit(project / "conf/base/catalog.yml", lambda text: add_entries(text, entries))


def edit(path: Path, change: Callable[[str], str]) -> None:
    """Change a file's text, if there is something to change, and keep its line ends."""
    text = path.read_bytes().decode("utf-8-sig")
    newline = "\r\n" if "\r\n" in text else "\n"
    before = text.replace("\r\n", "\n")
    after = change(before)
    if after != before:
        path.write_bytes(after.replace("\n", newline).encode("utf-8"))


def register_hook(text: str, tracking: str) -> str:
    """The text of ``settings.py`` with ``MlflowPipelineHook()`` last among its ``HOOKS``."""
    nodes = [*ast.walk(ast.parse(text))]
    aliases = [node for node in nodes if isinstance(node, ast.alias) and node.name == HOOK]
    names = {HOOK, *(alias.asname or HOOK for alias in aliases)}
    if any(getattr(n, "id", "") in names or getattr(n, "attr", "") == HOOK for n in nodes):
        return text
    text = extend_setting(text, "HOOKS", f"{HOOK}()")
    return _add_import(text, f"from {tracking} import {HOOK}")


def extend_setting(text: str, name: str, item: str) -> str:
    """The text of ``settings.py`` with one item more, the last, in this tuple or list."""
    tree = ast.parse(text)
    end = text.count("\n") + 1
    if changes := [*_changes(tree, name)]:
        is_set = any(_always_sets(statement, name) for statement in changes)
        others = name if is_set else f'globals().get("{name}", ())'
        # An import of all that is elsewhere stands among others, which this is not to part.
        line = end if _has_star(changes[-1]) else changes[-1].lineno
        return _insert(text, line, f"{name} = (*{others}, {item})")
    # below Kedro's own example of it, which is a comment, or at the end
    example = re.search(rf"^# *{name} *=.*(\n#.*)*", text, re.MULTILINE)
    line = text.count("\n", 0, example.end()) + 1 if example else end
    return _insert(text, line, f"{name} = ({item},)")


def _changes(tree: ast.Module, name: str) -> Iterator[ast.stmt]:
    """The statements that may change what this name stands for: each that sets or uses it.

    ``HOOKS.append(...)`` fails below a tuple. The list may have other names, and be changed by
    functions.
    """
    names = {name}
    while others := {other for node in tree.body for other in _others(node, names)} - names:
        names |= others
    for statement in tree.body:
        if _sets(statement, name) or _uses(statement, names) or _has_star(statement):
            yield statement


def _others(statement: ast.stmt, names: set[str]) -> Iterator[str]:
    """What is set to one of these names, or what is made of it; functions that use one."""
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if _uses(node, names):
                yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            same = {part.id for part in [*targets, node.value] if isinstance(part, ast.Name)}
            if same & names or (node.value and _uses(node.value, names)):
                yield from same


def _uses(code: ast.AST, names: set[str]) -> bool:
    """Whether code reads one of these names, or has it in ``global``, in a string, after a dot."""
    return any(
        (isinstance(node, ast.Name) and node.id in names and not isinstance(node.ctx, ast.Store))
        or (isinstance(node, ast.Global) and not names.isdisjoint(node.names))
        or (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.Constant) and node.value in names)
        for node in ast.walk(code)
    )


def _has_star(statement: ast.stmt) -> bool:
    """Whether ``from ... import *`` is in a statement: nobody sees what that sets."""
    return any(isinstance(node, ast.alias) and node.name == "*" for node in ast.walk(statement))


def _sets(statement: ast.stmt, name: str) -> bool:
    """Whether a statement sets this name in any way: ``=``, ``+=``, ``import``, below ``if``."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    return any(
        (isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store))
        or (isinstance(node, ast.alias) and name == (node.asname or node.name))
        for node in ast.walk(statement)
    )


def _always_sets(node: ast.stmt, name: str) -> bool:
    """Whether a statement sets this name whatever the conditions in it are."""
    if isinstance(node, ast.If):
        blocks = [node.body, node.orelse]
    elif isinstance(node, ast.Try):
        blocks = [node.body, *(handler.body for handler in node.handlers)]
    else:
        has_no_value = isinstance(node, ast.AnnAssign) and node.value is None
        # Loops; `match`; and `with`: suppress(ImportError), say.
        may_not = hasattr(node, "body") or isinstance(node, ast.Match)
        return _sets(node, name) and not has_no_value and not may_not
    return all(any(_always_sets(inner, name) for inner in block) for block in blocks)


def _add_import(text: str, statement: str) -> str:
    """Below the docstring and the imports at the top."""
    name = statement.rpartition(" ")[2]
    head = list(itertools.takewhile(_is_head, ast.parse(text).body))
    imports = [node for node in head if isinstance(node, ast.ImportFrom)]
    if any((alias.asname or alias.name) == name for node in imports for alias in node.names):
        return text
    gap = "\n" if head and isinstance(head[-1], ast.Expr) else ""
    return _insert(text, head[-1].lineno if head else 0, gap + statement)


def add_command(text: str, tracking: str = ".tracking") -> str | None:
    """The text of a project's own ``cli.py`` with ``kedro metrics`` among its commands.

    None if it can't be: its ``cli`` is not seen to be a group of click's, or something of its own
    is called ``metrics``.
    """
    tree = ast.parse(text)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    if any((node.module or "").endswith(("tracking.cli", f"{MODULE}.cli")) for node in imports):
        return text
    groups = [node for node in tree.body if _defines(node, "cli")]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [a.value for call in calls for a in call.args if isinstance(a, ast.Constant)]
    named += [k.value.value for c in calls for k in c.keywords if isinstance(k.value, ast.Constant)]
    is_taken = "metrics" in named or any(_defines(node, "metrics") for node in tree.body)
    if is_taken or not groups or not _is_group(groups[-1]):
        return None
    text = _insert(text, groups[-1].end_lineno or 0, "\n\ncli.add_command(metrics)")
    return _add_import(text, f"from {tracking}.cli import metrics")


def _defines(node: ast.stmt, name: str) -> bool:
    return getattr(node, "name", "") == name or _sets(node, name)


def _is_group(node: ast.stmt) -> bool:
    """Whether this makes a group, ``@click.group()`` or ``click.Group()``, that takes groups."""
    made = node.decorator_list if isinstance(node, ast.FunctionDef) else []
    if isinstance(node, ast.Assign):
        made = [node.value]
    for maker in made:
        call = maker.func if isinstance(maker, ast.Call) else maker
        name = getattr(call, "attr", getattr(call, "id", ""))
        options = maker.keywords if isinstance(maker, ast.Call) else []
        if name.lower().endswith("group"):
            return "chain" not in [option.arg for option in options]
    return False


def _is_head(node: ast.stmt) -> bool:
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return docstring or isinstance(node, ast.Import | ast.ImportFrom)


def _insert(text: str, line: int, code: str) -> str:
    """The text with code below this line, and below the end of all that begins above or on it."""
    begun = [node for node in ast.parse(text).body if node.lineno <= line]
    line = max([line, *(node.end_lineno or 0 for node in begun)])
    lines = text.removesuffix("\n").split("\n") if text else []  # splitlines() splits at more
    return "\n".join([*lines[:line], code, *lines[line:], ""])


def add_entries(text: str, entries: str) -> str:
    """The text of ``catalog.yml`` with those of the entries that it does not have yet.

    Args:
        text: The catalog.
        entries: Entries as they shall stand there, a blank line between two.

    Raises:
        ValueError: The catalog is not a block mapping.
    """
    root = yaml.compose(text)
    old, column = [], 0
    if isinstance(root, yaml.MappingNode) and not root.flow_style:
        old, column = [key.value for key, _ in root.value], root.start_mark.column
    elif root is None or (root.tag == NULL and not root.value):  # the latter below a ---
        pass
    else:
        raise ValueError(
            "catalog.yml is not a mapping of one dataset below the other; write it so, try again."
        )
    new = []
    for entry in entries.strip("\n").split("\n\n"):
        names = list(yaml.safe_load(entry))
        if not any(name in old for name in names):
            new.append(entry)
            old += names
    if not new:
        return text
    end = root.end_mark.index if root else len(text)
    indent = " " * column
    added = textwrap.indent("\n\n".join(new) + "\n", indent)
    before = text[:end].rstrip("\n")
    return (before + "\n\n" if before else "") + added + text[end:]


def drop(text: str, word: str, between: str) -> str:
    """The text without those of its parts that have the word; ``between`` separates them.

    The word is one that no answer can have.
    """
    parts = text.rstrip("\n").split(between)
    return between.join(part for part in parts if word not in part) + "\n"


if __name__ == "__main__":
    main()
