"""The versions of ``tracking/``: this one, the texts of earlier ones, what is new since then."""

from __future__ import annotations

import re
import zipfile

from packaging.version import InvalidVersion, Version

from . import template


def version_in(text: str) -> str | None:
    """The version that the ``__init__.py`` of a ``tracking/`` says."""
    found = re.search(r'^__version__ = "(.*)"$', text, re.MULTILINE)
    return found[1] if found else None


def this_version() -> str:
    """The version that the template has."""
    version = version_in((template.TRACKING / "__init__.py").read_text(encoding="utf-8"))
    assert version is not None
    return version


def parsed(version: str | None) -> Version | None:
    """A version to compare."""
    try:
        return Version(version or "")
    except InvalidVersion:
        return None


def texts_of(version: str) -> dict[str, str]:
    """The files of an earlier version, by their path in ``tracking/``; none if it is not kept."""
    path = template.ROOT / "versions" / f"{version}.zip"
    if not path.is_file():
        return {}
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        return {name: archive.read(name).decode() for name in names}


def news_since(version: Version) -> str:
    """The sections of the changelog about versions after this one."""
    text = (template.ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    newer = [part for part in sections if (its := parsed(part.split()[1])) and its > version]
    return "".join(newer)
