"""``RunReport``: what one sees of a Kedro run, while it runs and after it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..config import MlflowConfig
from ..names import best_start
from ..points import Points
from ..process.state import process_state
from ..redaction import redact
from ..scanning.uris import charts
from ..store.errors import reason
from ..store.mlflow_store import store_at
from ..store.queries import last_points
from .live import live_lines
from .rows import Value, number, rows, with_best
from .rules import Rule, rule_of
from .runs import previous
from .sheet import kedros_console
from .system import start_monitor
from .tables import run_sheet, title
from .tally import Tally

if TYPE_CHECKING:
    from mlflow.entities import Run

    from ..delivery.delivery import Delivery

logger = logging.getLogger(__name__)

MOST_LIVE = 10  # metrics of a dataset in its live line
# For how many seconds the store is asked for the run to compare with.
PREVIOUS_SECONDS = 2.0


class RunReport:
    """Counts what a Kedro run writes; adds the best values; prints a summary.

    None of this is worth a run: what fails here is logged.
    """

    def __init__(
        self, config: MlflowConfig, run: Run, delivery: Delivery, rules: Sequence[Rule]
    ) -> None:
        self._config, self._run, self._delivery, self._rules = config, run, delivery, rules
        self._best_start = best_start(config.separator)
        self._tally = Tally()
        self._previous: Run | None = None
        self._values: dict[str, Value] = {}
        console = kedros_console()
        self._live = live_lines(console) if config.summary else None
        self._monitor = self._quietly(start_monitor, delivery, config.system_metrics)
        delivery.observers.append(self.record)

    def record(self, metrics: Mapping[str, Points], steps: Mapping[str, Sequence[int]]) -> None:
        """Count what is saved, on the thread that saves it."""
        self._tally.add(metrics, steps)
        if self._live and metrics:
            name = self._delivery.steps.writers.get(next(iter(metrics)), "")
            self._quietly(self._live.update, name, partial(self._latest, metrics))

    def pause(self) -> None:
        """A node has ended: nothing streams, until something does."""
        if self._live:
            self._quietly(self._live.stop)

    def finish(self, hasty: bool) -> None:
        """Add the best values to the run, and find the run to compare with, before it ends.

        ``hasty``: the process has been told to end, and asks no store.
        """
        if self.record not in self._delivery.observers:  # another close has done it
            return
        self.pause()
        if self._monitor:
            self._quietly(self._monitor.end)
        self._delivery.observers.remove(self.record)
        may_ask = not hasty and self._delivery.route.breaker.error is None
        points: dict[str, tuple[float, int]] = {}
        if may_ask and self._is_shared():
            points = self._quietly(self._read) or {}
        points |= {key: (seen.value, seen.step) for key, seen in self._tally.keys.items()}
        points |= self._quietly(self._write_best) or {}
        self._values = with_best(points, self._best_start)
        if may_ask and self._config.summary:
            self._previous = self._quietly(self._find_previous)

    def show(self, status: str, has_page: bool) -> None:
        """Print the summary and, if they are there, where the charts are."""
        self._quietly(self._show, status, has_page)

    def _show(self, status: str, has_page: bool) -> None:
        seconds = time.time() - self._run.info.start_time / 1000
        info, uri = self._run.info, redact(self._delivery.destination.tracking_uri)
        options = self._config.options
        page = charts(uri, info.experiment_id, info.run_id, options) if has_page else []
        console = kedros_console()
        if console is None or not self._config.summary:
            logger.info("The MLflow run %s is %s. %s", info.run_id, status, " ".join(page))
            return
        earlier = self._previous and with_best(last_points(self._previous), self._best_start)
        runs = [earlier, self._values] if earlier else [self._values]
        sheet = run_sheet(rows(runs, self._rules), self._previous)
        sheet.below = [f"MLflow run {title(self._run)}: {status}, {seconds:.1f} s", *page]
        sheet.show(console)

    def _latest(self, metrics: Mapping[str, Points]) -> str:
        seen = {key: self._tally.keys[key] for key in islice(metrics, MOST_LIVE)}
        values = (f"{metrics[key].name} {number(each.value)}" for key, each in seen.items())
        return f"step {max(each.step for each in seen.values())}  {'  '.join(values)}"

    def _is_shared(self) -> bool:
        """Whether others have written to the run: workers, or an earlier Kedro run."""
        run = self._delivery.destination
        return run.is_external or run.run_id in process_state().runs_with_workers

    def _read(self) -> dict[str, tuple[float, int]]:
        """The last points that the run has; and count the history of those that have a best."""
        self._delivery.flush()
        run_id = self._delivery.destination.run_id
        store = store_at(self._delivery.destination.tracking_uri)
        points = last_points(store.get_run(run_id))
        for start in {rule.start for rule in self._rules}:
            for key, history in self._delivery.histories(start).items():
                if rule_of(key, self._rules):
                    self._tally.add_history(key, history)
        return points

    def _write_best(self) -> dict[str, tuple[float, int]]:
        found = {
            self._best_start + key: best
            for key, seen in self._tally.keys.items()
            if (rule := rule_of(key, self._rules)) and (best := seen.best(rule))
        }
        metrics = {key: Points(key, (value,)) for key, (value, _) in found.items()}
        self._delivery.send(metrics, {key: (step,) for key, (_, step) in found.items()})
        return found

    def _find_previous(self) -> Run | None:
        store = store_at(self._delivery.destination.tracking_uri)
        with store.deadline(PREVIOUS_SECONDS):
            return previous(store, self._run.info.experiment_id, self._run.data.tags, self._run)

    def _quietly(self, function: Callable[..., object], *arguments: object) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            logger.debug("The report of the run is not complete: %s", reason(error))
            return None
