"""``Binding``: where a metrics dataset writes to and reads from."""

from __future__ import annotations

from dataclasses import dataclass

from ..points import key_prefix
from .route import Destination


@dataclass(frozen=True)
class Binding:
    """What a metrics dataset gets before any node runs. Plain values: it can be pickled."""

    name: str  # the dataset's, in the catalog
    prefix: str  # what its keys begin with
    separator: str  # stands between the prefix and a metric's name
    destination: Destination | None  # the MLflow run; None where tracking is off
    sources: tuple[Destination, ...] = ()  # ``load`` reads the first with keys; (): destination
    overlapping: tuple[str, ...] = ()  # other metrics datasets that may write the same keys
    key: str | None = None  # of its only metric
    no_source: str = ""  # why the run to read from, which ``load_args`` name, was not found
    hint: str = ""  # a sentence about where the entry comes from, for errors

    @property
    def start(self) -> str:
        """What every key of the dataset begins with."""
        return self.key or key_prefix(self.prefix, self.separator)

    def has(self, key: str) -> bool:
        """Whether a key is one of the dataset's."""
        return key == self.key if self.key else key.startswith(self.start)

    def overlaps(self, other: Binding) -> bool:
        """Whether both may write the same key; their MLflow runs are not compared."""
        return self.has(other.start) or other.has(self.start)

    @property
    def what(self) -> str:
        """Its metrics, for errors."""
        return f"the metric {self.key!r}" if self.key else f"metrics that begin with {self.start!r}"
