"""Pairs of a name and a value in a text: of a command, a dict, JSON, a header, an error.

Every search here begins where the last one has ended, or looks back no further than to the sign
before it: so the time is linear. The patterns have no two ways to match the same characters.
"""

import re
from collections.abc import Callable, Iterator

Span = tuple[int, int]
# (name, value) -> whether the name marks the value as a secret; (name) -> whether any value.
NamesSecret = Callable[..., bool]

# Where a value may follow: name = value, "name": value, name => value; or: --name value.
_SIGN = re.compile(r"[=:]+>?|(?<![\w\-])--?[A-Za-z][\w\-]*(?=\s+[^\s\-])")
# What stands before the sign, read backwards: a name, or the last one of a path in brackets.
_NAME_BACKWARDS = re.compile(r"""\s*\]?(?P<quote>['"]\\*)?(?P<name>[\w.\-]+)""")
_SPACE = re.compile(r"\s*")
_SCHEME = r"(?:(?:Bearer|Basic|Token|Digest|Negotiate)\s+)?"
_BARE = re.compile(_SCHEME + r"""[^\s,;&'"}\])]+""", re.IGNORECASE)
# Within one word of a command line a value ends at a comma, and not at a space.
_BARE_IN_WORD = re.compile("[^,]+")
_BARE_IN_QUERY = re.compile(r"""[^&#;\s'"<>]+""")
# An option's value is a shell's word.
_BARE_OF_OPTION = re.compile(r"""[^\s'"]+""")
_OPENING_QUOTE = re.compile(r"""(?:[bBrRuUfF]{1,2})?(?P<escapes>\\*)(?P<quote>['"])""")
_QUOTE = re.compile(r"""(?<!\\)(?P<escapes>\\*)(?P<quote>['"])""")
_QUOTE_OR_BRACKET = re.compile(r"""(?<!\\)(?P<escapes>\\*)(?P<quote>['"])|[(\[{]|[)\]}]""")
_ERROR = ("Error", "Exception", "Warning")  # KeyError: 'loss'
# How a name in a query may end: ?hapikey=..., &sig=... of Azure.
_IN_QUERY = ("key", "sig", "signature")
# A header's value goes to the end of the line, or of a string around it: Cookie: a=1; b=2
_LINE, _LINE_TO = re.compile(".*"), {q: re.compile(f"[^\n{q}]*") for q in "'\""}
_HEADERS = {"authorization", "proxy-authorization", "cookie", "set-cookie"}
_USER_OPTIONS = {"-u", "--user", "--username"}


def secret_pairs(text: str, names_secret: NamesSecret, in_word: bool = False) -> Iterator[Span]:
    """Where the values are whose names are secret.

    ``-p x`` is one after ``-u y``, as in a login; alone it is a pipeline, a port or a path.

    Args:
        text: Any.
        names_secret: Whether a name, with a value if one is given, is that of a secret.
        in_word: Whether the text is one word of a command line, such as ``a=b c,d=e``.
    """
    backwards, done, has_user = text[::-1], 0, False
    for sign in _SIGN.finditer(text):
        if sign.start() < done:
            continue
        bare, header_start, says_so = _BARE_IN_WORD if in_word else _BARE, -1, False
        if sign[0].startswith("-"):
            name, bare = sign[0], _BARE_OF_OPTION
            has_user = has_user or name in _USER_OPTIONS
            says_so = name == "-p" and has_user
        elif before := _NAME_BACKWARDS.match(backwards, len(text) - sign.start()):
            name, name_start = before["name"][::-1], len(text) - before.end()
            if text[name_start - 1 : name_start] in ("?", "&", "#"):
                bare, says_so = _BARE_IN_QUERY, name.casefold().endswith(_IN_QUERY)
            elif sign[0] == ":" and not before["quote"] and name.casefold() in _HEADERS:
                header_start = name_start
        else:
            continue
        if name.endswith(_ERROR) or not (says_so or names_secret(name)):
            continue
        start = _after(_SPACE, text, sign.end())
        if header_start >= 0:
            end = _end_of_header(text, start, header_start)
        else:
            end = _end_of_value(text, start, bare)
        if end > start and (says_so or names_secret(name, text[start:end].strip("'\"\\"))):
            yield start, end
            done = end


