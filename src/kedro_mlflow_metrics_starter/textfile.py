"""Changes a file's text and nothing else of it: byte order mark, line ends, the end of the file."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from difflib import SequenceMatcher

Change = Callable[[str], str]


def edited(before: bytes, change: Change) -> bytes:
    """The bytes of a file whose text, with ``\\n`` as line end, was changed so.

    Raises:
        UnicodeDecodeError: It is not UTF-8.
    """
    bom = codecs.BOM_UTF8 if before.startswith(codecs.BOM_UTF8) else b""
    raw = before.removeprefix(bom).decode("utf-8").split("\n")
    old = [line.removesuffix("\r") for line in raw]
    new = change("\n".join(old)).split("\n")
    if old[-1] and not new[-1] and new[-2:-1] == old[-1:]:
        new.pop()  # the last line had no end, and still is the last
    if new == old:
        return before
    return bom + "\n".join(_with_ends(raw, old, new)).encode("utf-8")


def _with_ends(raw: list[str], old: list[str], new: list[str]) -> list[str]:
    """Lines that were there keep their ends; others get the one that most have."""
    returns = sum(line.endswith("\r") for line in raw)
    most = "\r" if 2 * returns > len(raw) - 1 else ""
    ends = [most] * len(new)
    if 0 < returns < len(raw) - 1:
        matcher = SequenceMatcher(None, old, new, autojunk=False)
        for start, at, size in matcher.get_matching_blocks():
            for offset in range(size):
                if start + offset < len(raw) - 1:
                    ends[at + offset] = "\r" if raw[start + offset].endswith("\r") else ""
    ends[-1] = ""
    return [line + end for line, end in zip(new, ends, strict=True)]
