"""A metrics dataset's ``metrics``: which values are better, and the limits that they must meet.

Imports no MLflow. The words are those of MLflow's ``MetricThreshold`` where that class has them
(mlflow/models/evaluation/validation.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

from kedro.utils import load_obj

from ..names import SYSTEM, known_words, shown
from ..points import allowed_name


@dataclass(frozen=True)
class Rule:
    """What is known of the metrics whose name matches a pattern (``*``, ``?``)."""

    name: str
    greater_is_better: bool | None = None
    threshold: float | None = None  # what the value has to reach
    max_regression: float | None = None  # how much worse than the baseline's it may be
    max_relative_regression: float | None = None  # the same, as a share of the baseline's value
    start: str = ""  # what the keys of its dataset begin with, a pattern as well
    place: int = field(default=0, compare=False)  # among the catalog's rules, from its top

    @property
    def key(self) -> str:
        """The key, or the pattern of the keys, that the rule is about."""
        return self.start + self.name

    def is_better(self, value: float, other: float) -> bool:
        """Whether a value is better than another; NaN is never."""
        return value > other if self.greater_is_better else value < other


@dataclass(frozen=True)
class Limit:
    """A limit of a rule, as it was met or not by a run's value."""

    key: str
    name: str  # threshold, max_regression, max_relative_regression
    limit: float
    value: float | None  # None: the run does not have the metric
    baseline: float | None  # None: no baseline run has the metric, or the limit needs none
    passed: bool
    greater_is_better: bool


# What a rule may say: all but its name, the first field, and the last two.
_FIELDS = tuple(each.name for each in fields(Rule))[1:-2]
_LIMITS = _FIELDS[1:]


def parse_rules(metrics: Any, place: int = 0) -> tuple[Rule, ...]:
    """The rules in a dataset's ``metrics``, exact names first; ``place``: where they begin.

    Raises:
        ValueError: Something else; the sentence names it, and the nearest allowed word.
    """
    if not isinstance(metrics, Mapping):
        raise ValueError(f"'metrics' is {shown(metrics)}; it is a mapping of metric names to rules")
    rules = [replace(_rule(*item), place=at) for at, item in enumerate(metrics.items(), place)]
    return tuple(sorted(rules, key=lambda rule: (_is_pattern(rule.name), -len(rule.name))))


def _rule(name: Any, given: Any) -> Rule:
    if not isinstance(name, str) or not isinstance(given, Mapping):
        what = f"'metrics' says of {name!r} {shown(given)}"
        raise ValueError(f"{what}; it is a mapping of {', '.join(_FIELDS)}")
    for word, value in given.items():
        what = f"'metrics' has for {name!r} {word!r}: {shown(value)}"
        if word not in _FIELDS:
            raise ValueError(f"{what}; {known_words(word, _FIELDS)}")
        is_flag = isinstance(value, bool)
        if word == "greater_is_better" and not is_flag:
            raise ValueError(f"{what}; it is true or false")
        is_number = isinstance(value, int | float) and not is_flag and not math.isnan(value)
        if word in _LIMITS and not is_number:
            raise ValueError(f"{what}; it is a number")
        if word in _LIMITS[1:] and value < 0:
            raise ValueError(f"{what}; it is a number from 0 on")
    if "greater_is_better" not in given and given:
        raise ValueError(f"'metrics' has for {name!r} limits, but no 'greater_is_better'; add it")
    return Rule(name_pattern(name), **given)


def name_pattern(name: str) -> str:
    """The pattern as the keys of MLflow have it, whose names have no ``*`` and ``?``."""
    parts = re.split(r"([*?])", name)
    return "".join(part if part in ("*", "?", "") else allowed_name(part) for part in parts)


def parse_load_args(load_args: Any) -> tuple[str | None, bool]:
    """Which run is to be read, if one is named, and whether as a DataFrame.

    Raises:
        ValueError: Something else.
    """
    if isinstance(load_args, Mapping) and load_args.keys() <= {"run", "as"}:
        run, form = load_args.get("run"), load_args.get("as")
        if isinstance(run, str | None) and form in (None, "frame"):
            return run, form is not None
    raise ValueError(f"'load_args' is {shown(load_args)}; it may have 'run: RUN' and 'as: frame'")


class Owner(NamedTuple):
    """A metrics dataset, or a factory of such, and what it says of its metrics."""

    entry: str  # its name in the catalog
    start: str  # what its keys begin with; of a factory a pattern
    rules: Sequence[Rule]
    has_one_key: bool = False  # ``start`` is that key


def by_owner(owners: Iterable[Owner]) -> list[Rule]:
    """The rules in such an order that the first match of a key is from the dataset that writes it.

    If that dataset has no rule for the key, the first match is an empty rule, added here.
    """
    owners = sorted(owners, key=_precedence)
    starts = [owner.start for owner in owners if owner.rules]
    return [
        replace(rule, start=owner.start)
        for owner in owners
        if any(_is_pattern(start) or owner.start.startswith(start) for start in starts)
        for rule in (*owner.rules, Rule("" if owner.has_one_key else "*"))
        if owner.start or rule in owner.rules  # without a prefix any key begins so
    ]


