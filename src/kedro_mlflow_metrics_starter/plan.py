"""What is going to be written, before it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import unified_diff
from typing import TYPE_CHECKING, Any

import yaml

from . import template, textfile
from .project import Project
from .refusal import Refusal, reading_yaml

if TYPE_CHECKING:
    from .kedro_viz import Saved


class Plan:
    """New contents of a project's files, in the order in which they are written, and remarks."""

    def __init__(self, project: Project, *, as_package: bool = False) -> None:
        self.project = project
        self.as_package = as_package  # what tracks is a dependency, and not bundled
        self.tracking = template.wiring().MODULE if as_package else f"{project.name}.tracking"
        self.files: dict[str, bytes] = {}
        self.remarks: list[str] = []
        self.history: list[Saved] = []

    def read(self, name: str) -> bytes | None:
        """A file's bytes as they are going to be; None if there is no such file."""
        return self.files.get(name, self.project.read(name))

    def text(self, name: str) -> str | None:
        """A file's text as it is going to be."""
        if name in self.files:
            return self.files[name].decode("utf-8-sig").replace("\r\n", "\n")
        return self.project.text(name)

    def add(self, files: Mapping[str, bytes]) -> None:
        """Add files that the project does not have.

        Raises:
            Refusal: It has one.
        """
        for name in files:
            if self.read(name) is not None:
                raise Refusal(f"{name} is there, where a new file belongs; move it away.")
        self.files |= files

    def edit(self, name: str, change: textfile.Change) -> None:
        """Change a file's text, or make the file of an empty one.

        Raises:
            Refusal: The file is not UTF-8, or is a link that leads out of the project.
        """
        name = self._real(name)
        before = self.read(name)
        self.project.text(name)
        after = textfile.edited(before or b"", change)
        if after != before and (after or before is not None):
            self.files[name] = after

    def yaml(self, name: str) -> Any:
        """What a YAML file says as it is going to be; None if it says nothing.

        Raises:
            Refusal: It is not YAML.
        """
        with reading_yaml(name):
            return yaml.safe_load(self.text(name) or "")

    def remark(self, text: str) -> None:
        """Say something when it is done."""
        if text not in self.remarks:
            self.remarks.append(text)

    def diff(self) -> bytes:
        """All changes, as ``git apply`` takes them."""
        return b"".join(self._diffs())

    def _diffs(self) -> Iterator[bytes]:
        for name, after in self.files.items():
            before = self.project.read(name)
            old, new = _lines(before or b""), _lines(after)
            start = "/dev/null" if before is None else f"a/{name}"
            if before is None and not after:
                yield f"diff --git a/{name} b/{name}\nnew file mode 100644\n".encode()
            for line in unified_diff(old, new, start, f"b/{name}"):
                text = line.encode("utf-8", "surrogateescape")
                yield text if text.endswith(b"\n") else text + b"\n\\ No newline at end of file\n"

    def _real(self, name: str) -> str:
        """The file itself, where its name is that of a link."""
        path = (self.project.path / name).resolve()
        if not path.is_relative_to(self.project.path):
            raise Refusal(f"{name} is a link out of the project; make it a file.")
        return path.relative_to(self.project.path).as_posix()


def _lines(content: bytes) -> list[str]:
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
