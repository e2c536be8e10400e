"""``MlflowMetricsDataset``: the catalog entry that puts a node's numbers into MLflow."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kedro.io import AbstractDataset, DatasetError

from .config import current_config, current_separator
from .points import Points, PointsError, clean, key_start, keyed, parse, restore
from .store import MlflowRun, active_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Binding:
    """What a metrics dataset is told before any node runs. Plain values: it can be pickled.

    Attributes:
        name: The dataset's name in the catalog.
        prefix: Its own prefix, else its name.
        separator: Stands between the prefix and a metric's name.
        run: The MLflow run; None where tracking is off, and saves write nothing.
        is_new: Whether no other dataset has written to that run, so that steps begin at 0.
        rivals: The pipeline's other metrics datasets that may write the same keys.
    """

    name: str
    prefix: str
    separator: str
    run: MlflowRun | None
    is_new: bool = False
    rivals: tuple[str, ...] = ()


class MlflowMetricsDataset(AbstractDataset[Mapping[str, Any], dict[str, Any]]):
    """Metrics in an MLflow run: ``save`` writes them, ``load`` reads them back.

    In a pipeline, ``MlflowPipelineHook`` gives the dataset its name as prefix and the MLflow run
    of the Kedro run. Outside of one it uses the run that is active:

        with mlflow.start_run():
            catalog.save("my_model_metrics", {"accuracy": 0.9})

    Examples:
        In the catalog:

            my_model_metrics:
              type: my_project.tracking.MlflowMetricsDataset

            my_other_metrics:
              type: my_project.tracking.MlflowMetricsDataset
              prefix: foo

        In a node:

            def evaluate() -> dict[str, Any]:
                return {
                    "accuracy": 0.9,  # one point at the next step
                    "loss": {"value": 0.3, "step": 7},
                    "recall": [{"value": 0.8, "step": 0}, {"value": 0.9, "step": 1}],
                }

        The keys are ``my_model_metrics.accuracy``, or ``foo.accuracy``. All shapes that a node
        may return are listed at ``points.parse``.
    """

    def __init__(
        self,
        *,
        prefix: str | None = None,
        run_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """A metrics dataset; every argument is optional.

        Args:
            prefix: What the keys begin with; the dataset's name if None, nothing if ``""``.
            run_id: An existing MLflow run to write to and read from, instead of the current one.
            metadata: Anything; Kedro ignores it, plugins may read it.

        Raises:
            ValueError: ``prefix`` or ``run_id`` is not a string.
        """
        for argument, value in {"prefix": prefix, "run_id": run_id}.items():
            if value is not None and not isinstance(value, str):
                raise ValueError(
                    f"{argument!r} is {value!r} ({type(value).__name__}); it is a string:"
                    f' write "{value}", in quotes'
                )
        self.metadata = metadata
        self._prefix = prefix
        self._run_id = run_id or None
        self._binding: Binding | None = None
        self._next_steps: dict[str, int] | None = None
        self._saved_steps: dict[str, int] = {}
        self._told: set[str] = set()

    def bind(self, binding: Binding) -> None:
        """Tell the dataset its name and run; a prefix or a run of its own stays."""
        if self._prefix is not None:
            binding = replace(binding, prefix=self._prefix)
        if self._run_id is not None and binding.run is not None:
            own = replace(binding.run, run_id=self._run_id)
            binding = replace(binding, run=own, is_new=False)
        self._binding = binding
        self._next_steps = {} if binding.is_new and not binding.rivals else None
        self._saved_steps = {}

    @property
    def own_run(self) -> str | None:
        """The MLflow run that the catalog names, if it names one."""
        return self._run_id

    def key_start(self, binding: Binding) -> str:
        """What every key of this dataset begins with, once it is bound so."""
        prefix = binding.prefix if self._prefix is None else self._prefix
        return key_start(prefix, binding.separator)

    def save(self, data: Mapping[str, Any]) -> None:
        """Write metrics: all of them, or none where one is not allowed.

        Args:
            data: Metric names to metrics, as ``points.parse`` lists them.

        Raises:
            DatasetError: Naming the metric, the step and what is allowed; or there is no MLflow
                run to write to.
        """
        binding = self._bound()
        try:
            metrics = keyed(parse(data, binding.separator), binding.prefix, binding.separator)
            next_steps = self._steps_after(binding, metrics) if binding.run else {}
            steps = {
                key: metric.numbered(next_steps.get(key, 0)) for key, metric in metrics.items()
            }
        except PointsError as error:
            raise DatasetError(f"{error} Nothing of {binding.name!r} was written.") from None
        if binding.run is None:
            return
        self._warn(metrics, binding, next_steps)
        binding.run.log(metrics, steps)
        for key in metrics:
            next_steps[key] = max(next_steps.get(key, 0), max(steps[key], default=-1) + 1)
            self._saved_steps[key] = next_steps[key]

    def load(self) -> dict[str, Any]:
        """Read the metrics back, without the prefix.

        Returns:
            Metric names to ``{"value": float, "step": int}``, or to a list of these in step
            order where there are several. Nested names are joined by the separator.

        Raises:
            DatasetError: There is no MLflow run to read from.
        """
        binding = self._bound()
        if binding.run is None:
            raise DatasetError(f"{binding.name!r} has no metrics: mlflow.yml says 'track: never'.")
        start = key_start(binding.prefix, binding.separator)
        histories = binding.run.histories(start)
        return {key.removeprefix(start): restore(points) for key, points in histories.items()}

    def _exists(self) -> bool:
        try:
            binding = self._bound()
        except DatasetError:  # no run
            return False
        if binding.run is None or not binding.run.exists():
            return False
        start = key_start(binding.prefix, binding.separator)
        return any(key.startswith(start) for key in binding.run.last_steps())

    def _describe(self) -> dict[str, Any]:
        prefix = self._binding.prefix if self._binding else self._prefix
        return {"prefix": prefix, "run_id": self._run_id}

    def _bound(self) -> Binding:
        """Where to write: as the hook said, else to the run named here, else to the active one."""
        if self._binding is not None:
            return self._binding
        run = MlflowRun(_store(), self._run_id) if self._run_id else active_run()
        if run is None:
            raise DatasetError(
                f"The metrics dataset {self._prefix or '(without a prefix)'!r} has no MLflow run;"
                " use it in a pipeline or inside `with mlflow.start_run():`, or give it a 'run_id'."
            )
        prefix = self._prefix or ""
        return Binding(prefix, prefix, current_separator(), run)

    def _steps_after(self, binding: Binding, metrics: Mapping[str, Points]) -> dict[str, int]:
        """By key, the step after the last. Asked of the store where others write to it, too."""
        if self._next_steps is not None:
            return self._next_steps
        if not binding.rivals and all(metric.has_steps for metric in metrics.values()):
            return {}  # and one request less
        last_steps = binding.run.last_steps() if binding.run else {}
        next_steps = {key: max(step + 1, 0) for key, step in last_steps.items()}
        if self._binding is not None:
            for key, step in self._saved_steps.items():  # in an outage the store does not tell
                next_steps[key] = max(step, next_steps.get(key, 0))
            if binding.run and not binding.rivals and not binding.run.link.is_away:
                self._next_steps = next_steps
        return next_steps

    def _warn(
        self, metrics: Mapping[str, Points], binding: Binding, next_steps: Mapping[str, int]
    ) -> None:
        for key, metric in metrics.items():
            if not metric.is_finite:
                self._tell("The metric %r of %r is NaN or infinite.", metric.name, binding.name)
            if clean(metric.name) != metric.name:
                self._tell(
                    "MLflow does not allow the metric name %r of %r; the key is %r.",
                    metric.name,
                    binding.name,
                    key,
                )
            if binding.rivals and key in next_steps and key not in self._saved_steps:
                self._tell(
                    "The metrics datasets %r and %s both write the key %r;"
                    " give one of them another 'prefix'.",
                    binding.name,
                    " or ".join(map(repr, binding.rivals)),
                    key,
                )

    def _tell(self, message: str, *arguments: str) -> None:
        """Warn, once a dataset: a generator node may save the same metric a thousand times."""
        if message % arguments not in self._told:
            self._told.add(message % arguments)
            logger.warning(message, *arguments)


def _store() -> str:
    """The project's store; outside of a Kedro project, MLflow's."""
    if config := current_config():
        return config.tracking_uri
    import mlflow

    return mlflow.get_tracking_uri()
