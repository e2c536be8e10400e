"""Metrics from Kedro nodes to MLflow.

A node returns a dict of numbers, a catalog entry of type ``MlflowMetricsDataset`` names it,
and ``MlflowPipelineHook`` (registered in ``settings.py``) sees to it that every number is in
the right MLflow run, under the right key, at the right step.

The package uses relative imports only and knows nothing of the project around it: to upgrade
it, replace the folder; to use it elsewhere, copy it.
"""

from .dataset import MlflowMetricsDataset
from .hook import MlflowPipelineHook

__all__ = ["MlflowMetricsDataset", "MlflowPipelineHook"]
__version__ = "0.1.0"