def _precedence(owner: Owner) -> tuple[Any, ...]:
    """Entries before factories, which have Kedro's own order (``CatalogConfigResolver``)."""
    if not owner.start:
        return (2,)
    if not _is_pattern(owner.start):
        return 0, -len(owner.start), not owner.rules  # one may only read what another writes
    outside = re.sub("{.*?}", "", owner.entry)
    return 1, -len(outside), -owner.entry.count("{"), owner.entry


def rules_in(catalog: Mapping[str, Any], separator: str) -> list[Rule]:
    """The rules in a catalog's configuration, also of dataset factories, see ``by_owner``."""
    entries = {name: _given(entry) for name, entry in catalog.items()}
    # Those of other types write no keys, and may take seconds to import.
    kinds = {str(each.get("type")) for each in entries.values() if each.get("metrics")}
    is_ours = {kind: _is_ours(kind) for kind in kinds}
    owners, place = [], 0
    for name, given in entries.items():
        kind = str(given.get("type"))
        if given.get("run_id") or not is_ours.get(kind, kind.endswith(".MlflowMetricsDataset")):
            continue
        prefix, key = given.get("prefix"), given.get("key")
        prefix = name.partition("@")[0] if prefix is None else str(prefix)
        start = name_pattern(re.sub("{.*?}", "*", str(key or prefix)))
        start += separator if start and not key else ""
        rules = parse_rules(given.get("metrics") or {}, place)
        place += len(rules)
        owners.append(Owner(name, start, rules, bool(key)))
    return by_owner(owners)


def _given(entry: Any) -> Mapping[str, Any]:
    """What a catalog's entry says; of a CachedDataset the entry within."""
    inner = entry.get("dataset") if isinstance(entry, Mapping) else None
    found = inner if isinstance(inner, Mapping) else entry
    return found if isinstance(found, Mapping) else {}


def _is_ours(kind: Any) -> bool:
    """Whether the type of a catalog's entry is the metrics dataset, or a class made of it."""
    loaded: Any = None
    with suppress(ImportError, AttributeError, ValueError):
        loaded = load_obj(str(kind))
    return "MlflowMetricsDataset" in [base.__name__ for base in getattr(loaded, "__mro__", ())]


def rule_of(key: str, rules: Iterable[Rule]) -> Rule | None:
    """The first rule about a key; none is about the system's metrics."""
    if key.startswith(SYSTEM):
        return None
    return next((rule for rule in rules if _matches(rule.key, key)), None)


def limits(
    values: Mapping[str, float], rules: Iterable[Rule], baseline: Mapping[str, float]
) -> list[Limit]:
    """How a run's values meet the limits; without a baseline those against one are met.

    A metric that the run lacks does not meet its limits, if the run has others of the same dataset;
    for a dataset without a prefix, others with a rule: the rest may be another dataset's.
    """
    rules = tuple(rules)
    found = [(key, rule) for key in sorted(values) if (rule := rule_of(key, rules))]
    written = {rule.start for _, rule in found if rule.start or rule.greater_is_better is not None}
    missing = [
        (rule.key, rule)
        for rule in rules
        if not _is_pattern(rule.key) and rule.key not in values and rule.start in written
    ]
    return [
        limit
        for key, rule in found + missing
        for limit in _limits(key, rule, values.get(key), baseline.get(key))
    ]


def _is_pattern(name: str) -> bool:
    return re.search("[*?]", name) is not None


def _matches(pattern: str, key: str) -> bool:
    if not _is_pattern(pattern):
        return pattern == key
    words = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(words, key) is not None


def _limits(key: str, rule: Rule, value: float | None, before: float | None) -> Iterator[Limit]:
    before = None if before is not None and math.isnan(before) else before
    for name in _LIMITS:
        limit = getattr(rule, name)
        if limit is None:
            continue
        if name == "threshold":
            passed = value is not None and (value == limit or rule.is_better(value, limit))
            yield Limit(key, name, limit, value, None, passed, bool(rule.greater_is_better))
        else:
            passed = value is not None and (
                before is None
                or _regression(rule, name, value, before) <= limit * (1 + 1e-9) + 1e-12
            )
            yield Limit(key, name, limit, value, before, passed, bool(rule.greater_is_better))


def _regression(rule: Rule, name: str, value: float, before: float) -> float:
    """By how much the value is worse; infinite where it is no number."""
    if value == before or rule.is_better(value, before):
        return 0.0
    worse = abs(before - value)
    if name == "max_relative_regression":
        worse = worse / abs(before) if before else math.inf
    return math.inf if math.isnan(worse) else worse
