"""What is secret stays out of tags, parameters, log lines and error messages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

# Words that say of a name that its value is a secret.
SECRET_WORDS = (
    "password",
    "passwd",
    "passphrase",
    "token",
    "secret",
    "key",
    "credential",
    "authorization",
)
HIDDEN = "***"
# Shorter values of credentials.yml are found in too many places: "dev", "me".
SHORTEST = 4

# A password may hold what ends a URL elsewhere: postgresql://name:a/b#c@host.
_LOGIN = re.compile(r"(?<=://)[^\s:/@]*:[^\s@]*@(?:[^\s@/]*@)*")
_URL = re.compile(r"\b[a-zA-Z][\w+.-]*://[^\s'\"<>]+")
_USER = re.compile(r"(?<=://)[^/?#]*@")
_SECRET_QUERY = re.compile(r"(?i)([?&#;][^=&#;]*(?:token|secret|passw|key|sig)[^=&#;]*=)[^&#;]*")
# What stands before a value: name=, "name": or --name; in a command, a dict's text, an error's.
_START = re.compile(r"""(?P<name>[\w.\-]+)['"]?\s*[=:]\s*|(?P<option>--[\w\-]+)\s+(?=[^-\s])""")
_VALUE = re.compile(r"""'[^']*'|"[^"]*"|(?:(?:Bearer|Basic)\s+)?[^\s,;&'"}\])]+""")
# Within one word of a command line a value ends at a comma, and not at a space.
_VALUE_IN_WORD = re.compile("[^,]+")

_values: set[str] = set()  # of this process's credentials
_words: tuple[str, ...] = SECRET_WORDS


def hide(values: Iterable[str], words: Iterable[str] = SECRET_WORDS) -> None:
    """From now on these values are secret, and those whose name has one of these words.

    So are the passwords in values that are URLs, and they alone where the rest is known anyway:
    ``hide(passwords_in(uri))``.
    """
    global _words  # noqa: PLW0603
    for value in values:
        _values.update(v for v in (value, *passwords_in(value)) if len(v) >= SHORTEST)
    _words = tuple(word.casefold() for word in words)


def passwords_in(url: str) -> list[str]:
    """The password of a URL, if it has one."""
    return re.findall(r"://[^\s:/@]*:([^\s@]+)@", url)


def is_secret(name: str, value: object = None) -> bool:
    """Whether a name says that its value is a secret: ``db.password``, ``apiKey``, ``API_KEYS``.

    A number under a plural is none: ``max_tokens: 512``.
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    for word in re.findall(r"[^\W_]+", spaced.casefold()):
        if word.endswith(_words):
            return True
        if word.removesuffix("s").endswith(_words) and not _is_number(value):
            return True
    return False


def _is_number(value: object) -> bool:
    return str(value).replace(".", "", 1).isdigit()


def redact(text: str) -> str:
    """The text without secrets.

    Taken out are the user names, passwords and tokens of URLs, the values of the credentials,
    and what follows a secret's name in ``name=value``, ``"name": "value"``, ``--name value``.
    """
    text = _without_pairs(public(text), _VALUE)
    for value in sorted(tuple(_values), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return text


def public(text: str) -> str:
    """The text, its URLs without user names, passwords and tokens."""
    text = _LOGIN.sub("", text)
    return _URL.sub(lambda url: _SECRET_QUERY.sub(r"\1" + HIDDEN, _USER.sub("", url[0])), text)


def redact_command(words: Iterable[str]) -> str:
    """A command line without secrets, quoted for a shell."""
    return redact(shlex.join(_without_pairs(word, _VALUE_IN_WORD) for word in words))


def _without_pairs(text: str, value_pattern: re.Pattern[str]) -> str:
    parts, end = [], 0
    for start in _START.finditer(text):
        value = value_pattern.match(text, start.end())
        if not value or start.start() < end or value[0].startswith(HIDDEN):
            continue
        if _names_secret(start, value[0]):
            parts += [text[end : start.end()], HIDDEN]
            end = value.end()
    return "".join([*parts, text[end:]])


def _names_secret(start: re.Match[str], value: str) -> bool:
    name = start["name"] or start["option"]
    return is_secret(name, value) and not name.endswith(("Error", "Exception", "Warning"))


def without_secrets(name: str, value: Any) -> Any:
    """A parameter's value, and all that is below it, without secrets."""
    if isinstance(value, Mapping):
        return {key: without_secrets(f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [without_secrets(name, item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if value is None or isinstance(value, bool):
        return value
    if is_secret(name, value):
        return HIDDEN
    return redact(value) if isinstance(value, str) else value
