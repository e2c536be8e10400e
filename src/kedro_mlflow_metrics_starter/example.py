"""``adopt --example``: the example pipeline, its parameters, entries and tests."""

from __future__ import annotations

import ast
import re

import yaml

from . import template
from .plan import Plan
from .refusal import Refusal
from .source import strings_in

PIPELINE = "training"
TESTS = f"tests/pipelines/{PIPELINE}"
PARAMETERS = f"parameters_{PIPELINE}.yml"  # as `kedro pipeline create` calls its file


def add(plan: Plan) -> str:
    """Add what is not in the catalog; returns the entries that belong there.

    Raises:
        Refusal: The project uses a name that the example needs.
    """
    project = plan.project
    source, folder = template.PACKAGE / "pipelines" / PIPELINE, f"{project.package}/pipelines"
    files = template.files_in(source)
    if project.text(f"{folder}/{PIPELINE}/__init__.py") == files["__init__.py"].decode():
        return ""
    entries = str(template.wiring().EXAMPLE_ENTRIES)
    parameters = (template.PROJECT / "conf/base" / PARAMETERS).read_text(encoding="utf-8")
    _check(plan, {*yaml.safe_load(entries), *yaml.safe_load(parameters), *_names(files)})
    if project.read(f"{folder}/__init__.py") is None:
        plan.add({f"{folder}/__init__.py": (source.parent / "__init__.py").read_bytes()})
    plan.add({f"{project.base}/{PARAMETERS}": parameters.encode()})
    plan.add({f"{folder}/{PIPELINE}/{name}": text for name, text in files.items()})
    plan.add(_tests(project.conf))
    registry = project.text(f"{project.package}/pipeline_registry.py") or ""
    if "find_pipelines" not in registry:
        plan.remark(f"Add the pipeline {PIPELINE!r} to {project.package}/pipeline_registry.py.")
    return entries


def _names(files: dict[str, bytes]) -> set[str]:
    """The names of nodes and datasets in the pipeline."""
    tree = ast.parse(files["pipeline.py"])
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    texts = [
        constant.value
        for call in calls
        for keyword in call.keywords
        for constant in ast.walk(keyword.value)
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
    ]
    return {text for text in texts if ":" not in text}


def _check(plan: Plan, names: set[str]) -> None:
    """Refuse names that are taken: no two nodes may have one name, or write one dataset."""
    project = plan.project
    folder = f"{project.package}/pipelines/{PIPELINE}"
    for name in (folder, TESTS, f"{project.base}/{PARAMETERS}"):
        if (project.path / name).exists():
            raise Refusal(f"The example needs {name}, which is there; adopt without --example.")
    for file, text in project.sources.items():
        if taken := sorted(names & strings_in(text)):
            raise Refusal(
                f"The example needs {taken[0]!r}, which {file} uses; adopt without --example."
            )
    for file in project.configs(project.base):
        is_ours = re.search(
            r"/(catalog|parameters)", file
        )  # by Kedro's patterns, or in such a folder
        content = plan.yaml(file) if is_ours else None
        if taken := sorted(names.intersection(content if isinstance(content, dict) else ())):
            raise Refusal(
                f"The example needs {taken[0]!r}, which {file} has; adopt without --example."
            )


def _tests(conf: str) -> dict[str, bytes]:
    """The tests of the example, with the fixtures that they need beside them."""
    fixtures = (template.PROJECT / "tests/conftest.py").read_text(encoding="utf-8")
    depth = len(TESTS.split("/"))
    fixtures = fixtures.replace("parents[1]", f"parents[{depth}]")
    fixtures = fixtures.replace('PROJECT / "conf"', f'PROJECT / "{conf}"')
    tests = template.files_in(template.PROJECT / TESTS)
    files = {"conftest.py": fixtures.encode(), **tests}
    return {f"{TESTS}/{name}": text for name, text in files.items()}
