"""What a node may return: what is accepted is read back, what is not writes nothing."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers import examples, forget_store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kedro.io import DatasetError
from lab.tracking.dataset import MlflowMetricsDataset
from lab.tracking.delivery.binding import Binding
from lab.tracking.delivery.route import Destination
from lab.tracking.names import MAX_KEY_LENGTH
from lab.tracking.points import PointsError, allowed_name, parse
from mlflow import MlflowClient

NOTHING = (None, None)


def points_of(data: Any) -> dict[str, list[Any]]:
    return {
        metric.name: list(
            zip(
                metric.values,
                metric.steps or [None for _ in metric.values],
                metric.timestamps or [None for _ in metric.values],
                strict=True,
            )
        )
        for metric in parse(data)
    }


class Epoch(NamedTuple):
    value: float
    step: int | None = None
    timestamp: int | None = None


class Backwards(NamedTuple):
    step: float
    value: float


class Place(NamedTuple):
    x: float
    y: float


class Tensor:
    """As PyTorch's: `ndim`, `tolist` and `item`, and no NumPy array without a detour."""

    def __init__(self, values: Any) -> None:
        self._array = np.asarray(values)
        self.ndim = self._array.ndim

    def tolist(self) -> Any:
        return self._array.tolist()

    def item(self) -> Any:
        return self._array.item()