def secrets_in_urls(text: str, names_secret: NamesSecret) -> tuple[list[Span], list[Span]]:
    """Where in a text the logins of URLs are, and where the secrets in their queries."""
    logins, queries = [], []
    for start, end in _urls(text):
        login = _login(text, start, end)
        if login > start:
            logins.append((start, login))
        for part in _QUERY.finditer(text, login, end):
            name = part["name"]
            if part["value"] and (names_secret(name) or name.casefold().endswith(_IN_QUERY)):
                queries.append(part.span("value"))
    return logins, queries


def logins_in(text: str) -> Iterator[tuple[str, str]]:
    """User and password of URLs; twice, if it may end at either @: ``me:password@host/a@b``."""
    for start, end in _urls(text):
        login = text[start : _login(text, start, end)].removesuffix("@")
        user, _, password = login.partition(":")
        yield user, password
        first, _, more = password.partition("@")
        if "/" in more:
            yield user, first


_QUERY = re.compile(r"""[?&#;](?P<name>[^=&#;?\s'"<>]*)=(?P<value>[^&#;\s'"<>]*)""")
_WORD = re.compile(r"\S*")
# A password may hold what ends a URL elsewhere: postgresql://name:a/b#c@host.
_USER_AND_COLON = re.compile(r"[^\s:/@\[]*:")
_AUTHORITY = re.compile(r"[^/?#]*")


def _urls(text: str) -> Iterator[Span]:
    """What follows each ``://``, up to a space or the next one."""
    start = text.find("://")
    while start >= 0:
        following = text.find("://", start + 3)
        end = following if following >= 0 else len(text)
        yield start + 3, _after(_WORD, text, start + 3, end)
        start = following


def _login(text: str, start: int, end: int) -> int:
    """The end of ``user:password@`` or ``user@``; the start, if there is none."""
    has_colon = _USER_AND_COLON.match(text, start, end)
    return 1 + max(
        text.rfind("@", start, end if has_colon else _after(_AUTHORITY, text, start, end)),
        start - 1,
    )


def _end_of_value(text: str, start: int, bare: "re.Pattern[str]") -> int:
    """The end of a value: of a string, of what is in brackets, of a word."""
    if quote := _OPENING_QUOTE.match(text, start):
        if text.startswith(three := 3 * quote["quote"], quote.start("quote")):
            end = text.find(three, quote.end() + 2)
            return len(text) if end < 0 else end + 3
        return _end_of_string(text, quote)
    if text[start : start + 1] in ("(", "[", "{"):
        return _end_of_group(text, start)
    end = _after(bare, text, start)
    return _end_of_group(text, end - 1) if text[start:end].endswith("(") else end


def _end_of_string(text: str, opening: "re.Match[str]") -> int:
    """The end of a string, its quote included; the text's, if it has none.

    In a string that is itself in a string, and so on, quotes have 1, 3, 7 ... backslashes before
    them. Where the quotes at the ends have n, one within has n + m * (n + 1), for an odd m.
    """
    escapes = len(opening["escapes"])
    for quote in _QUOTE.finditer(text, opening.end()):
        if quote["quote"] == opening["quote"]:
            number = len(quote["escapes"])
            if number < escapes or number % (2 * (escapes + 1)) == escapes:
                return quote.end()
    return len(text)


def _end_of_group(text: str, start: int) -> int:
    """The end of what is in brackets, whatever of strings and brackets is in it."""
    depth, done = 0, start
    for found in _QUOTE_OR_BRACKET.finditer(text, start):
        if found.start() < done:
            continue
        if found["quote"]:
            done = _end_of_string(text, found)
        else:
            depth += 1 if found[0] in "([{" else -1
            if not depth:
                return found.end()
    return len(text)


def _end_of_header(text: str, start: int, name_start: int) -> int:
    """The end of the line, or of the string that has the whole header in it."""
    before = text[name_start - 1 : name_start]
    return _after(_LINE_TO.get(before, _LINE), text, start)


def _after(pattern: "re.Pattern[str]", text: str, start: int, end: int | None = None) -> int:
    """The end of what matches at this place."""
    found = pattern.match(text, start, len(text) if end is None else end)
    return found.end() if found else start
