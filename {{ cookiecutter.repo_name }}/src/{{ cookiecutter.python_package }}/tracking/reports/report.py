"""``RunReport``: what one sees of a Kedro run, while it runs and after it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..config import MlflowConfig
from ..names import MAX_KEY_LENGTH, best_start
from ..points import Points
from ..process.state import process_state
from ..redaction import redact
from ..scanning.uris import charts
from ..store.errors import reason
from ..store.mlflow_store import MlflowStore, store_at
from ..store.queries import last_points
from .live import live_lines
from .rows import Value, number, rows, with_best
from .rules import Rule, rule_of
from .runs import with_previous
from .sheet import kedros_console
from .system import start_monitor
from .tables import run_sheet, title
from .tally import Seen, Tally, seen_in

if TYPE_CHECKING:
    from mlflow.entities import Run

    from ..delivery.delivery import Delivery

logger = logging.getLogger(__name__)

MOST_LIVE = 10  # metrics of a dataset in its live line
# For how many seconds the store is asked, at the end, for what a summary shows.
STORE_SECONDS = 5.0


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
        name = self._delivery.steps.writers.get(next(iter(metrics), ""))
        if self._live and name:  # the system's metrics are no dataset's
            self._quietly(self._live.update, name, partial(self._latest, metrics))

    def pause(self, for_good: bool = False) -> None:
        """Take the live lines away: a node begins, or the run ends."""
        if self._live:
            self._quietly(self._live.stop, for_good)

    def finish(self, hasty: bool) -> None:
        """Add the best values to the run, and find the run to compare with, before it ends.

        ``hasty``: the process has been told to end, and asks no store.
        """
        if self.record not in self._delivery.observers:  # called already, by another close()
            return
        self.pause(for_good=True)
        if self._monitor:
            self._quietly(self._monitor.end)
        delivery = self._delivery
        delivery.observers.remove(self.record)
        may_ask = not hasty and delivery.route.breaker.error is None
        seen = {} if self._is_shared() else self._tally.seen()
        stored: dict[str, tuple[float, int]] = {}
        if may_ask and (self._config.summary or self._is_shared()):
            with store_at(delivery.destination.tracking_uri).deadline(STORE_SECONDS):
                stored = self._quietly(self._read) or {}
                if self._is_shared():
                    own_keys = with_best(stored, self._best_start)
                    self._quietly(self._read_histories, own_keys, seen)
        own = {key: (each.value, each.step) for key, each in self._tally.seen().items()}
        points = {key: stored[key] for key in stored.keys() - own.keys()} | own
        points |= self._quietly(self._write_best, seen, stored) or {}
        self._values = with_best(points, self._best_start)

    def show(self, status: str, has_page: bool) -> None:
        """Print the summary and, if there are charts, where."""
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
        seen = self._tally.seen(islice(metrics, MOST_LIVE))
        values = (f"{metrics[key].name} {number(each.value)}" for key, each in seen.items())
        if not seen:  # lists without a point
            return ""
        return f"step {max(each.step for each in seen.values())}  {'  '.join(values)}"

    def _is_shared(self) -> bool:
        """Whether others have written to the run: workers, or an earlier Kedro run."""
        run = self._delivery.destination
        return run.is_external or run.run_id in process_state().runs_with_workers

    def _read(self) -> dict[str, tuple[float, int]]:
        """The last points that the run has; and find the run before it."""
        self._delivery.flush()
        run = self._run
        ask = self._delivery.route.ask
        now, self._previous = ask(lambda store, _: with_previous(store, run))
        return last_points(now or ask(MlflowStore.get_run))

    def _read_histories(self, keys: Iterable[str], seen: dict[str, Seen]) -> None:
        """Count what the run has of the keys that have a best value, whoever wrote it."""
        store = store_at(self._delivery.destination.tracking_uri)
        for key in keys:
            rule = rule_of(key, self._rules)
            if rule and rule.greater_is_better is not None and store.retry.seconds_left() > 0:
                seen[key] = seen_in(self._delivery.route.ask(partial(_history, key)))

    def _write_best(
        self, seen: Mapping[str, Seen], stored: Mapping[str, tuple[float, int]]
    ) -> dict[str, tuple[float, int]]:
        found = {
            self._best_start + key: best
            for key, each in seen.items()
            if (rule := rule_of(key, self._rules)) and (best := each.best(rule))
        }
        # A request is refused as a whole, with the points that wait to be written, too.
        if long := [key for key in found if len(key) > MAX_KEY_LENGTH]:
            what = f"{len(long)} best values are left out, {long[0]!r} first"
            logger.warning("MLflow takes no keys of over %d characters: %s.", MAX_KEY_LENGTH, what)
            found = {key: best for key, best in found.items() if key not in long}
        metrics = {key: Points(key, (value,)) for key, (value, _) in found.items()}
        # MLflow's last value is that of the highest step, which an earlier best may have.
        steps = {
            key: (max(step, stored.get(key, (0, step))[1]),) for key, (_, step) in found.items()
        }
        self._delivery.send(metrics, steps)
        return found

    def _quietly(self, function: Callable[..., object], *arguments: object) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            logger.debug("The report of the run is not complete: %s", reason(error))
            return None


def _history(key: str, store: MlflowStore, run_id: str) -> list[tuple[int, int, float]]:
    return store.histories(run_id, key)[key]
