"""``adopt --from-kedro-viz``: the datasets of Kedro-Viz's experiment tracking become ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .conversion import convert_entries
from .entries import Edits, Entry
from .plan import Plan
from .project import Project

# As kedro-datasets (to 6.0) and kedro.extras.datasets call them.
TRACKING = re.compile(
    r"(?P<start>(?:kedro_datasets\.|kedro\.extras\.datasets\.)?)tracking\.(?:\w+_dataset\.)?"
    r"(?P<kind>Metrics|JSON)Data[sS]et"
)
OF_FILES = ("filepath", "versioned", "version", "load_args", "save_args", "fs_args", "credentials")
NUMBERS = (int, float, bool)


@dataclass(frozen=True)
class Saved:
    """What a dataset has saved in one Kedro run."""

    dataset: str
    version: str  # 2024-01-31T12.30.00.000Z
    path: Path


def convert(plan: Plan) -> None:
    """All entries; what they have saved is kept where it is, and remembered for the import."""
    convert_entries(plan, partial(_convert_entry, plan))
    settings = f"{plan.project.package}/settings.py"
    if "SQLiteStore" in (plan.project.text(settings) or ""):
        plan.remark(f"{settings}: Kedro-Viz's session store has no counterpart: take it out.")


def _convert_entry(plan: Plan, entry: Entry, edits: Edits, ours: str) -> Iterator[str]:
    if not (found := TRACKING.fullmatch(entry.type)):
        return
    saved = [*saved_by(plan.project, entry)]
    plan.history += saved
    if "://" in str(entry.value("filepath")):
        yield f"{entry.name}: what it has saved is not in the project, and can't be imported"
    if found["kind"] == "Metrics" or (saved and all(map(_is_of_numbers, saved))):
        if not edits.change(entry, ours, OF_FILES):
            yield f"{entry.name} is written in braces with comments: change it by hand"
        return
    versioned = {} if entry.value("versioned") is not None else {"versioned": "true"}
    edits.change(entry, f"{found['start']}json.JSONDataset", add=versioned)
    yield (
        f"{entry.name} may hold more than numbers, which MLflow does not take for metrics: it goes"
        f" on writing files, as a json.JSONDataset. If it holds numbers: type: {ours}"
    )


def saved_by(project: Project, entry: Entry) -> Iterator[Saved]:
    """The files of an entry, of all versions: ``FILEPATH/VERSION/NAME``."""
    template = str(entry.value("filepath") or "")
    pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+)", re.escape(template))
    for path in sorted(project.path.glob(re.sub(r"\{\w+\}", "*", template) + "/*/*")):
        place = path.parents[1].relative_to(project.path).as_posix()
        if path.name == path.parents[1].name and (found := re.fullmatch(pattern, place)):
            yield Saved(entry.name.format(**found.groupdict()), path.parent.name, path)


def _is_of_numbers(saved: Saved) -> bool:
    content = json.loads(saved.path.read_text(encoding="utf-8"))
    return isinstance(content, dict) and all(isinstance(v, NUMBERS) for v in _leaves(content))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value
