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
    names = sorted(project.configs(folder))
    return [name for name in names if re.search(r"/catalog[^/]*(/|$)", name)]


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
        plan.edit(name, lambda _, new=changed: new)  # type: ignore[misc]