@pytest.mark.parametrize(
    "value",
    [
        1,
        1.0,
        True,
        Fraction(1),
        Decimal(1),
        np.longdouble(1),
        np.float16(1),
        np.float32(1),
        np.float64(1),
        np.int8(1),
        np.uint64(1),
        np.bool_(True),
        np.array(1.0),
        np.array(1),
        pd.Series([1.0])[0],
        pd.Series([1], dtype="Int64")[0],
        Tensor(1.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_real_number_is_one_point_at_the_next_step(value: Any) -> None:
    assert points_of({"m": value}) == {"m": [(1.0, *NOTHING)]}
    assert points_of({"m": {"value": value, "step": 3}}) == {"m": [(1.0, 3, None)]}


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        (1, 2.0),
        np.array([1.0, 2.0]),
        np.array([1, 2], dtype=np.int32),
        pd.Series([1.0, 2.0], index=["a", "b"]),
        pd.Series([1, 2], dtype="Int64"),
        pl.Series([1.0, 2.0]),
        pl.Series([1, 2]),
        np.array([1, 2], dtype=np.longdouble),
        [Decimal(1), np.longdouble(2)],
        Tensor([1.0, 2.0]),
        [np.float32(1), Tensor(2.0)],
        [{"value": 1}, 2.0],
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_list_an_array_or_a_series_is_one_point_each(value: Any) -> None:
    assert points_of({"m": value}) == {"m": [(1.0, *NOTHING), (2.0, *NOTHING)]}


@pytest.mark.parametrize(
    ("value", "points"),
    [
        ({"value": 1.0}, [(1.0, None, None)]),
        ({"value": 1.0, "step": np.int64(4)}, [(1.0, 4, None)]),
        ({"value": 1.0, "step": -2}, [(1.0, -2, None)]),
        ({"value": 1.0, "step": 4.0}, [(1.0, 4, None)]),
        ({"value": 1.0, "timestamp": 0}, [(1.0, None, 0)]),
        ({"value": 1.0, "step": 4, "timestamp": 5}, [(1.0, 4, 5)]),
        ([{"value": 1.0, "step": 4}, {"value": 2.0}], [(1.0, 4, None), (2.0, None, None)]),
        ({1: 1.0, 2: 2.0}, [(1.0, 1, None), (2.0, 2, None)]),
        ({np.int64(7): np.float32(0.5)}, [(0.5, 7, None)]),
        ([], []),
        ({}, []),
        (np.array([]), []),
    ],
)
def test_points_with_steps_and_timestamps(value: Any, points: list[Any]) -> None:
    assert points_of({"m": value}) == {"m": points}


@pytest.mark.parametrize(
    ("value", "points"),
    [
        (Epoch(0.5, 3), [(0.5, 3, None)]),
        (Epoch(0.5), [(0.5, None, None)]),
        (Epoch(0.5, 3, 7), [(0.5, 3, 7)]),
        (Backwards(3.0, 0.5), [(0.5, 3, None)]),
        ([Epoch(0.5, 3), Epoch(0.6)], [(0.5, 3, None), (0.6, None, None)]),
    ],
)
def test_a_named_tuple_is_one_point(value: Any, points: list[Any]) -> None:
    assert points_of({"m": value}) == {"m": points}


@pytest.mark.parametrize(
    ("index", "steps"),
    [
        (None, [None, None]),  # pandas' own
        ([10, 20], [10, 20]),
        ([5, 2], [5, 2]),
        ([-1, 0], [-1, 0]),
        (pd.Index([0, 1]), [0, 1]),
        (pd.RangeIndex(5, 7), [5, 6]),  # the end of a longer series
        (pd.Index([1.0, 2.0]), [1, 2]),
        ([1.5, 2.0], [None, None]),
        ([0, 0], [None, None]),
        (["cat", "dog"], [None, None]),
        ([True, False], [None, None]),
        (pd.to_datetime(["2026-01-01", "2026-01-02"]), [None, None]),
        (pd.MultiIndex.from_tuples([(1, 2), (3, 4)]), [None, None]),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [float, int, object, "Int64"])
def test_an_index_of_unique_whole_numbers_gives_the_steps(
    index: Any, steps: list[Any], dtype: Any
) -> None:
    series = pd.Series([1, 2], index=index, dtype=dtype)

    assert points_of({"m": series}) == {"m": [(1.0, steps[0], None), (2.0, steps[1], None)]}


def test_nested_names_are_joined_by_the_separator() -> None:
    data = {"train": {"loss": 0.1, "by_class": {"cat": [1.0]}}, "test": {"loss": {"value": 0.2}}}

    assert set(points_of(data)) == {"train.loss", "train.by_class.cat", "test.loss"}
    assert [metric.name for metric in parse({"a": {"b": 1.0}}, separator="/")] == ["a/b"]


REFUSED: list[tuple[str, Any, str]] = [
    ("no mapping", 1.0, "mapping of names"),
    ("no mapping", [("a", 1.0)], "mapping of names"),
    ("no mapping", "a", "mapping of names"),
    ("text", {"m": "0.5"}, r"'m' is '0\.5' \(str\)"),
    ("none", {"m": None}, r"'m' is None"),
    ("complex", {"m": 1j}, r"'m' is 1j \(complex\)"),
    ("numpy text", {"m": np.str_("a")}, "'m'"),
    ("numpy complex", {"m": np.complex128(1j)}, "'m'"),
    ("date", {"m": np.datetime64("2026-01-01")}, "'m'"),
    ("pandas NA", {"m": pd.NA}, "'m'"),
    ("masked", {"m": np.ma.masked}, "'m'"),
    ("2-d array", {"m": np.ones((2, 2))}, "'m' is a 2-d ndarray"),
    ("data frame", {"m": pd.DataFrame({"a": [1.0]})}, "'m' is a 2-d DataFrame"),
    ("list of lists", {"m": [[1.0]]}, "'m', item 0"),
    ("list with text", {"m": [1.0, "b"]}, "'m', item 1, is 'b'"),
    ("array of objects", {"m": np.array([1.0, None])}, "'m', item 1"),
    ("set", {"m": {1.0}}, "'m'"),
    ("too large", {"m": 10**400}, "'m'"),
    ("too large to print", {"m": 10**5000}, "'m', its value, is"),
    ("too large a fraction", {"m": Fraction(10**400)}, "'m', its value"),
    ("too large a decimal", {"m": Decimal("1e400")}, "'m', its value"),
    ("signalling NaN", {"m": Decimal("sNaN")}, "'m', its value"),
    ("too large a longdouble", {"m": np.longdouble("1e400")}, "'m', its value"),
    ("too large in an array", {"m": np.array(["1e400"], dtype=np.longdouble)}, "'m', item 0"),
    ("step too large for a float", {"m": {"value": 1.0, "step": 10**400}}, "has the step 1000"),
    ("key too large for a float", {"m": {10**400: 1.0}}, "has the step 1000"),
    ("timestamp too large", {"m": {"value": 1.0, "timestamp": 10**400}}, "timestamp 1000"),
    ("datetime", {"m": datetime(2026, 1, 1)}, r"'m' is datetime"),
    ("date in nanoseconds", {"m": np.datetime64("2026-01-01", "ns")}, r"type datetime64\[ns\]"),
    ("dates", {"m": np.array(["2026-01-01"], dtype="M8[ns]")}, r"type datetime64\[ns\]"),
    ("span of time", {"m": np.timedelta64(5, "ns")}, r"type timedelta64\[ns\]"),
    ("pandas dates", {"m": pd.Series(pd.to_datetime(["2026-01-01"]))}, "type datetime64"),
    ("pandas date", {"m": pd.Timestamp(2026, 1, 1)}, "'m' is Timestamp"),
    ("series with NA", {"m": pd.Series([1, None], dtype="Int64")}, "'m', item 1, is <NA>"),
    ("polars null", {"m": pl.Series([1, None])}, "'m', item 1, is None"),
    ("polars frame", {"m": pl.DataFrame({"a": [1]})}, "'m' is .*DataFrame"),
    ("structured array", {"m": np.zeros(2, dtype=[("a", float), ("b", int)])}, "'m' has values of"),
    ("record", {"m": np.zeros(2, dtype=[("a", float), ("b", int)])[0]}, "'m' has values of"),
    ("masked array", {"m": np.ma.array([1.0, 2.0], mask=[False, True])}, "'m', item 1, is None"),
    ("generator", {"m": (value for value in [1.0])}, "'m' is <generator"),
    ("range", {"m": range(3)}, r"'m' is range\(0, 3\)"),
    ("named tuple", {"m": Place(1.0, 2.0)}, "unknown field 'x'"),
    ("a frame", pd.DataFrame({"a": [1.0], "b": [1.0]}), "mapping of names"),
    ("a date as step", {"m": {"value": 1.0, "step": np.timedelta64(5, "ns")}}, "has the step"),
    ("step not whole", {"m": {"value": 1.0, "step": 1.5}}, r"'m' has the step 1\.5"),
    ("step is text", {"m": {"value": 1.0, "step": "1"}}, "'m' has the step '1'"),
    ("step is true", {"m": {"value": 1.0, "step": True}}, "'m' has the step True"),
    ("step is none", {"m": {"value": 1.0, "step": None}}, "'m' has the step None"),
    ("step is nan", {"m": {"value": 1.0, "step": math.nan}}, "'m' has the step nan"),
    ("step too large", {"m": {"value": 1.0, "step": 2**63}}, "'m' has the step 92233"),
    ("value at a step", {"m": {"value": "x", "step": 3}}, "'m', step 3, is 'x'"),
    ("value of a step", {"m": {3: "x"}}, "'m', step 3, is 'x'"),
    ("timestamp", {"m": {"value": 1.0, "timestamp": -1}}, "timestamp -1"),
    ("nanoseconds", {"m": {"value": 1.0, "timestamp": 10**18}}, "up to the year 9999"),
    ("timestamp", {"m": {"value": 1.0, "timestamp": "now"}}, "timestamp 'now'"),
    ("no value", {"m": {"step": 3}}, "no 'value'"),
    ("typing error", {"m": {"value": 1.0, "steps": 3}}, "unknown field 'steps'"),
    ("empty name", {"": 1.0}, "name ''"),
    ("blank name", {" ": 1.0}, "name ' '"),
    ("number as name", {1: 1.0}, "name 1"),
    ("none as name", {None: 1.0}, "name None"),
    ("mixed names", {"m": {"a": 1.0, 2: 1.0}}, "name 2 .* in 'm'"),
]


@pytest.mark.parametrize(
    ("data", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_anything_else_is_refused_in_one_sentence(data: Any, message: str) -> None:
    with pytest.raises(PointsError, match=message) as caught:
        parse(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("precision@10", "precision_10"),
        ("acc(%)", "acc___"),
        ("a b-c_d.e/f", "a b-c_d.e/f"),
        ("größe", "größe"),
        ("a:b", "a_b"),
        ("/abs", "_/abs"),
        ("a//b", "a/_/b"),
        ("../up", "__/up"),
        ("./here", "_/here"),
        ("end/", "end/_"),
        ("line\n", "line_"),
        ("\u202eright", "_right"),
        ("\x00", "_"),
        ("\ud800", "_"),
    ],
)
def test_what_mlflow_refuses_in_a_name_is_replaced(name: str, cleaned: str) -> None:
    assert allowed_name(name) == cleaned


@given(st.text(min_size=1))
def test_a_cleaned_name_is_one_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(allowed_name(name))
    assert allowed_name(allowed_name(name)) == allowed_name(name)


# --- from here on with a real store


@pytest.fixture(scope="module")
def uri(copy_store: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{copy_store(tmp_path_factory.mktemp('points') / 'mlflow.db')}"


def bound(uri: str, prefix: str = "m", *, separator: str = ".") -> MlflowMetricsDataset:
    run = MlflowClient(uri).create_run("0")
    dataset = MlflowMetricsDataset()
    destination = Destination(uri, run.info.run_id)
    dataset.bind(Binding("m", prefix, separator, destination))
    return dataset


def destination_of(dataset: MlflowMetricsDataset) -> Destination:
    assert dataset.binding is not None
    assert dataset.binding.destination is not None
    return dataset.binding.destination


def test_the_whole_payload_is_checked_before_anything_is_written(uri: str) -> None:
    dataset = bound(uri)

    with pytest.raises(DatasetError, match=r"'bad', item 1500.*Nothing of 'm' was written"):
        dataset.save({"good": [1.0] * 1500, "bad": [1.0] * 1500 + ["x"]})

    assert dataset.load() == {}
    assert not dataset.exists()


def test_the_next_step_counts_on_by_key(uri: str) -> None:
    dataset = bound(uri)

    dataset.save({"a": 0.1})
    dataset.save({"a": 0.2, "b": [1.0, 2.0]})
    dataset.save({"a": {"value": 0.3, "step": 10}, "b": 3.0})
    dataset.save({"a": [{"value": 0.4, "step": 5}, 0.5]})
    dataset.save({"a": 0.6})

    assert [point["step"] for point in dataset.load()["a"]] == [0, 1, 5, 6, 10, 11]
    assert [point["step"] for point in dataset.load()["b"]] == [0, 1, 2]


def test_steps_count_on_from_what_an_external_run_has(uri: str) -> None:
    first = bound(uri)
    first.save({"a": [0.1, 0.2]})
    second = MlflowMetricsDataset()
    second.bind(Binding("m", "m", ".", destination_of(first)))

    second.save({"a": 0.3})

    assert [point["step"] for point in first.load()["a"]] == [0, 1, 2]


def test_there_is_no_step_after_the_last(uri: str) -> None:
    dataset = bound(uri)
    dataset.save({"a": {"value": 1.0, "step": 2**63 - 1}})

    with pytest.raises(DatasetError, match="'a' has no step after"):
        dataset.save({"a": 1.0})


def test_more_points_than_a_request_takes(uri: str) -> None:
    dataset = bound(uri)

    dataset.save({"a": np.arange(1500) / 2, "b": list(range(1700))})

    loaded = dataset.load()
    assert [point["value"] for point in loaded["a"]] == [step / 2 for step in range(1500)]
    assert [point["step"] for point in loaded["b"]] == list(range(1700))


def test_nan_and_infinities_are_logged_with_one_warning_a_metric(
    uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = bound(uri)

    for _ in range(3):
        dataset.save({"a": [math.nan, math.inf, -math.inf], "b": math.nan, "c": 1.0})
        dataset.save({"d": np.array([0.0, math.inf]), "e": np.array([0.0, 1.0])})

    assert [
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    ] == [
        "The metric 'a' of 'm' is NaN or infinite.",
        "The metric 'b' of 'm' is NaN or infinite.",
        "The metric 'd' of 'm' is NaN or infinite.",
    ]
    values = [point["value"] for point in dataset.load()["a"]]
    assert math.isnan(values[0])
    assert values[1:3] == [math.inf, -math.inf]


def test_a_name_that_mlflow_refuses_is_changed_with_one_warning(
    uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = bound(uri)

    for _ in range(3):
        dataset.save({"precision@10": 0.5})

    (warning,) = caplog.records
    assert "'precision@10'" in warning.getMessage()
    assert "'m.precision_10'" in warning.getMessage()
    assert set(dataset.load()) == {"precision_10"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a@b": 1.0, "a(b": 1.0}, "'a@b' and 'a\\(b' are one key"),
        ({"a.b": 1.0, "a": {"b": 1.0}}, "'a.b' and 'a.b' are one key"),
        ({"x" * MAX_KEY_LENGTH: 1.0}, "252 characters; MLflow allows 250"),
    ],
)
def test_keys_that_cannot_be_are_refused(uri: str, data: Any, message: str) -> None:
    dataset = bound(uri)

    with pytest.raises(DatasetError, match=message):
        dataset.save({"good": 1.0, **data})

    assert dataset.load() == {}


def test_a_prefix_does_not_pick_up_its_neighbours(uri: str) -> None:
    foo = bound(uri, "foo")
    for prefix in ("foobar", "FOO", "fo_"):
        neighbour = MlflowMetricsDataset(prefix=prefix)
        neighbour.bind(Binding("n", prefix, ".", destination_of(foo)))
        neighbour.save({"x": 1.0})
    assert not foo.exists()

    foo.save({"y": 2.0})

    assert foo.load() == {"y": {"value": 2.0, "step": 0}}
    assert foo.exists()


def test_an_empty_prefix_is_none(uri: str) -> None:
    dataset = bound(uri, "")
    dataset.save({"a": 1.0})

    keys = MlflowClient(uri).get_run(destination_of(dataset).run_id).data.metrics
    assert set(keys) == {"a"}
    assert dataset.load() == {"a": {"value": 1.0, "step": 0}}


def test_a_timestamp_is_kept_and_one_save_has_one(uri: str) -> None:
    dataset = bound(uri)
    given = [{"value": 1.0, "timestamp": 0}, {"value": 1.0, "timestamp": 1234}]
    dataset.save({"given": given, "own": list(range(2500))})

    client, run_id = MlflowClient(uri), destination_of(dataset).run_id
    assert [p.timestamp for p in client.get_metric_history(run_id, "m.given")] == [0, 1234]
    assert len({p.timestamp for p in client.get_metric_history(run_id, "m.own")}) == 1


def test_there_is_nothing_without_a_run(uri: str) -> None:
    assert not MlflowMetricsDataset(prefix="m").exists()
    gone = MlflowMetricsDataset(prefix="m", run_id="0" * 32)
    mlflow.set_tracking_uri(uri)
    try:
        assert not gone.exists()
        with pytest.raises(DatasetError, match="no MLflow run"):
            MlflowMetricsDataset(prefix="m").save({"a": 1.0})
    finally:
        forget_store()


@pytest.mark.parametrize("argument", ["prefix", "run_id"])
@pytest.mark.parametrize("value", [2024, ["a"], True])
def test_arguments_that_are_no_text_are_refused(argument: str, value: Any) -> None:
    config = {"type": MlflowMetricsDataset, argument: value}

    with pytest.raises(DatasetError, match=rf"(?s)'{argument}' is .*'my_metrics'"):
        MlflowMetricsDataset.from_config("my_metrics", config)


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"(?s)prefxi.*'my_metrics'"):
        MlflowMetricsDataset.from_config(
            "my_metrics", {"type": MlflowMetricsDataset, "prefxi": "a"}
        )


# The largest double is how MLflow keeps an infinity, and is read back as one.
reals = st.one_of(
    st.floats(max_value=1e308, min_value=-1e308),
    st.integers(-(10**15), 10**15),
    st.booleans(),
    st.sampled_from([math.inf, -math.inf, math.nan]),
    st.floats(width=32).map(np.float32),
    st.integers(-(2**31), 2**31 - 1).map(np.int64),
)
steps = st.integers(-(2**63), 2**63 - 10_000)
names = st.text(min_size=1, max_size=20).filter(str.strip)
points = st.one_of(
    reals,
    st.fixed_dictionaries(
        {"value": reals}, optional={"step": steps, "timestamp": st.integers(0, 253_402_300_799_999)}
    ),
)
metrics = st.one_of(
    points,
    st.lists(points, max_size=5),
    st.lists(st.floats(-1e300, 1e300), max_size=5).map(np.array),
    st.builds(Epoch, reals, steps),
    st.dictionaries(steps, st.floats(-1e300, 1e300), min_size=1, max_size=5).map(pd.Series),
    st.dictionaries(steps, reals, min_size=1, max_size=5),
)
payloads = st.dictionaries(
    names, st.one_of(metrics, st.dictionaries(names, metrics, min_size=1, max_size=3)), max_size=4
)
junk = st.recursive(
    st.one_of(st.none(), st.text(max_size=5), st.complex_numbers(), reals, st.dates()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.text(max_size=5), st.integers(), st.none(), st.floats()),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


def expected(data: Any) -> dict[str, set[tuple[int, str]]]:
    """What must be read back of a payload of the strategy above: its rules, written anew."""
    return {allowed_name(name): rows for name, rows in _expected(data).items() if rows}


def _expected(data: Any) -> dict[str, set[tuple[int, str]]]:
    found: dict[str, set[tuple[int, str]]] = {}
    for name, given_metric in data.items():
        metric = _as_mapping(given_metric)
        if isinstance(metric, dict) and metric and "value" not in metric and _named(metric):
            found |= {f"{name}.{inner}": rows for inner, rows in _expected(metric).items()}
            continue
        items = metric if isinstance(metric, list | np.ndarray) else [metric]
        if isinstance(metric, dict) and "value" not in metric:
            items = [{"value": value, "step": step} for step, value in metric.items()]
        found[name], last = set(), -1
        for item in items:
            point = item if isinstance(item, dict) else {"value": item}
            last = point.get("step", last + 1)
            found[name].add((int(last), repr(float(point["value"]) + 0.0)))
    return found


def _as_mapping(metric: Any) -> Any:
    """A named tuple or a Series as the mapping that means the same."""
    if isinstance(metric, Epoch):
        return {"value": metric.value, "step": metric.step}
    return metric.to_dict() if isinstance(metric, pd.Series) else metric


def _named(metric: dict[Any, Any]) -> bool:
    return all(isinstance(key, str) for key in metric)


Loaded = dict[str, set[tuple[int, str]]]


def check(dataset: MlflowMetricsDataset, data: Any, before: Loaded) -> Loaded | None:
    """Save; what is read back, or None where it was refused and nothing was written."""
    is_saved = True
    try:
        dataset.save(data)
    except DatasetError as error:
        assert "Nothing of 'm' was written" in str(error) or data is None
        is_saved = False
    loaded = {
        name: {(p["step"], repr(p["value"] + 0.0)) for p in (m if isinstance(m, list) else [m])}
        for name, m in dataset.load().items()
    }
    assert is_saved or loaded == before
    return loaded if is_saved else None


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow])
@given(payloads)
def test_whatever_is_accepted_is_read_back(uri: str, data: Any) -> None:
    loaded = check(bound(uri), data, {})
    assert loaded is None or loaded == expected(data)


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow])
@given(junk)
def test_whatever_is_refused_writes_nothing(uri: str, data: Any) -> None:
    check(bound(uri), data, {})


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(4))
@settings(max_examples=1250, suppress_health_check=list(HealthCheck))
@given(payloads, junk)
def test_any_payload_at_length(uri: str, part: int, accepted: Any, refused: Any) -> None:
    """10,000 payloads."""
    dataset = bound(uri)
    loaded = check(dataset, accepted, {})
    assert loaded is None or loaded == expected(accepted)
    check(dataset, refused, loaded or {})
