"""What a node returned, as validated points: pure functions, without MLflow, files or a clock."""

import math
import numbers
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from .names import A_METRIC, A_STEP, A_TIMESTAMP, A_VALUE, MAX_KEY_LENGTH, MAX_STEP, TIMES, shown

# MLflow 3.17, mlflow.utils.validation: names are [/\w.\- :] (no colon on Windows) and normal
# paths. A colon is replaced everywhere: a key is the same on all machines.
_REFUSED_BY_MLFLOW = re.compile(r"[^/\w.\- ]")


class PointsError(ValueError):
    """A payload that is not metrics. The message names the metric, the step and what is allowed."""


class Point(NamedTuple):
    """One point, as MLflow stores it; the timestamp is in milliseconds since the epoch."""

    key: str
    value: float
    step: int
    timestamp: int
    model_id: str | None = None


@dataclass(frozen=True)
class Points:
    """The points of one metric, in the order in which they were given."""

    name: str  # nested names are joined by the separator
    values: Sequence[float]  # one a point, NaN and infinities included; a NumPy array stays one
    steps: Sequence[int | None] | None = None  # None: where none was given, or none at all
    timestamps: Sequence[int | None] | None = None  # the same, in milliseconds since the epoch

    def numbered(self, first: int) -> Sequence[int]:
        """The steps, where a missing one is the last plus 1, and the very first is ``first``."""
        steps: list[int] | range = range(first, first + len(self.values))
        if self.steps is not None:
            steps = []
            for step in self.steps:
                steps.append(step if step is not None else steps[-1] + 1 if steps else first)
        if max(steps, default=0) > MAX_STEP:
            raise PointsError(f"Metric {self.name!r} has no step after {MAX_STEP}; {A_STEP}.")
        return steps

    @property
    def has_steps(self) -> bool:
        """Whether every point was given its step."""
        return self.steps is not None and None not in self.steps

    @property
    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        if isinstance(self.values, list | tuple):
            return all(map(math.isfinite, self.values))
        return bool(sys.modules["numpy"].isfinite(self.values).all())


def parse(data: object, separator: str = ".") -> list[Points]:
    """The points of all metrics in what a node returned.

    Args:
        data: A mapping of metric name to a metric:

            - a real number: one point at the next step;
            - ``{"value": v}``, with ``"step"`` and ``"timestamp"`` (ms) if wanted: one point;
            - a list, tuple, 1-d array or Series of these: one point each. A Series' index of unique
              whole numbers gives the steps, except pandas' default one; other labels say nothing;
            - a named tuple with the fields of a point: one point;
            - ``{step: v, ...}`` with whole-number keys: one point each;
            - a mapping of names to metrics: the same, one level down.
        separator: Joins the names of nested mappings.

    Raises:
        PointsError: Anything else, at any depth. Nothing is returned in part.
    """
    if not isinstance(data, Mapping):
        rule = "Metrics are a mapping of names to metrics"
        raise PointsError(f"{rule}, not {shown(data)}; return a dict.")
    return list(_walk(data, (), separator))


def by_key(metrics: Iterable[Points], prefix: str, separator: str) -> dict[str, Points]:
    """The metrics under the keys that they have in MLflow: prefix, separator, name.

    Raises:
        PointsError: Two names make the same key, or a key is too long for MLflow.
    """
    start = key_prefix(prefix, separator)
    keys: dict[str, Points] = {}
    for metric in metrics:
        key = start + allowed_name(metric.name)
        if key in keys:
            raise PointsError(
                f"The metric names {keys[key].name!r} and {metric.name!r} are one key in MLflow,"
                f" {key!r}; rename one of them."
            )
        if len(key) > MAX_KEY_LENGTH:
            raise PointsError(
                f"The key '{key[:40]}...' has {len(key)} characters; MLflow allows"
                f" {MAX_KEY_LENGTH}. Shorten the metric's name or set a shorter 'prefix'."
            )
        keys[key] = metric
    return keys


def key_prefix(prefix: str, separator: str) -> str:
    """What every key of a prefix begins with; nothing for the prefix ``""``."""
    return allowed_name(prefix) + separator if prefix else ""


def allowed_name(name: str) -> str:
    """The name, with what MLflow refuses in it, also the paths ``a//b``, ``./a``, as ``_``."""
    parts = _REFUSED_BY_MLFLOW.sub("_", name).split("/")
    return "/".join("_" * max(len(part), 1) if part in ("", ".", "..") else part for part in parts)


def _walk(data: Mapping[Any, Any], path: tuple[str, ...], separator: str) -> Iterator[Points]:
    for name, value in data.items():
        if not isinstance(name, str) or not name.strip():
            what = f"{shown(name)} in {separator.join(path)!r}" if path else shown(name)
            raise PointsError(f"The metric name {what} is not one; a name is a non-empty string.")
        full = (*path, name)
        if isinstance(value, Mapping) and not _is_point(value) and None in map(_as_int, value):
            yield from _walk(value, full, separator)  # a key is a name, and no step
        else:
            yield _metric(separator.join(full), value)


def _is_point(value: Mapping[Any, Any]) -> bool:
    return "value" in value or (bool(value) and set(value) <= {"step", "timestamp"})


