"""Changes TOML in its text, and only to a text that says what it is to say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import tomlkit
from tomlkit.items import Array

Change = Callable[[Any], None]

# What a list is written in: strings, comments, and all else by the character.
TOKENS = re.compile(
    r'"""(?:\\.|[^\\])*?"""|'
    r"'''.*?'''|"
    r'"(?:\\.|[^"\\])*"|'
    r"'[^']*'|"
    r"#[^\n]*|"
    r"\S",
    re.DOTALL,
)


def edited(text: str, *changes: Change) -> str | None:
    """The text with the first of these changes that can be written; None if none of them can be.

    A change is made to plain data and to tomlkit's document, and the text of the latter must say
    what the former does: tomlkit (0.15) writes tables where they swallow the keys below, and what
    is no TOML.
    """
    for change in changes:
        try:
            before, wanted = tomlkit.parse(text).unwrap(), tomlkit.parse(text).unwrap()
            change(wanted)
            if wanted == before:
                return text
            document = tomlkit.parse(text)
            change(document)
            after = tomlkit.dumps(document)
            if tomlkit.parse(after).unwrap() == wanted:
                return after
        except Exception:  # of any kind: tomlkit has its own, and raises ValueError and TypeError
            continue
    return None


def append(table: Any, key: str, *values: Any) -> None:
    """Add values to the list that a table has under this key; without one, a list of them."""
    if key not in table:
        table[key] = [*values]
        return
    listed = table[key]
    if isinstance(listed, Array) and (text := _below_comments(listed.as_string(), values)):
        table[key] = tomlkit.value(text)
        return
    for value in values:
        listed.append(value)


def _below_comments(text: str, values: Iterable[Any]) -> str | None:
    """The text of a list with more values, if comments follow its last; they stay above.

    There tomlkit (0.15) appends without a comma, or as a part of the comment.
    """
    found = [token for token in TOKENS.finditer(text[:-1]) if not token[0].startswith("#")]
    has_comma = found[-1][0] == ","
    end = found[-2 if has_comma else -1].end()
    rest = text[end:-1]
    if "#" not in rest:
        return None
    comma = "" if has_comma or found[-1][0] == "[" else ","
    above = text[:end] + comma + rest.rstrip()
    indent = re.search(r"\n([ \t]*)[^\s\]]", text)
    start = f"\n{indent[1] if indent else '    '}"
    lines = "".join(f"{start}{tomlkit.item(value).as_string()}," for value in values)
    return above + lines + rest[len(rest.rstrip()) :] + "]"
