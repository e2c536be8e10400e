"""What is secret stays out of tags, parameters, log lines and error messages.

Secret is, in a text or a parameter:

- the value of a name with one of ``SECRET_WORDS`` (``password=...``, ``"token": ...``,
  ``--token ...``, a header) as a whole word: ``tokenizer`` has none. ``key`` counts alone or after
  ``api``, ``access`` and the like: ``primary_key`` is none. A number is secret only if that word
  ends the name and is no plural: ``password: 1234``, but not ``max_tokens: 512``;
- the user and the password of a URL, and what its query has under such a name;
- a value of ``credentials.yml`` whose own key has such a word, which is a URL's password, or which
  has 15 characters or more. It is known in its escaped, quoted, percent-encoded and base64 forms.
  With less than 15 characters it is hidden as a whole word only; with less than four, nowhere.

The name of a parameter is never changed.
"""

import os
import re
import shlex
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

from .scanning.known import LONG_ENOUGH, KnownSecrets, basic_auth
from .scanning.pairs import Span, logins_in, secret_pairs, secrets_in_urls

# Words that say of a name that its value is a secret.
_WORDS = "password passwd passphrase passcode pwd token secret key credential authorization cookie"
SECRET_WORDS = tuple(_WORDS.split())
HIDDEN = "***"
# "Key" marks a secret after one of these words only: a table or a mapping has keys, too.
_KEYS = (
    "access account admin anthropic api app application auth authentication aws azure client"
    " consumer crypto decrypt decryption deploy encrypt encryption gcp google gpg hmac"
    " huggingface instrumentation jwt license master my openai pgp private rsa sas secret service"
    " session shared signature signing ssh ssl storage subscription tls vault wandb webhook"
)
_KEYS_OF = frozenset(_KEYS.split())
# Words that are secret together: X-Amz-Signature, SharedAccessSignature.
_PHRASES = ("key phrase", "amz signature", "goog signature", "access signature")
# Between the words of one name: dbPassword, APIKey, but not API_KEYs.
_CAMEL = re.compile(r"(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z](?!s(?![a-z]))[a-z])")
_WORD = re.compile(r"[^\W\d_]+|\d+")
_NUMBER = re.compile(r"[+-]?\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)?")
_ENDS_OTHER_WORDS = 5  # letters of a word that counts at the end of another: PGPASSWORD
# A longest secret that is not known: a URL's, which ends beyond where a text is cut.
_MARGIN = 1000
_USERS = {"user", "username", "login"}
_NOT_SECRET = {"PWD", "OLDPWD"}  # the environment's own: folders


class Secrets:
    """What is secret in one project: texts, and what has a name with one of these words."""

    def __init__(self, values: Iterable[str] = (), words: Iterable[str] = SECRET_WORDS) -> None:
        spaced = {" ".join(_words(word)) for word in words} - {""}
        self._has_key = "key" in spaced
        self._words = spaced - {"key"}
        phrases = [word for word in spaced if " " in word]
        joined = [phrase.replace(" ", "") for phrase in phrases]
        phrases += _PHRASES if "secret" in spaced else ()
        self._phrases = tuple(f" {phrase}" for phrase in phrases)
        self._endings = (*joined, *(w for w in self._words if len(w) >= _ENDS_OTHER_WORDS))
        self._most_words = max([2, *(len(phrase.split()) for phrase in phrases)])
        last_words = {phrase.split()[-1] for phrase in (*spaced, *phrases)}
        self._any = re.compile("|".join(map(re.escape, last_words)) or "(?!)", re.IGNORECASE)
        self._known = KnownSecrets(part for value in values for part in (value, *secrets_of(value)))

    def names_secret(self, name: str, value: object = None) -> bool:
        """Whether ``dbPassword`` or ``API_KEYS`` is secret; ``max_tokens: 5`` is not."""
        if not self._any.search(name):
            return False
        is_number = bool(_NUMBER.fullmatch(str(value)))
        return any(
            self._ends_secret(
                words[max(index + 1 - self._most_words, 0) : index + 1], len(words) == 1, is_number
            )
            for words in map(_words, name.split("."))
            for index in range(len(words))
            if index == len(words) - 1 or not is_number
        )

    def _ends_secret(self, words: list[str], is_alone: bool, is_number: bool) -> bool:
        """Whether the last of these words makes a name secret."""
        *others, last = words
        for word in {last, last if is_number else last.removesuffix("s")}:
            if word in self._words or word.endswith(self._endings):
                return True
            if self._phrases and f" {' '.join([*others, word])}".endswith(self._phrases):
                return True
            if self._has_key and word.endswith("key"):
                whose = word.removesuffix("key") or " ".join(others[-1:])
                if whose in _KEYS_OF or (word == "key" and is_alone):
                    return True
        return False

    def redact(self, text: str, limit: int | None = None) -> str:
        """The text without secrets, cut to so many characters.

        It is cut before it is read, but a secret that begins before the cut is hidden whole.
        """
        if limit is not None:
            text = text[: limit + self._known.longest + _MARGIN]
        logins, queries = secrets_in_urls(text, self.names_secret)
        pairs = secret_pairs(text, self.names_secret)
        return _replaced(text, logins, [*queries, *pairs, *self._known.spans(text)], limit)

    def redact_command(self, words: Iterable[str], limit: int | None = None) -> str:
        """A command line without secrets, quoted for a shell."""
        shown = [
            _replaced(word, [], list(secret_pairs(word, self.names_secret, in_word=True)))
            for word in words
        ]
        return self.redact(shlex.join(shown), limit)

    def redact_parameter(self, name: str, value: Any, limit: int | None = None) -> Any:
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
        return self.redact(value, limit) if isinstance(value, str) else value


