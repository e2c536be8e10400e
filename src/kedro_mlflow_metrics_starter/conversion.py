"""What the conversions from other plugins share: the entries of all environments' catalogs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import yaml

from .entries import Edits, Entry, entries_of
from .plan import Plan
from .project import Project
from .refusal import Refusal

# Changes an entry that is to be changed, to our type; yields remarks.
Convert = Callable[[Entry, Edits, str], Iterator[str]]


def catalogs(project: Project, folder: str = "") -> list[str]:
    """The files of the catalogs in a folder of the configuration, as Kedro looks for them."""
    folder = folder or project.conf
    files = [*project.files(folder, "*.yml"), *project.files(folder, "*.yaml")]
    return [name for name in sorted(files) if re.search(r"/catalog[^/]*(/|$)", name)]


def convert_entries(plan: Plan, convert: Convert) -> None:
    """Convert all entries of all environments."""
    ours = f"{plan.project.name}.tracking.MlflowMetricsDataset"
    for name in catalogs(plan.project):
        text = plan.text(name) or ""
        edits = Edits(text)
        try:
            entries = [*entries_of(text)]
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise Refusal(f"{name} is not YAML ({reason}); correct it.") from None
        for entry in entries:
            for remark in convert(entry, edits, ours):
                plan.remark(f"{name}: {remark}.")
        changed = edits.result()
        plan.edit(name, lambda _, new=changed: new)  # type: ignore[misc]
