"""What is secret stays out of tags, parameters, log lines and error messages."""

import re
import shlex
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

# Words that say of a name that its value is a secret.
_WORDS = "password passwd passphrase token secret key credential authorization"
SECRET_WORDS = tuple(_WORDS.split())
HIDDEN = "***"
# Shorter values of credentials.yml are found in too many places: "dev", "me".
MIN_SECRET_LENGTH = 4

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


class Secrets:
    """What is secret in one project: texts, and what has a name with one of these words."""

    def __init__(self, values: Iterable[str] = (), words: Iterable[str] = SECRET_WORDS) -> None:
        found = {part for value in values for part in (value, *passwords_in(value))}
        self.values = sorted(
            (v for v in found if len(v) >= MIN_SECRET_LENGTH), key=len, reverse=True
        )
        self.words = tuple(word.casefold() for word in words)

    def names_secret(self, name: str, value: object = None) -> bool:
        """Whether ``dbPassword`` or ``API_KEYS`` is secret; no number is: ``max_tokens: 512``."""
        spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
        found = re.findall(r"[^\W_]+", spaced.casefold())
        singular = [] if _is_number(value) else [word.removesuffix("s") for word in found]
        return any(word.endswith(self.words) for word in (*found, *singular))

    def redact(self, text: str) -> str:
        """The text without secrets: in URLs, after ``key=``, ``"key":``, ``--key``, and values."""
        text = self._without_pairs(without_credentials(text), _VALUE)
        for value in self.values:
            text = text.replace(value, HIDDEN)
        return text

    def redact_command(self, words: Iterable[str]) -> str:
        """A command line without secrets, quoted for a shell."""
        return self.redact(shlex.join(self._without_pairs(word, _VALUE_IN_WORD) for word in words))

    def redact_parameter(self, name: str, value: Any) -> Any:
        """A parameter's value, and all that is below it, without secrets."""
        if isinstance(value, Mapping):
            return {k: self.redact_parameter(f"{name}.{k}", item) for k, item in value.items()}
        if isinstance(value, list | tuple):
            items = [self.redact_parameter(name, item) for item in value]
            return items if isinstance(value, list) else tuple(items)
        if value is None or isinstance(value, bool):
            return value
        if self.names_secret(name, value):
            return HIDDEN
        return self.redact(value) if isinstance(value, str) else value

    def _without_pairs(self, text: str, value_pattern: re.Pattern[str]) -> str:
        parts, end = [], 0
        for start in _START.finditer(text):
            value = value_pattern.match(text, start.end())
            if not value or start.start() < end or value[0].startswith(HIDDEN):
                continue
            name = start["name"] or start["option"]
            is_error = name.endswith(("Error", "Exception", "Warning"))  # KeyError: 'loss'
            if self.names_secret(name, value[0]) and not is_error:
                parts += [text[end : start.end()], HIDDEN]
                end = value.end()
        return "".join([*parts, text[end:]])


def register(project: Hashable, secrets: Secrets) -> None:
    """Make these the secrets of a project, for messages that belong to no one project."""
    from .process.state import process_state

    process_state().secrets[project] = secrets


def redact(text: str) -> str:
    """The text without the secrets of any project of this process."""
    from .process.state import process_state

    known = list(process_state().secrets.values()) or [Secrets()]
    for secrets in known:
        text = secrets.redact(text)
    return text


def without_credentials(text: str) -> str:
    """The text, its URLs without user names, passwords and tokens."""
    text = _LOGIN.sub("", text)
    return _URL.sub(lambda url: _SECRET_QUERY.sub(r"\1" + HIDDEN, _USER.sub("", url[0])), text)


def passwords_in(url: str) -> list[str]:
    """The password of a URL, if it has one."""
    return re.findall(r"://[^\s:/@]*:([^\s@]+)@", url)


def texts_in(value: Any) -> Iterator[str]:
    """All texts and numbers below a value of ``credentials.yml``."""
    if isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from texts_in(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _is_number(value: object) -> bool:
    return str(value).replace(".", "", 1).isdigit()
