"""``MlflowMetricsDataset``: the catalog entry that puts a node's numbers into MLflow."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from multiprocessing import parent_process
from typing import TYPE_CHECKING, Any, NewType, cast

from kedro.io import AbstractDataset, DatasetError

from .names import check_arguments, entry_being_built
from .points import Points, PointsError, allowed_name, by_key, parse

if TYPE_CHECKING:
    from .delivery.binding import Binding
    from .delivery.delivery import Delivery
    from .process.membership import Membership
    from .reports.rules import Rule
    from .store.queries import History

logger = logging.getLogger(__name__)

# Kedro-Viz decides by this type's name how to draw a preview.
PlotlyPreview = NewType("PlotlyPreview", dict[str, Any])


class MlflowMetricsDataset(AbstractDataset[Mapping[str, Any], dict[str, Any]]):
    """Metrics in an MLflow run: ``save`` writes them, ``load`` reads them back.

    In a pipeline, ``MlflowPipelineHook`` gives the dataset its name as prefix and the MLflow run
    of the Kedro run. Outside of one it uses the run that is active:

        with mlflow.start_run():
            catalog.save("my_model_metrics", {"accuracy": 0.9})

    In the catalog, keys ``my_model_metrics.accuracy`` and, with the second, ``foo.accuracy``:

        my_model_metrics:
          type: my_project.tracking.MlflowMetricsDataset
        my_other_metrics:
          type: my_project.tracking.MlflowMetricsDataset
          prefix: foo

    ``load`` reads the current MLflow run. An input of the pipeline (``kedro run --nodes``) and,
    with ``--only-missing-outputs``, what this run has not made, is read from the newest run of the
    experiment that has it; outside of a run all is read from the last finished one.

    In a node; ``points.parse`` lists all that it may return:

        def evaluate() -> dict[str, Any]:
            return {"accuracy": 0.9, "loss": [{"value": 0.8, "step": 0}, {"value": 0.7, "step": 1}]}
    """

    def __init__(  # noqa: PLR0913
        self,
        *,
        prefix: str | None = None,
        key: str | None = None,
        run_id: str | None = None,
        metrics: Mapping[str, Mapping[str, Any]] | None = None,
        load_args: Mapping[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """A metrics dataset; every argument is optional.

        Args:
            prefix: What the keys begin with; the dataset's name if None, nothing if ``""``.
            key: The whole key of the only metric: a node returns its value, and not a mapping.
            run_id: An existing MLflow run to write to and read from, instead of the current one.
            metrics: What its metrics mean, by name or pattern (``recall*``): ``greater_is_better``
                and, if wanted, the limits ``threshold`` (the value has to reach it),
                ``max_regression`` and ``max_relative_regression`` (against another run).
            load_args: ``run``, the run to read: an id or its beginning, a name, ``last``,
                ``previous``, ``best:KEY`` or ``git:REVISION``; ``as: frame``, a DataFrame.
            metadata: Anything; Kedro ignores it, plugins may read it.
        """
        check_arguments(metrics, prefix=prefix, key=key, run_id=run_id)
        self.rules: Sequence[Rule] = ()
        self.reads_run, self._as_frame = cast("str | None", None), False
        if metrics is not None or load_args is not None:
            from .reports import rules

            self.rules = rules.parse_rules(metrics or {})
            self.reads_run, self._as_frame = rules.parse_load_args(load_args or {})
        self.metadata = metadata
        self.key, self._given_key = allowed_name(key) if key else None, key
        self.prefix = prefix = "" if key else prefix
        self.run_id = run_id or None
        self.membership: Membership | None = None  # by unpickling this a worker joins the run
        self.binding: Binding | None = None
        self._prefix = entry_being_built() if prefix is None else prefix
        self._warned: set[str] = set()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a worker process, keep Kedro's log as short as in the pipeline's."""
        self.__dict__.update(state)
        if parent_process():
            from .reports.saving_once import SavingOnce

            SavingOnce(None).begin()

    def bind(self, binding: Binding) -> None:
        """Give the dataset its prefix and its MLflow run."""
        self.binding = binding

    def save(self, data: Mapping[str, Any]) -> None:
        """Write metrics (see ``points.parse``): all of them, or none where one is not allowed.

        In a pipeline fewer than 1,000 points are queued, and within a second in the store or on
        disk. What the store refuses then is the error of a later save, or of the run's end.

        Raises:
            DatasetError: What is not allowed, in which metric, at which step; or no run is there.
        """
        if self.binding is None:
            from .reports import reading

            with reading.access():
                self._write(data, reading.unbound(self._prefix or "", self.run_id, self.key))
        else:
            self._write(data, self.binding)

    def _write(self, data: Any, binding: Binding) -> None:
        try:
            found = parse({self._given_key: data} if self.key else data, binding.separator)
            metrics = by_key(found, binding.prefix, binding.separator)
            if self.key and [*metrics] != [self.key]:
                raise PointsError(f"The metric {self.key!r} is one, not a mapping of names.")
            delivery = _delivery_of(binding)
            if delivery is None:
                _ = [metric.numbered(0) for metric in metrics.values()]
                return
            if not all(metric.has_steps for metric in metrics.values()):
                delivery.look_up_steps(binding.name, again=self.binding is None)
            _check_keys(delivery, metrics)
            steps = delivery.steps.number(metrics, binding.name)
        except PointsError as error:
            hint = "" if isinstance(data, Mapping) else binding.hint
            raise DatasetError(f"{error} Nothing of {binding.name!r} was written.{hint}") from None
        for message in _warnings(metrics, binding, delivery.steps.writers):
            if message not in self._warned:  # a generator may save the same metric a thousand times
                self._warned.add(message)
                logger.warning(message)
        delivery.send(metrics, steps)

    def load(self) -> dict[str, Any]:
        """Read the metrics back, without the prefix.

        Returns:
            Metric names to ``{"value": float, "step": int}``, or to a list of these in step
            order where there are several. Nested names are joined by the separator. As a frame:
            one row a point, with the columns key, step, value, timestamp and run.

        Raises:
            DatasetError: There is no such run, or outside of a run nothing to read.
        """
        from .reports import reading

        run_id, points, start = self._points()
        if self._as_frame:
            return cast("dict[str, Any]", reading.frame(run_id, points))
        if self.key:
            return cast("dict[str, Any]", reading.shaped(points[self.key]))
        return {key.removeprefix(start): reading.shaped(points[key]) for key in points}

    def preview(self) -> PlotlyPreview:
        """The curves of the run that ``load`` reads, for Kedro-Viz."""
        from .reports import reading

        run_id, points, _ = self._points()
        return PlotlyPreview(reading.figure(run_id, points))

    def _points(self) -> tuple[str, History, str]:
        """The id of the run that is read, its points by key, and what the keys begin with."""
        from .reports import reading

        with reading.access(may_look=self.binding is None):
            binding = self._to_read()
            run_id, points = reading.points_of(binding)
        if self.key and self.key not in points:
            raise DatasetError(f"There is no metric {self.key!r} in the MLflow run {run_id}.")
        if not points and (self.reads_run or binding is not self.binding):
            raise DatasetError(
                f"No metrics begin with {binding.start!r} in the MLflow run {run_id}."
            )
        return run_id, points, binding.start

    def _to_read(self) -> Binding:
        """The hook's binding; a new one if there is none or it lacks the run of ``load_args``."""
        bound = self.binding
        if bound and (not self.reads_run or bound.sources or bound.no_source):
            return bound
        from .reports import reading

        prefix = bound.prefix if bound else self._prefix or ""
        return reading.bound_to_read(prefix, self.run_id, self.reads_run, self.rules, self.key)

    def _exists(self) -> bool:
        from .reports import reading

        try:
            with reading.access(may_look=self.binding is None):
                return reading.exists(self._to_read())
        except DatasetError:  # no run
            return False

    def _describe(self) -> dict[str, Any]:
        prefix = self.binding.prefix if self.binding else self._prefix
        return {"prefix": prefix, "key": self.key, "run_id": self.run_id}


