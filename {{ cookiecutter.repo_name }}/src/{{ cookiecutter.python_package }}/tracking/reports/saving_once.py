"""While a pipeline runs: less of Kedro's log."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress

from ..process.active_runs import kedro_objects

KEDROS_LOGGER = "kedro.io.data_catalog"
SAVING = "Saving data to "


class SavingOnce(logging.Filter):
    """Lets Kedro log ``Saving data to ...`` once a node, and not at every yield of a generator.

    Kedro (1.7) writes the line for each output each time: 0.9 ms of the 1 ms that a yield takes.
    At DEBUG all of them are there.
    """

    def __init__(self, catalog_id: int | None) -> None:
        """For the Kedro run with this catalog; None: for the only one of a worker process."""
        super().__init__()
        self._catalog_id = catalog_id
        self._seen: set[object] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is to be logged."""
        if not record.msg.startswith(SAVING) or not record.args:
            return True
        own = self._catalog_id
        if own is not None and own != next(kedro_objects(sys._getframe()), None):
            return True  # of another Kedro run in this process
        name = record.args[0] if isinstance(record.args, tuple) else record.args
        if name in self._seen:  # a dataset is the output of one node
            return logging.getLogger(KEDROS_LOGGER).isEnabledFor(logging.DEBUG)
        self._seen.add(name)
        return True

    def begin(self) -> None:
        """Filter from now on, in the place of another one of the same Kedro run."""
        self.end()
        logging.getLogger(KEDROS_LOGGER).addFilter(self)

    def end(self) -> None:
        """Filter no more. Other threads add and remove filters of other Kedro runs."""
        logger = logging.getLogger(KEDROS_LOGGER)
        for each in list(logger.filters):
            if isinstance(each, SavingOnce) and each._catalog_id == self._catalog_id:
                with suppress(ValueError):  # another thread has removed the filter
                    logger.removeFilter(each)
