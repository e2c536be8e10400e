"""``MlflowMetricsDataset``: the catalog entry that puts a node's numbers into MLflow."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DatasetError

from .config import current_config
from .points import Points, PointsError, allowed_name, by_key, key_prefix, parse

if TYPE_CHECKING:
    from .delivery.delivery import Delivery
    from .delivery.route import Destination
    from .process.membership import Membership
    from .store.queries import History

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Binding:
    """What a metrics dataset gets before any node runs. Plain values: it can be pickled."""

    name: str  # the dataset's, in the catalog
    prefix: str  # what its keys begin with
    separator: str  # stands between the prefix and a metric's name
    destination: Destination | None  # the MLflow run; None where tracking is off
    sources: tuple[Destination, ...] = ()  # to read from, the first that has it; none: destination
    overlapping: tuple[str, ...] = ()  # other metrics datasets that may write the same keys
    hint: str = ""  # a sentence about where the entry comes from, for errors

    @property
    def start(self) -> str:
        """What every key of the dataset begins with."""
        return key_prefix(self.prefix, self.separator)


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
    experiment that has it. ``exists`` is whether ``load`` would find something.

    In a node; ``points.parse`` lists all that it may return:

        def evaluate() -> dict[str, Any]:
            return {"accuracy": 0.9, "loss": [{"value": 0.8, "step": 0}, {"value": 0.7, "step": 1}]}
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
        """
        for argument, value in {"prefix": prefix, "run_id": run_id}.items():
            if value is not None and not isinstance(value, str):
                given = f"{argument!r} is {value!r} ({type(value).__name__})"
                raise ValueError(f'{given}; it is a string: write "{value}", in quotes')
        self.metadata = metadata
        self.prefix = prefix
        self.run_id = run_id or None
        # By unpickling this a worker process takes part in the run, with a node's own MLflow calls.
        self.membership: Membership | None = None
        self._binding: Binding | None = None
        entry = _entry_being_built()
        self._prefix = entry.partition("@")[0] if prefix is None and entry else prefix
        self._warned: set[str] = set()

    def bind(self, binding: Binding) -> None:
        """Give the dataset its prefix and its MLflow run."""
        self._binding = binding

    def save(self, data: Mapping[str, Any]) -> None:
        """Write metrics (see ``points.parse``): all of them, or none where one is not allowed.

        Raises:
            DatasetError: What is not allowed, in which metric, at which step; or there is no run.
        """
        binding = self._binding or self._unbound()
        try:
            metrics = by_key(parse(data, binding.separator), binding.prefix, binding.separator)
            delivery = _delivery_of(binding)
            if delivery is None:
                _ = [metric.numbered(0) for metric in metrics.values()]
                return
            if not all(metric.has_steps for metric in metrics.values()):
                delivery.look_up_steps(binding.name, again=self._binding is None)
            _check_keys(delivery, metrics)
            steps = delivery.steps.number(metrics, binding.name)
        except PointsError as error:
            hint = "" if isinstance(data, Mapping) else binding.hint
            raise DatasetError(f"{error} Nothing of {binding.name!r} was written.{hint}") from None
        self._warn_about(metrics, binding, delivery)
        delivery.send(metrics, steps)

    def load(self) -> dict[str, Any]:
        """Read the metrics back, without the prefix.

        Returns:
            Metric names to ``{"value": float, "step": int}``, or to a list of these in step
            order where there are several. Nested names are joined by the separator.
        """
        binding = self._binding or self._unbound()
        if binding.destination is None:
            raise DatasetError(f"{binding.name!r} has no metrics: mlflow.yml says 'track: never'.")
        start = binding.start
        found = (delivery.histories(start) for delivery in _to_read(binding))
        histories: History = next(filter(None, found), {})
        return {key.removeprefix(start): _restored(points) for key, points in histories.items()}

    def _exists(self) -> bool:
        try:
            binding = self._binding or self._unbound()
        except DatasetError:  # no run
            return False
        from mlflow.exceptions import MlflowException

        keys = (key for delivery in _to_read(binding) for key in delivery.last_steps())
        try:
            return any(key.startswith(binding.start) for key in keys)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _describe(self) -> dict[str, Any]:
        prefix = self._binding.prefix if self._binding else self._prefix
        return {"prefix": prefix, "run_id": self.run_id}

    def _unbound(self) -> Binding:
        """Without the hook: the run named here, else the active one, of the project's store."""
        from .process.mlflow_globals import active_run

        config, prefix, run_id = current_config(), self._prefix or "", self.run_id
        if run_id and config:
            uri = config.tracking_uri
        elif run_id:
            import mlflow  # outside of a Kedro project

            uri = mlflow.get_tracking_uri()
        elif active := active_run():
            uri, run_id = active
        else:
            raise DatasetError(
                f"The metrics dataset {prefix or '(without a prefix)'!r} has no MLflow run;"
                " use it in a pipeline or inside `with mlflow.start_run():`, or give it a 'run_id'."
            )
        from .delivery.route import Destination

        separator = config.separator if config else "."
        return Binding(prefix, prefix, separator, Destination(uri, run_id))

    def _warn_about(
        self, metrics: Mapping[str, Points], binding: Binding, delivery: Delivery
    ) -> None:
        name = binding.name
        for key, metric in metrics.items():
            if not metric.is_finite:
                self._warn(f"The metric {metric.name!r} of {name!r} is NaN or infinite.")
            if allowed_name(metric.name) != metric.name:
                self._warn(
                    f"MLflow does not allow the metric name {metric.name!r} of {name!r}; the key"
                    f" is {key!r}."
                )
            if binding.overlapping and delivery.steps.writers[key] != name:
                others = " or ".join(map(repr, binding.overlapping))
                self._warn(
                    f"The metrics datasets {name!r} and {others} both write the key {key!r};"
                    " give one of them another 'prefix'."
                )

    def _warn(self, message: str) -> None:
        """Warn, once a dataset: a generator node may save the same metric a thousand times."""
        if message not in self._warned:
            self._warned.add(message)
            logger.warning(message)