def _metric(name: str, value: Any) -> Points:
    if type(value) is float:  # most are
        return Points(name, (value,))
    index, value = getattr(value, "index", None), _plain(name, value)  # a list's is a method
    if _is_numbers(value):
        return Points(name, value, _steps_of(name, index))
    rows: list[tuple[float, int | None, int | None]]
    if isinstance(value, Mapping) and not _is_point(value):
        rows = [(_number(name, v, f"step {s}"), _step(name, s), None) for s, v in value.items()]
    elif isinstance(value, list | tuple) and not hasattr(value, "_asdict"):
        rows = [_row(name, item, f"item {number}") for number, item in enumerate(value)]
    elif isinstance(value, Mapping | tuple | numbers.Real | Decimal):
        rows = [_row(name, value, "its value")]
    else:
        raise PointsError(f"Metric {name!r} is {shown(value)}; {A_METRIC}.")
    values, steps, timestamps = zip(*rows, strict=True) if rows else ((), (), ())
    return Points(name, values, _steps_of(name, index) or steps, timestamps)


def _steps_of(name: str, index: Any) -> Sequence[int] | None:
    """The steps that the index of a pandas Series gives, if it does."""
    is_set = type(index).__name__ != "RangeIndex" or (index.start, index.step) != (0, 1)
    are_steps = is_set and getattr(index, "is_unique", False) and None not in map(_as_int, index)
    return [_step(name, label) for label in index] if are_steps else None


def _row(name: str, item: Any, where: str) -> tuple[float, int | None, int | None]:
    if hasattr(item, "_asdict"):  # a named tuple, whose fields may be None by default
        fields = item._asdict().items()
        item = {key: field for key, field in fields if field is not None or key == "value"}
    if not isinstance(item, Mapping):
        return _number(name, item, where), None, None
    unknown = [key for key in item if key not in ("value", "step", "timestamp")]
    if unknown or "value" not in item:
        problem = f"the unknown field {unknown[0]!r}" if unknown else "no 'value'"
        raise PointsError(
            f"A point of metric {name!r} has {problem}, {shown(dict(item))};"
            " a point has 'value' and, if wanted, 'step' and 'timestamp'."
        )
    step = _step(name, item["step"]) if "step" in item else None
    where = where if step is None else f"step {step}"
    stamp = _as_int(item["timestamp"]) if "timestamp" in item else None
    if "timestamp" in item and (stamp is None or stamp not in TIMES):
        error = f"Metric {name!r}, {where}, has the timestamp {shown(item['timestamp'])}"
        raise PointsError(f"{error}; {A_TIMESTAMP}.")
    return _number(name, item["value"], where), step, stamp


def _number(name: str, value: Any, where: str) -> float:
    if type(value) is float:  # most are
        return value
    scalar = _plain(name, value)
    with suppress(OverflowError, ValueError):  # 10**400; a signalling NaN
        if isinstance(scalar, numbers.Real | Decimal):
            number = float(scalar)
            if not math.isinf(number) or scalar == number:  # and not too large for a float
                return number
    raise PointsError(f"Metric {name!r}, {where}, is {shown(value)}; {A_VALUE}.")


def _step(name: str, value: Any) -> int:
    step = _as_int(value)
    if step is None or abs(step) > MAX_STEP:
        raise PointsError(f"Metric {name!r} has the step {shown(value)}; {A_STEP}.")
    return step


def _as_int(value: Any) -> int | None:
    """The value as an int, if it is one: 3, ``numpy.int64(3)`` or 3.0; not True, not "3"."""
    if getattr(value, "ndim", None) == 0 and not _is_date_or_record(value):
        value = value.item() if hasattr(value, "item") else value.numpy().item()
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _is_date_or_record(value: Any) -> bool:
    """Whether NumPy's ``item`` and ``tolist`` make of it ints (of dates) or tuples (of records)."""
    dtype = getattr(value, "dtype", None)
    return getattr(dtype, "kind", "") in ("M", "m") or bool(getattr(dtype, "names", None))


def _is_numbers(value: Any) -> bool:
    """Whether it is an array of doubles, or a list of floats: nothing to check in each item."""
    if type(value) in (list, tuple):  # a named tuple is one point
        return bool(value) and all(type(item) is float for item in value)
    return getattr(value, "ndim", 0) == 1


def _plain(name: str, value: Any) -> Any:
    """Arrays, Series and tensors as an array of doubles or as Python's lists; all else as it is."""
    if type(value).__module__.startswith("polars.") and hasattr(value, "to_list"):
        return value.to_list()  # a Series; its to_numpy() makes NaN of a null
    ndim = getattr(value, "ndim", None)  # of NumPy, pandas, PyTorch, JAX and TensorFlow
    if not isinstance(ndim, int):
        return value
    if ndim > 1:
        raise PointsError(f"Metric {name!r} is a {ndim}-d {type(value).__name__}; {A_METRIC}.")
    if _is_date_or_record(value):
        raise PointsError(f"Metric {name!r} has values of the type {value.dtype}; {A_VALUE}.")
    numpy: Any = sys.modules.get("numpy")
    if hasattr(value, "to_numpy"):  # a Series
        if not isinstance(value.dtype, numpy.dtype) and value.isna().any():
            return value.tolist()  # pandas 3.1's to_numpy() makes NaN of an NA
        value = value.to_numpy()
    elif not hasattr(value, "tolist"):  # TensorFlow's tensors
        value = value.numpy()
    fits = type(value) is getattr(numpy, "ndarray", None) and value.dtype.char in "?bBhHiIlLqQefd"
    return value.astype(float, copy=False) if fits and ndim else value.tolist()
