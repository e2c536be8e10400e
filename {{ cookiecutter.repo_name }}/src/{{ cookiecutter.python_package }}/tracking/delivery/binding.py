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
    sources: tuple[Destination, ...] = ()  # to read from, the first that has it; none: destination
    overlapping: tuple[str, ...] = ()  # other metrics datasets that may write the same keys
    key: str | None = None  # of its only metric
    hint: str = ""  # a sentence about where the entry comes from, for errors

    @property
    def start(self) -> str:
        """What every key of the dataset begins with."""
        return self.key or key_prefix(self.prefix, self.separator)

    def overlaps(self, other: Binding) -> bool:
        """Whether both may write the same key, of one MLflow run."""
        short, long = sorted((self, other), key=lambda each: len(each.start))
        is_alone = short.key is not None
        return long.start == short.start if is_alone else long.start.startswith(short.start)