def _entry_being_built() -> str | None:
    """The entry's name, which Kedro (1.0 to 1.7) gives the ``from_config`` that calls us, only."""
    code = AbstractDataset.from_config.__func__.__code__  # type: ignore[attr-defined]
    frame, name = sys._getframe(), None
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_code is code:
            name = frame.f_locals["name"]  # the outermost: CachedDataset's inner one is "_cached"
    return name


def _delivery_of(binding: Binding) -> Delivery | None:
    """This process's delivery to the dataset's run; None where tracking is off."""
    if binding.destination is None:
        return None
    from .delivery.delivery import delivery_to  # imported late: not every command needs it

    return delivery_to(binding.destination)


def _to_read(binding: Binding) -> list[Delivery]:
    """Deliveries to the MLflow runs to read from, in this order."""
    if (own := binding.destination) is None:
        return []
    from .delivery.delivery import Delivery, delivery_to

    return [delivery_to(run) if run == own else Delivery(run) for run in binding.sources or (own,)]


def _check_keys(delivery: Delivery, keys: Collection[str]) -> None:
    """Raise an error if the store would take two keys for one: MySQL's does."""
    run = delivery.destination
    if run.tracking_uri.startswith("mysql"):
        from .store.keys import check_keys

        check_keys(run.tracking_uri, run.run_id, keys, delivery.last_steps)


def _restored(points: list[tuple[int, int, float]]) -> dict[str, Any] | list[dict[str, Any]]:
    """Stored points in the shape in which a node returns them, in step order."""
    by_step = sorted(points, key=lambda point: point[1])
    shaped = [{"value": value, "step": step} for _, step, value in by_step]
    return shaped[0] if len(shaped) == 1 else shaped
