"""``adopt --from-kedro-viz``: the datasets of Kedro-Viz's experiment tracking become ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from .conversion import convert_entries
from .entries import Edits, Entry
from .plan import Plan
from .project import Project
from .refusal import Refusal

# As kedro-datasets (to 6.0) and kedro.extras.datasets call them.
TRACKING = re.compile(
    r"(?P<start>(?:kedro_datasets\.|kedro\.extras\.datasets\.)?)tracking\.(?:\w+_dataset\.)?"
    r"(?P<kind>Metrics|JSON)Data[sS]et"
)
OF_FILES = ("filepath", "versioned", "version", "load_args", "save_args", "fs_args", "credentials")
PLACEHOLDER = r"\{(\w+)\}"  # of a dataset factory
NUMBERS = (int, float, bool)


@dataclass(frozen=True)
class Saved:
    """What a dataset has saved in one Kedro run."""

    dataset: str
    version: str  # 2024-01-31T12.30.00.000Z
    path: Path

    def content(self) -> Any:
        """What is in its file.

        Raises:
            Refusal: It is not JSON.
        """
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise Refusal(f"{self.path} is not JSON ({error}); correct or delete it.") from None


def convert(plan: Plan) -> None:
    """All entries; what they have saved is kept where it is, and remembered for the import."""
    convert_entries(plan, partial(_convert_entry, plan))
    settings = f"{plan.project.package}/settings.py"
    if "SQLiteStore" in (plan.project.text(settings) or ""):
        plan.remark(f"{settings}: Kedro-Viz's session store has no counterpart: take it out.")


_BRACES = "{} is written in braces with comments: change it by hand"


def _convert_entry(plan: Plan, entry: Entry, edits: Edits, ours: str) -> Iterator[str]:
    if not (found := TRACKING.fullmatch(entry.type)):
        return
    filepath = str(entry.value("filepath") or "")
    saved = []
    if is_in_project(filepath):
        saved = [*saved_by(plan.project, entry.name, filepath)]
        plan.history += saved
    else:
        yield f"{entry.name}: what it has saved is not found by {filepath!r}, and not imported"
    if found["kind"] == "Metrics" or (saved and all(map(is_of_numbers, saved))):
        if not edits.change(entry, ours, OF_FILES):
            yield _BRACES.format(entry.name)
        return
    versioned = {} if entry.value("versioned") is not None else {"versioned": True}
    if not edits.change(entry, f"{found['start']}json.JSONDataset", add=versioned):
        yield _BRACES.format(entry.name)
    yield (
        f"{entry.name} may hold more than numbers, which MLflow does not take for metrics: it goes"
        f" on writing files, as a json.JSONDataset. If it holds numbers: type: {ours}"
    )


def is_in_project(filepath: str) -> bool:
    """Whether a dataset's files can be found: by a path in the project, written out."""
    is_path = filepath and "://" not in filepath and "${" not in filepath
    path = PurePosixPath(filepath)
    return bool(is_path) and not path.is_absolute() and ".." not in path.parts


def saved_by(project: Project, name: str, filepath: str) -> Iterator[Saved]:
    """The files of an entry, of all versions: ``FILEPATH/VERSION/NAME``."""
    names = list(dict.fromkeys(re.findall(PLACEHOLDER, filepath)))
    pattern = re.escape(filepath)
    for number, placeholder in enumerate(names):  # a second time it is the same text
        escaped = re.escape("{" + placeholder + "}")
        pattern = pattern.replace(escaped, f"(?P<_{number}>.+)", 1)
        pattern = pattern.replace(escaped, f"(?P=_{number})")
    for path in sorted(project.path.glob(re.sub(PLACEHOLDER, "*", filepath) + "/*/*")):
        place = path.parents[1].relative_to(project.path).as_posix()
        if path.name == path.parents[1].name and (found := re.fullmatch(pattern, place)):
            dataset = name
            for placeholder, value in zip(names, found.groups(), strict=True):
                dataset = dataset.replace("{" + placeholder + "}", value)
            yield Saved(dataset, path.parent.name, path)


def is_metric(value: object) -> bool:
    """Whether a value in a file is one that MLflow takes: a number, or a list of numbers."""
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(isinstance(inner, NUMBERS) for inner in values)


def is_of_numbers(saved: Saved) -> bool:
    """Whether all in a file is of metrics."""
    content = saved.content()
    return isinstance(content, dict) and _are_metrics(content)


def _are_metrics(content: Mapping[str, Any]) -> bool:
    values = content.values()
    return bool(content) and all(
        _are_metrics(value) if isinstance(value, dict) else is_metric(value) for value in values
    )
