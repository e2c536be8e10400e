"""System metrics of a run: CPU, memory, disk, network and GPU, by MLflow's own monitor."""

from __future__ import annotations

import logging
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..names import SYSTEM
from ..points import Points
from ..store.errors import reason

if TYPE_CHECKING:
    from ..delivery.delivery import Delivery

logger = logging.getLogger(__name__)


def start_monitor(delivery: Delivery, wanted: bool) -> Monitor | None:
    """Watch the system, if it is wanted here or by MLflow's own switch; and can be done."""
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING

    if not (wanted or MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get()):
        return None
    if find_spec("psutil") is None:
        logger.warning(
            "System metrics need psutil, which is not installed; run `pip install psutil`."
        )
        return None
    monitor = Monitor(delivery)
    monitor.start()
    return monitor


class Monitor(threading.Thread):
    """Takes samples with MLflow's monitor, and sends them as all other points are sent.

    MLflow's own thread would write by itself, with retries of minutes; and nothing of a run that
    is shorter than its interval (10 s; MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL).
    """

    def __init__(self, delivery: Delivery) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        super().__init__(name="mlflow-system-metrics", daemon=True)
        destination = delivery.destination
        self._delivery = delivery
        self._ended = threading.Event()
        self._monitor: Any = SystemMetricsMonitor(
            destination.run_id, tracking_uri=destination.tracking_uri
        )
        self._step = 0
        if destination.is_external:
            steps = delivery.last_steps().items()
            self._step = 1 + max((s for key, s in steps if key.startswith(SYSTEM)), default=-1)

    def run(self) -> None:
        """Sample until the end; then send what has been collected."""
        samples = self._monitor.samples_before_logging
        try:
            while not self._ended.is_set():
                for _ in range(samples):
                    self._monitor.collect_metrics()
                    if self._ended.wait(self._monitor.sampling_interval):
                        break
                self._send(self._monitor.aggregate_metrics())
        except Exception as error:  # of the system, or of the store: the run goes on
            logger.warning("System metrics are no longer logged: %s", reason(error))

    def end(self) -> None:
        """Return when the last sample is on its way, or after 5 s."""
        self._ended.set()
        self.join(5)

    def _send(self, values: dict[str, float]) -> None:
        node = f"{self._monitor.node_id}/" if self._monitor.node_id else ""
        keys = {f"{SYSTEM}{node}{name}": value for name, value in values.items()}
        metrics = {key: Points(key, (float(value),)) for key, value in keys.items()}
        self._delivery.send(metrics, dict.fromkeys(metrics, (self._step,)))
        self._step += 1
        for each in self._monitor.monitors:
            each.clear_metrics()
