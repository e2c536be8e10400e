"""``DaskRunner``: the nodes of a pipeline on a Dask cluster, their metrics in one MLflow run."""

from .runner import DaskRunner

__all__ = ["DaskRunner"]