def _warnings(
    metrics: Mapping[str, Points], binding: Binding, writers: Mapping[str, str]
) -> Iterator[str]:
    """What is to be said of metrics, by key; ``writers`` are the datasets that wrote them first."""
    name = binding.name
    for key, metric in metrics.items():
        if not metric.is_finite:
            yield f"The metric {metric.name!r} of {name!r} is NaN or infinite."
        if allowed_name(metric.name) != metric.name:
            what = f"the metric name {metric.name!r} of {name!r}; the key is {key!r}"
            yield f"MLflow does not allow {what}."
        if binding.overlapping and writers[key] != name:
            others = " or ".join(map(repr, binding.overlapping))
            yield (
                f"The metrics datasets {name!r} and {others} both write the key {key!r};"
                " give one of them another 'prefix'."
            )


def _delivery_of(binding: Binding) -> Delivery | None:
    """This process's delivery to the dataset's run; None where tracking is off."""
    if binding.destination is None:
        return None
    from .delivery.delivery import delivery_to  # imported late: not every command needs it

    return delivery_to(binding.destination)


def _check_keys(delivery: Delivery, keys: Collection[str]) -> None:
    """Raise an error if the store would take two keys for one: MySQL's does."""
    run = delivery.destination
    if run.tracking_uri.startswith("mysql"):
        from .store.keys import check_keys

        check_keys(run.tracking_uri, run.run_id, keys, delivery.last_steps)