def register(project: Hashable, secrets: Secrets) -> None:
    """Make these the secrets of a project, for messages that belong to no one project."""
    from .process.state import process_state

    process_state().secrets[project] = secrets


def redact(text: str) -> str:
    """The text without the secrets of any project of this process, and of its stores.

    A worker process has no project. Its messages are about its store: what they may have of
    secrets is in the store's URI, and in the environment, where the client takes them from.
    """
    from .process.state import process_state

    state = process_state()
    stores = [secret for uri in list(state.stores) for secret in secrets_of(uri)]
    if not state.secrets:
        stores += secrets_of_environment()
    known = [*state.secrets.values(), *([Secrets(stores)] if stores else ())]
    for secrets in known or [BY_NAME]:
        text = secrets.redact(text)
    return text


def without_credentials(text: str) -> str:
    """The text, its URLs without user names, passwords and tokens."""
    return _replaced(text, *secrets_in_urls(text, BY_NAME.names_secret))


def secrets_of(url: str) -> list[str]:
    """The passwords of URLs, the tokens in place of users and in queries; none of another text."""
    if "://" not in url:
        return []
    found = []
    for user, password in logins_in(url):
        found += [password, basic_auth(user, password)] if password else []
        found += [user] if not password and len(user) >= LONG_ENOUGH else []
    _, queries = secrets_in_urls(url, BY_NAME.names_secret)
    return found + [url[start:end] for start, end in queries]


def credentials_secrets(entries: Mapping[str, Any], words: Iterable[str]) -> list[str]:
    """What of ``credentials.yml`` is secret; the module's docstring says what that is.

    An entry's name counts, as the name of all that is in it, but for ``db_credentials``.
    """
    rule = Secrets(words={*SECRET_WORDS, *words})
    found: list[str] = []
    for name, entry in entries.items():
        says_nothing = "credential" in str(name).casefold() and isinstance(entry, Mapping)
        found += _secrets_below("" if says_nothing else str(name), entry, rule)
    return found


def _secrets_below(name: str, value: Any, rule: Secrets) -> Iterator[str]:
    if isinstance(value, Mapping):
        users = [v for k, v in value.items() if _USERS.intersection(_words(str(k))[-1:])]
        for key, item in value.items():
            yield from _secrets_below(f"{name}.{key}", item, rule)
            if rule.names_secret(str(key)):
                yield from (basic_auth(user, item) for user in users)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _secrets_below(name, item, rule)
    elif value is not None and not isinstance(value, bool):
        text = str(value)
        is_named = rule.names_secret(name, None if isinstance(value, str) else value)
        in_url = secrets_of(text)
        yield from in_url
        if is_named or (len(text) >= LONG_ENOUGH and not in_url):
            yield text


def secrets_of_environment(names: Iterable[str] = ()) -> list[str]:
    """The values of these environment variables, or of all whose name says that they are secret."""
    rule = BY_NAME.names_secret
    chosen = names or [n for n in os.environ if n not in _NOT_SECRET and rule(n)]
    found = [value for name in chosen if (value := os.environ.get(name)) is not None]
    user = os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    return found + [basic_auth(user, value) for value in found if user]


def _words(name: str) -> list[str]:
    """The words of a name: split at capitals, digits and all that is no letter."""
    return _WORD.findall(_CAMEL.sub(" ", name).casefold())


def _replaced(text: str, removed: list[Span], hidden: list[Span], limit: int | None = None) -> str:
    """The text, some parts removed and others hidden; what is within another goes with it."""
    found = [(start, -end, "") for start, end in removed]
    found += [(start, -end, HIDDEN) for start, end in hidden]
    parts, done, stop = [], 0, len(text) if limit is None else limit
    for start, minus_end, shown in sorted(found):
        if start >= stop:
            break
        if start >= done:
            parts += [text[done:start], shown]
        elif -minus_end > done and not parts[-1]:
            parts.append(HIDDEN)
        done = max(done, -minus_end)
    return "".join([*parts, text[done:stop]])[:limit]


BY_NAME = Secrets()  # what is secret in any project
