"""The project's own ruff, mypy and coverage are for its own code: they leave ours out."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import tomlkit
from tomlkit.items import Array, Table

from . import templates, tomlfile
from .plan import Plan
from .project import PYPROJECT


def leave_out(plan: Plan) -> None:
    """Leave ``tracking/`` and templates out where the tools are configured in the project."""
    tools = plan.project.pyproject.get("tool", {})
    folder, module = f"{plan.project.package}/tracking", f"{plan.project.name}.tracking.*"
    names = [templates.OF_PIPELINES] if plan.as_package else [folder, templates.OF_PIPELINES]
    if "ruff" in tools:
        line = f"[tool.ruff] extend-exclude = {json.dumps(names)}"
        _change(plan, line, partial(_exclude, names=names))
    # Within braces and beside keys with dots there is no place for a table below a header.
    if "coverage" in tools and not plan.as_package:
        line = f'[tool.coverage.run] omit = ["{folder}/*"]'
        omit = partial(_omit, pattern=f"{folder}/*")
        _change(
            plan, line, partial(omit, new=tomlkit.table), partial(omit, new=tomlkit.inline_table)
        )
    if "mypy" in tools and not plan.as_package:
        line = f'[tool.mypy] overrides = [{{module = "{module}", ignore_errors = true}}]'
        ignore = partial(_ignore, module=module)
        _change(plan, line, partial(ignore, new=tomlkit.aot), partial(ignore, new=tomlkit.array))


def _change(plan: Plan, line: str, *changes: tomlfile.Change) -> None:
    """Change ``pyproject.toml``, or say what its owner is to add."""

    def change(text: str) -> str:
        after = tomlfile.edited(text, *changes)
        if after is None:
            plan.remark(
                f"{PYPROJECT} is written in a way that this command can't add to; add yourself:"
                f" {line}"
            )
        return text if after is None else after

    plan.edit(PYPROJECT, change)


def _exclude(data: Any, names: list[str]) -> None:
    _append_new(data["tool"]["ruff"], "extend-exclude", names)


def _omit(data: Any, pattern: str, new: Callable[[], Any]) -> None:
    coverage = data["tool"]["coverage"]
    is_new = "run" not in coverage
    if is_new:
        coverage["run"] = new()
    run = coverage["run"]
    _append_new(run, "omit", [pattern])
    if is_new and isinstance(run, Table):
        run.add(tomlkit.nl())


def _ignore(data: Any, module: str, new: Callable[[], Any]) -> None:
    mypy = data["tool"]["mypy"]
    if "overrides" not in mypy:
        mypy["overrides"] = new()
    if module in str(mypy["overrides"]):
        return
    override: Any = tomlkit.inline_table() if isinstance(mypy["overrides"], Array) else {}
    override.update({"module": module, "ignore_errors": True})
    tomlfile.append(mypy, "overrides", override)


def _append_new(table: Any, key: str, values: list[str]) -> None:
    there = table.get(key, [])
    if missing := [value for value in values if value not in there]:
        tomlfile.append(table, key, *missing)
