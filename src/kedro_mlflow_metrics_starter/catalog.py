"""The catalog of a project that adopts: the entries that it has not."""

from __future__ import annotations

import re
from collections.abc import Iterable

import yaml

from . import template
from .conversion import catalogs, is_catalog
from .plan import Plan
from .project import Project
from .refusal import Refusal
from .source import strings_in

# What code may write before `_metrics`, or nothing.
IN_CODE = r"(?:[\w.]|\{[^{}]*\}|%(?:\(\w+\))?[sd])*"


def add_entries(plan: Plan, entries: str) -> None:
    """Those of the entries that the project's catalog has not; the pattern, where it is safe."""
    project = plan.project
    main = f"{project.base}/catalog.yml"
    if not is_catalog(project, main):
        raise Refusal(
            f"Kedro finds the project's catalogs by {str(project.catalog_patterns)[1:-1]}, and so"
            f" not {main}, where the metrics datasets belong; add 'catalog*' to these patterns in"
            " settings.py."
        )
    files = list(dict.fromkeys([*catalogs(project, project.base), main]))
    taken = {name for file in files if file != main for name in _entries_of(plan, file)}
    in_main = _entries_of(plan, main)
    parts = []
    named = template.wiring().named(entries, plan.tracking)
    for part in named.strip("\n").split("\n\n"):
        (name,) = yaml.safe_load(part)
        if name in taken:
            continue
        reason = None if name in in_main else _against(plan, name, {*taken, *in_main})
        if reason:
            plan.remark(f"{name!r} was not added to the catalog: {reason}.")
            continue
        parts.append(part)
    if parts:
        add = template.wiring().add_entries
        try:
            plan.edit(main, lambda text: add(text, "\n\n".join(parts) + "\n"))
        except ValueError as error:
            raise Refusal(f"{project.base}/{error}") from None


def _against(plan: Plan, name: str, entries: Iterable[str]) -> str | None:
    """Why an entry would take datasets of the project's own, if it would."""
    for file in catalogs(plan.project) if "{" in name else ():
        for other in _entries_of(plan, file):
            if _shape(other) == _shape(name):
                return f"{file} has {other!r}, which is for the same names"
    if used := _named_in_code(plan.project, name, entries):
        return f"the code names {', '.join(used)}, which it would make metrics"
    return None


def _shape(name: str) -> str:
    """A pattern without the names of its placeholders.

    Of two that are alike Kedro takes the one that is first in the alphabet.
    """
    return re.sub(r"\{.*?\}", "{}", name)


def _entries_of(plan: Plan, file: str) -> list[str]:
    content = plan.yaml(file) or {}
    if not isinstance(content, dict):
        raise Refusal(f"{file} is not a mapping of names to datasets; correct it.")
    return [str(name) for name in content]


def _named_in_code(project: Project, name: str, entries: Iterable[str]) -> list[str]:
    """The names in the project's code that an entry would be for, and that have none.

    Also those that are put together: ``f"{model}_metrics"``, ``"{}_metrics".format(model)``.
    """
    pattern = re.escape(name).replace(r"\{name\}", IN_CODE) + r"(@\w+)?"
    names = {name for text in project.sources.values() for name in strings_in(text)}
    found = {name for name in names if re.fullmatch(pattern, name)} - set(entries)
    return sorted(f"…{name}" if name.startswith("_metrics") else name for name in found)
