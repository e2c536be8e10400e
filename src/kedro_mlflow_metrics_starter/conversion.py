"""What the conversions from other plugins share: the entries of all environments' catalogs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from .entries import Edits, Entry, entries_of
from .plan import Plan
from .project import Project
from .refusal import reading_yaml

# Changes an entry that is to be changed, to our type; yields remarks.
Convert = Callable[[Entry, Edits, str], Iterator[str]]


def catalogs(project: Project, folder: str = "") -> list[str]:
    """The files of the catalogs in a folder of the configuration, as Kedro looks for them."""
    folder = folder or project.conf
    return [name for name in sorted(project.configs(folder)) if is_catalog(project, name)]


def is_catalog(project: Project, name: str) -> bool:
    """Whether Kedro takes a file of the configuration for a catalog."""
    return any(
        re.search(f"/{_as_regex(pattern.removeprefix('**/'))}$", name)
        for pattern in project.catalog_patterns
    )


def _as_regex(pattern: str) -> str:
    parts = re.split(r"(\*\*|\*)", pattern)
    return "".join({"**": ".*", "*": "[^/]*"}.get(part) or re.escape(part) for part in parts)


def convert_entries(plan: Plan, convert: Convert) -> None:
    """Convert all entries of all environments."""
    ours = f"{plan.tracking}.MlflowMetricsDataset"
    for name in catalogs(plan.project):
        text = plan.text(name) or ""
        edits = Edits(text)
        with reading_yaml(name):
            entries = [*entries_of(text)]
        for entry in entries:
            for remark in convert(entry, edits, ours):
                plan.remark(f"{name}: {remark}.")
        if edits.made and name.endswith(".json"):
            plan.remark(f"{name} is JSON, which is left as it is: change its entries by hand.")
            continue
        changed = edits.result()
        if changed is None:
            plan.remark(
                f"{name} is written in a way that this command can't change, as where an alias (*a)"
                " needs what would go: it is left as it is; change its entries by hand."
            )
            continue
        plan.edit(name, lambda _, new=changed: new)  # type: ignore[misc]
