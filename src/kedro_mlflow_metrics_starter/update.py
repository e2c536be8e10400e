"""``update``: this version of ``tracking/`` for a project that has an earlier one."""

from __future__ import annotations

import ast
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch

from merge3 import Merge3
from packaging.version import Version

from . import template, versions
from .adopt import OURS, add_dependencies
from .plan import Plan
from .project import Project
from .refusal import Refusal


@dataclass(frozen=True)
class Choices:
    """What was said of files that can't be merged: their names, or patterns of them."""

    take: Sequence[str] = ()
    keep: Sequence[str] = ()


@dataclass
class Update:
    """What is to be written, and the files that can't be merged, which are left."""

    plan: Plan
    before: Version
    clashes: list[str] = field(default_factory=list)


def plan_update(project: Project, choices: Choices) -> Update:
    """The files of ``tracking/`` in this version, merged with what their owner has changed.

    Raises:
        Refusal: There is no ``tracking/`` of ours, or a newer one.
    """
    folder = f"{project.package}/tracking"
    said, before = _version(project, folder)
    update = Update(Plan(project), before)
    if said == versions.this_version():
        return update
    old = versions.texts_of(said)
    new = {name: text.decode() for name, text in template.files_in(template.TRACKING).items()}
    # The file that says the version is the last to be written.
    for name in sorted(new, key=lambda name: (name == "__init__.py", name)):
        _add(update, f"{folder}/{name}", old.get(name), new[name], choices)
    _check_choices(choices, [f"{folder}/{name}" for name in new], folder)
    for name in sorted(old.keys() - new.keys()):
        if project.read(f"{folder}/{name}") is not None:
            update.plan.remark(f"{folder}/{name} is no longer a part of it: delete it.")
    add_dependencies(update.plan, with_example=False)
    return update


def check(update: Update) -> None:
    """Refuse an update that would leave files as they are without its owner's word."""
    if clashes := update.clashes:
        names, verb = (", ".join(clashes), "were") if clashes[1:] else (clashes[0], "was")
        is_kept = versions.texts_of(str(update.before))
        reason = (
            f"{names} {verb} changed where {versions.this_version()} changes, too"
            if is_kept
            else f"The text of {update.before} is not at hand, to tell what was changed in {names}"
        )
        raise Refusal(
            f"{reason}; name each with --take FILE for the new text or with --keep FILE for yours."
        )


def _version(project: Project, folder: str) -> tuple[str, Version]:
    text = project.text(f"{folder}/__init__.py") or ""
    said = versions.version_in(text)
    version = versions.parsed(said)
    if project.imports(template.wiring().MODULE):
        raise Refusal(
            f"The project has tracking as a package: upgrade {template.wiring().DISTRIBUTION} where"
            " it is installed."
        )
    if not text.lstrip("\"'").startswith(OURS) or said is None or version is None:
        raise Refusal(f"The project has no {folder} of this starter; adopt it first.")
    if version > Version(versions.this_version()):
        raise Refusal(
            f"The project has {said}, and this command {versions.this_version()}; take a newer one."
        )
    return said, version


def _add(update: Update, name: str, old: str | None, new: str, choices: Choices) -> None:
    plan = update.plan
    text = plan.text(name)
    if new in (text, old):
        return
    result = new
    is_changed = text != old  # both None: a file that is new
    if is_changed and _is_among(name, choices.keep):
        plan.remark(f"{name} is left as it is.")
        return
    if is_changed and not _is_among(name, choices.take):
        both = merged(old, text, new)
        if both is None:
            update.clashes.append(name)
            return
        result = both
        plan.remark(f"{name} has your changes and the new ones.")
    if text is None:
        plan.add({name: result.encode()})
    else:
        plan.edit(name, lambda _: result)


def _check_choices(choices: Choices, names: Sequence[str], folder: str) -> None:
    for option, patterns in (("--take", choices.take), ("--keep", choices.keep)):
        for pattern in patterns:
            if not any(_is_among(name, [pattern]) for name in names):
                raise Refusal(
                    f"{option} {pattern} is no file of this version; write its path in the project,"
                    f" {folder}/dataset.py, say, or a pattern of it, */dataset.py."
                )


def _is_among(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def merged(old: str | None, text: str | None, new: str) -> str | None:
    """A file with both changes; None if they touch the same lines, or the result is no Python."""
    if old is None or text is None:
        return None
    groups = [*Merge3(_lines(old), _lines(text), _lines(new)).merge_groups()]
    if any(group[0] == "conflict" for group in groups):
        return None
    result = "".join(line for group in groups for line in group[1])
    with suppress(SyntaxError):
        ast.parse(result)
        return result
    return None


def _lines(text: str) -> list[str]:
    return [*io.StringIO(text)]  # splitlines() splits at more
