"""Known secrets in a text, in every form that a program gives them."""

import base64
import html
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus, unquote

# Shorter values are found in too many places: "dev", "me".
MIN_SECRET_LENGTH = 4
# From this length on a value is not met by chance: cloud regions' names have up to 14 characters.
LONG_ENOUGH = 15
MIN_LINE_LENGTH = 8  # of a secret of several lines
# An escape sequence just before a word, whose letters are not the word's.
_ESCAPE = re.compile(r"(?:\\[abfnrtv]|\\x[0-9a-fA-F]{2}|%[0-9a-fA-F]{2})\Z")
_NUMBER_BEFORE, _NUMBER_AFTER = re.compile(r"\d\.\Z"), re.compile(r"\.\d")


class KnownSecrets:
    """Finds many secrets in one pass over a text: looks them up by their first letters."""

    def __init__(self, values: Iterable[str]) -> None:
        self._forms = {form for value in values for form in _forms(value)}
        self.longest = max(map(len, self._forms), default=0)
        lengths: dict[str, set[int]] = defaultdict(set)
        for form in self._forms:
            lengths[form[:MIN_SECRET_LENGTH]].add(len(form))
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}
        firsts = "".join(map(re.escape, {form[0] for form in self._forms}))
        self._first = re.compile(f"[{firsts}]" if firsts else "(?!)")

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where the secrets are; those shorter than ``LONG_ENOUGH`` only as whole words."""
        done = 0
        for first in self._first.finditer(text):
            start = first.start()
            if start < done:
                continue
            for length in self._lengths.get(text[start : start + MIN_SECRET_LENGTH], ()):
                end = start + length
                if (
                    end <= len(text)
                    and text[start:end] in self._forms
                    and (length >= LONG_ENOUGH or _is_whole(text, start, end))
                ):
                    yield start, end
                    done = end
                    break


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether ``text[start:end]`` is not a part of a longer word or number."""
    before, after = text[max(start - 4, 0) : start], text[end : end + 2]
    first, last = text[start], text[end - 1]
    is_within_word = (_is_word(first) and _is_word(before[-1:]) and not _ESCAPE.search(before)) or (
        _is_word(last) and _is_word(after[:1])
    )
    is_within_number = (first.isdigit() and _NUMBER_BEFORE.search(before)) or (
        last.isdigit() and _NUMBER_AFTER.match(after)
    )
    return not (is_within_word or is_within_number)


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def basic_auth(user: str, password: str) -> str:
    """What ``Authorization: Basic`` has of a user and a password."""
    return base64.b64encode(f"{user}:{password}".encode(errors="replace")).decode()


def _forms(value: str) -> Iterator[str]:
    """The value, its lines, and how Python, JSON, a shell, a URL and HTML write each of them."""
    lines = value.splitlines() if "\n" in value.strip() else []
    parts = {value, value.strip(), unquote(value)}
    parts |= {
        line.strip() for line in lines if "-----" not in line and len(line) >= MIN_LINE_LENGTH
    }
    for part in parts:
        escaped = {_in_json(part), _in_json(_in_json(part)), html.escape(part)}
        escaped |= {json.dumps(part, ensure_ascii=False)[1:-1], ascii(part)[1:-1]}
        escaped |= {repr(part)[1:-1], repr(repr(part))[2:-2], repr(part + "'\"")[1:-4]}
        escaped |= {repr(part.encode(errors="replace"))[2:-1]}
        quoted = {quote(part, safe, errors="replace") for safe in ("", "/", "/:@")}
        quoted |= {quote_plus(part, errors="replace")}
        quoted |= {re.sub("%..", lambda code: code[0].lower(), text) for text in quoted}
        in_shell = {part.replace("'", "'\"'\"'"), part.replace("'", "'\\''")}
        in_shell |= {re.sub(r"([^\w@%+=:,./\-])", r"\\\1", part)}
        encoded = base64.b64encode(part.encode(errors="replace")).decode()
        for form in {part, *escaped, *quoted, *in_shell, encoded, encoded.rstrip("=")}:
            if len(form) >= MIN_SECRET_LENGTH and len(part) >= MIN_SECRET_LENGTH:
                yield form


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]
