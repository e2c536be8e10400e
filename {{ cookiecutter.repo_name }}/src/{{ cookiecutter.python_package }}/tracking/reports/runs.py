"""Which MLflow run is meant: ``last``, ``best:KEY``, ``git:main``, an id or a name."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..config import MlflowConfig
from ..delivery.opening import start_deadline
from ..names import Tag, best_start
from ..process.state import process_state
from ..provenance import git_environment
from ..scanning.uris import sqlite_path
from ..store.errors import NO_OUTBOX, TrackingError, as_tracking_error, deleted_experiment
from ..store.mlflow_store import MlflowStore, store_at
from ..store.queries import NEWEST_FIRST, last_points, top_level_runs
from .rows import Value, with_best
from .rules import Rule, rule_of, rules_in

if TYPE_CHECKING:
    from mlflow.entities import Run

    from ..delivery.binding import Binding

# So many runs are asked for where the one before a run is meant: others may run at the same time.
NEWEST = 5
FINISHED = "attributes.status = 'FINISHED'"


class NotFoundError(TrackingError):
    """There is no such run or key; the exit status is that of a wrong argument."""

    exit_code = 2


def no_rule(metric: str) -> NotFoundError:
    """The error where nothing says which value of a metric is the best."""
    return NotFoundError(
        f"Which value of {metric} is the best, nothing says; give its dataset in the catalog"
        " `metrics:` with 'greater_is_better'."
    )


class Runs:
    """The MLflow runs of a project's experiment, in its store, which is opened to be read."""

    def __init__(self, config: MlflowConfig, rules: Sequence[Rule], last: Run | None) -> None:
        self.rules, self._last = rules, last
        self.store: MlflowStore = store_at(config.tracking_uri)
        self._config = config
        self._experiment: str | None = None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """All that is read within has some seconds together; what goes wrong is one sentence."""
        problems = as_tracking_error(self.store.uri, NO_OUTBOX)
        with problems, start_deadline(self.store):
            yield

    @property
    def experiment(self) -> str:
        """The id of the experiment; a NotFoundError if the store does not have it yet."""
        if self._experiment is None:
            path, name = sqlite_path(self.store.uri), self._config.experiment
            found = None
            if path is None or path.exists():  # MLflow would make the file
                self.store.open()
                found = self.store.call(lambda client: client.get_experiment_by_name(name))
            if found is None:
                raise NotFoundError(f"The experiment {name!r} has no runs yet; try `kedro run`.")
            if found.lifecycle_stage == "deleted":
                raise deleted_experiment(found)
            self._experiment = str(found.experiment_id)
        return self._experiment

    def find(self, name: str) -> Run:
        """The run that is meant; a NotFoundError if there is none."""
        word, _, rest = name.partition(":")
        if name in ("last", "previous"):
            last = self._last or self.newest(1)[0]
            chosen = last if name == "last" else self.before(last)
            what = "no finished run before the last, of the same pipeline; give the id of another"
            return self._first([*filter(None, [chosen])], what)
        if word == "best" and rest:
            return self._best(rest)
        if word == "git" and rest:
            return self._of_commit(rest)
        by_name = f"attributes.run_name = {_quoted(name)}"
        named = self.store.search_runs(by_name, self.experiment, 1)
        # MySQL takes a and A for the same; of a name with both kinds of quotes one is left out.
        found = [run for run in named if run.info.run_name.casefold() == name.casefold()]
        if not found and re.fullmatch("[0-9a-f]{4,32}", name):
            search = f"attributes.run_id LIKE '{name}%'"
            found = self.store.search_runs(search, self.experiment, 2)
        if len(found) > 1:
            raise NotFoundError(f"Several runs have an id that begins with {name!r}; give more.")
        return self._first(found, f"no run {name!r}")

    def newest(self, count: int, pipeline: str = "") -> list[Run]:
        """So many of the newest runs that are not nested, or fewer; a NotFoundError if none is."""
        search = f"tags.`{Tag.PIPELINE}` = {_quoted(pipeline)}" if pipeline else ""
        found = self._search(search, count)
        self._first(found, f"no runs of the pipeline {pipeline!r}" if pipeline else "no runs")
        return found

    def children(self, run: Run) -> list[Run]:
        """The runs within a run; a NotFoundError if there is none."""
        search = f"tags.`{Tag.PARENT_RUN}` = '{run.info.run_id}'"
        found = self.store.search_runs(search, self.experiment)
        self._first(found, f"no runs within {run.info.run_name} ({run.info.run_id[:8]})")
        return found

    def last_with(self, binding: Binding) -> str:
        """The id of the last finished run that has a key of a dataset."""
        found = self.store.newest_with(self.experiment, {"": binding.has}, True)
        if not found:
            raise NotFoundError(
                f"no finished run of the experiment {self._config.experiment!r} has"
                f" {binding.what}; run the pipeline that makes them."
            )
        return found[""]

    def before(self, run: Run) -> Run | None:
        """The last finished run of the same pipeline that began before this one."""
        return _finished_before(self.store, run)

    def values(self, run: Run) -> dict[str, Value]:
        """What a run has, by key."""
        return with_best(last_points(run), best_start(self._config.separator))

    def known_key(self, key: str, run: Run) -> str:
        """The key, which the run has; a NotFoundError, which names the nearest, if it has not."""
        if key in run.data.metrics:
            return key
        near = get_close_matches(key, run.data.metrics, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else "`kedro metrics show` lists what it has."
        raise NotFoundError(f"The run {run.info.run_id[:8]} has no metric {key!r}; {hint}")

    def _best(self, key: str) -> Run:
        rule = rule_of(key, self.rules)
        if rule is None or rule.greater_is_better is None:
            raise no_rule(repr(key))
        # SQL stores keep an infinity as 1.798e308; a filter (MLflow 3.17) takes no "+" in a number.
        order, finite = "DESC", "< 1.7e308"
        if not rule.greater_is_better:
            order, finite = "ASC", "> -1.7e308"
        found: dict[float, Run] = {}  # by value; not all runs have a best of their own
        for sorted_by in (best_start(self._config.separator) + key, key):
            search = f"{FINISHED} and metrics.`{sorted_by}` {finite}"
            for run in self._search(search, 1, f"metrics.`{sorted_by}` {order}"):
                if math.isfinite(value := run.data.metrics.get(sorted_by, math.nan)):
                    found.setdefault(value, run)
        if not found:
            raise NotFoundError(f"No finished run has a metric {key!r}.")
        return found[max(found) if rule.greater_is_better else min(found)]

    def _of_commit(self, revision: str) -> Run:
        try:
            commit = subprocess.run(
                [*["git", "rev-parse", "--verify", "--quiet", "--end-of-options"], f"{revision}^0"],
                cwd=self._config.project_path,
                env=git_environment(),
                capture_output=True,
                check=True,
                text=True,
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            raise NotFoundError(f"git knows no revision {revision!r} here.") from None
        clean = f"tags.`{Tag.GIT_COMMIT}` = '{commit}' and tags.`{Tag.GIT_DIRTY}` = 'False'"
        found = self._search(f"{FINISHED} and {clean}")
        what = f"no finished run of the commit {commit[:8]} ({revision}) with a clean tree"
        return self._first(found, what)

    def _search(self, search: str, count: int = 1, order: str = NEWEST_FIRST) -> list[Run]:
        within = self.experiment
        return self.store.call(lambda client: top_level_runs(client, search, within, count, order))

    def _first(self, found: Sequence[Run], what: str) -> Run:
        if not found:
            raise NotFoundError(f"The experiment {self._config.experiment!r} has {what}.")
        return found[0]


@contextmanager
def opened(config: MlflowConfig) -> Iterator[Runs]:
    """The runs of a project, to be read within the block, with its credentials."""
    runs = Runs(config, catalog_rules(config), last=None)
    with runs.reading():
        process_state().begin_tracking(config.tracking_uri, config.credentials)
        try:
            yield runs
        finally:
            process_state().end_tracking()


def catalog_rules(config: MlflowConfig) -> list[Rule]:
    """What the project's catalog says of its metrics."""
    try:
        return rules_in(config.read_catalog(), config.separator)
    except (ValueError, OmegaConfBaseException, YAMLError) as error:
        raise TrackingError(f"The catalog can't be read: {error}") from None


def with_previous(store: MlflowStore, run: Run) -> tuple[Run | None, Run | None]:
    """A run as it is now, and the finished one of its pipeline before it: mostly one request."""
    search = f"{_of_pipeline(run)} and attributes.start_time <= {run.info.start_time}"
    search += " and attributes.status != 'FAILED' and attributes.status != 'KILLED'"
    found = store.search_runs(search, run.info.experiment_id, NEWEST)
    now = next((each for each in found if each.info.run_id == run.info.run_id), None)
    earlier = (
        each
        for each in found
        if each is not now
        and each.info.status == "FINISHED"
        and Tag.PARENT_RUN not in each.data.tags
        and each.data.metrics
    )
    previous = next(earlier, None)
    # A sweep's children may fill the first request. A child itself makes no second one.
    if previous is None and len(found) == NEWEST and Tag.PARENT_RUN not in run.data.tags:
        previous = _finished_before(store, run)
    return now, previous


def _finished_before(store: MlflowStore, run: Run) -> Run | None:
    search = f"{FINISHED} and {_of_pipeline(run)}"
    search += f" and attributes.start_time < {run.info.start_time}"
    asked = search, run.info.experiment_id, 1, NEWEST_FIRST
    found = store.call(lambda client: top_level_runs(client, *asked, with_metrics=True))
    return found[0] if found else None


def _of_pipeline(run: Run) -> str:
    return f"tags.`{Tag.PIPELINE}` = {_quoted(run.data.tags.get(Tag.PIPELINE, ''))}"


def _quoted(text: str) -> str:
    """The text as MLflow's filters have it: they know no escapes, and two kinds of quotes."""
    quote = '"' if "'" in text else "'"
    return quote + text.replace(quote, "") + quote
