"""What a project depends on: the lists in ``pyproject.toml`` and ``requirements.txt``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import tomlkit
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from . import tomlfile
from .refusal import Refusal

REQUIREMENTS = ("requirements.txt", "src/requirements.txt")
Read = Callable[[str], str | None]


def parsed(line: str) -> Requirement | None:
    """The requirement in a line of a list, if there is one."""
    try:
        return Requirement(uncommented(line))
    except InvalidRequirement:
        return None


def uncommented(line: str) -> str:
    """A line without its comment, and what pip's own is: ``--hash=...``, a ``\\`` at its end."""
    return re.sub(r"(^|\s)(#|--|\\\s*$).*", "", line).strip()


def name_of(line: str) -> str | None:
    """The name of what a line of a list requires, as indexes write it."""
    requirement = parsed(line)
    return canonicalize_name(requirement.name) if requirement else None


def requirement_files(pyproject: Mapping[str, Any], read: Read) -> list[str]:
    """The files with requirements that the project has, those that its build reads first."""
    dynamic = _get(pyproject, "tool", "setuptools", "dynamic", "dependencies", "file") or []
    named = [dynamic] if isinstance(dynamic, str) else dynamic
    return [name for name in dict.fromkeys([*named, *REQUIREMENTS]) if read(name) is not None]


def listed(pyproject: Mapping[str, Any], read: Read) -> list[Requirement]:
    """All that the project depends on by any of its lists."""
    lines = [str(line) for line in _get(pyproject, "project", "dependencies") or []]
    for name in requirement_files(pyproject, read):
        lines += lines_of(name, read)
    poetry = _get(pyproject, "tool", "poetry", "dependencies")
    if isinstance(poetry, Mapping):  # Poetry itself takes nothing else
        lines += [_of_poetry(name, version) for name, version in poetry.items()]
    return [requirement for line in lines if (requirement := parsed(line))]


def lines_of(name: str, read: Read, seen: frozenset[str] = frozenset()) -> list[str]:
    """The lines of a file with requirements, and of those that it includes."""
    lines = []
    for line in (read(name) or "").splitlines():
        if included := re.match(r"\s*(?:-r|--requirement)[ =]\s*(\S+)", line):
            folder = name.rpartition("/")[0]
            other = f"{folder}/{included[1]}" if folder else included[1]
            if other not in seen:
                lines += lines_of(other, read, seen | {name})
        else:
            lines.append(line)
    return lines


def missing(lines: Iterable[str], wanted: Mapping[str, str]) -> list[str]:
    """Those of the wanted lines whose name no line has."""
    names = {name_of(line) for line in lines}
    return [line for name, line in wanted.items() if name not in names]


def has_hashes(text: str) -> bool:
    """Whether a file with requirements is a lock: pip then takes no line without a hash."""
    return "--hash=" in text


def add_lines(text: str, lines: Iterable[str]) -> str:
    """The text of a ``requirements.txt`` with these lines at its end."""
    before = text if not text or text.endswith("\n") else text + "\n"
    return before + "".join(f"{line}\n" for line in lines)


def add_to_pyproject(text: str, wanted: Mapping[str, str], *, anew: bool = False) -> str:
    """The text of a ``pyproject.toml`` with what is missing in its own list, if it has one.

    ``anew``: or in a new list.

    Raises:
        Refusal: It can't be written there.
    """
    after = tomlfile.edited(text, partial(_add, wanted=wanted, anew=anew))
    if after is None:
        raise Refusal(
            "pyproject.toml has its dependencies in a way that this command can't add to; add what"
            f" is missing yourself, of {', '.join(map(uncommented, wanted.values()))}."
        )
    return after


def _add(data: Any, wanted: Mapping[str, str], *, anew: bool) -> None:
    if anew:
        data["project"]["dependencies"] = tomlkit.array().multiline(True)
    if poetry := _get(data, "tool", "poetry", "dependencies"):
        names = {canonicalize_name(name) for name in poetry}
        for name, line in wanted.items():
            if name not in names and (requirement := parsed(line)):
                poetry[name] = str(requirement.specifier)
    listed = _get(data, "project", "dependencies")
    if isinstance(listed, list) and (lines := missing(map(str, listed), wanted)):
        tomlfile.append(data["project"], "dependencies", *map(uncommented, lines))


def remove(text: str, name: str) -> str:
    """The text of a ``requirements.txt`` without this package."""
    return "".join(line for line in text.splitlines(keepends=True) if name_of(line) != name)


def remove_from_pyproject(text: str, name: str) -> str:
    """The text of a ``pyproject.toml`` whose own list is without this package.

    Raises:
        Refusal: It can't be taken from there.
    """
    after = tomlfile.edited(text, partial(_remove, name=name))
    if after is None:
        raise Refusal(
            "pyproject.toml has its dependencies in a way that this command can't take from; remove"
            f" {name} from it yourself."
        )
    return after


def _remove(data: Any, name: str) -> None:
    listed = _get(data, "project", "dependencies")
    if isinstance(listed, list):
        for line in [line for line in listed if name_of(str(line)) == name]:
            listed.remove(line)
    poetry: Any = _get(data, "tool", "poetry", "dependencies") or {}
    for key in [key for key in poetry if canonicalize_name(key) == name]:
        del poetry[key]


def _of_poetry(name: str, version: Any) -> str:
    """Poetry's notation as a requirement; its ^1.2 and ~1.2 as the lowest version they allow."""
    text = version.get("version", "*") if isinstance(version, Mapping) else str(version)
    text = re.sub(r"^\^(\d+)(\S*)", r">=\1\2,==\1.*", text)
    text = re.sub(r"^~(?!=)(\d+)(\S*)", r">=\1\2,==\1.*", text)
    text = f"=={text}" if re.match(r"\d", text) else text.removeprefix("*")
    return f"{name}{text}"


def _get(mapping: Any, *keys: str) -> Any:
    for key in keys:
        mapping = mapping.get(key) if isinstance(mapping, Mapping) else None
    return mapping
