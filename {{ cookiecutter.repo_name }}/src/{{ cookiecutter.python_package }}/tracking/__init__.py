"""Metrics from Kedro nodes to MLflow: every number in the right run, under its key, at its step.

The way of one save, each step in one module:

    dataset.py             MlflowMetricsDataset.save: what a node returned
    points.py              parse, by_key: validated points under their keys
    delivery/delivery.py   Delivery.send: small saves batched into few requests; on the way,
                           reports/report.py counts and shows what is sent
    delivery/route.py      Route.write: to the store or, in an outage, to the outbox
    store/mlflow_store.py  MlflowStore.log_points: one request, tried again if need be

The other modules here:

    hook.py                which Kedro event does what
    run.py                 the MLflow run of a Kedro run: resolve, open, close
    config.py              conf/<env>/mlflow.yml
    cli.py                 `kedro metrics`
    provenance.py          what a run says of itself; redaction.py: what it must not say
    names.py               the names of tags and files, and MLflow's limits
    binding/               which metrics datasets a pipeline has, and to which run each belongs
    reports/               what one sees: the summary, `kedro metrics`, `load` of a dataset

And sub-packages that their owner seldom opens: ``delivery/`` (points arrive, whatever happens),
``store/`` (one MLflow store as one object), ``process/`` (what belongs to the process),
``scanning/`` (where in a text a secret may stand; URIs), ``dask/`` (nodes on a cluster).

The package uses relative imports only and knows nothing of the project around it: to use it
elsewhere, copy it. `kedro-mlflow-metrics update` brings it up to date.
"""

from .dataset import MlflowMetricsDataset
from .hook import MlflowPipelineHook

__all__ = ["MlflowMetricsDataset", "MlflowPipelineHook"]
__version__ = "0.2.0"
