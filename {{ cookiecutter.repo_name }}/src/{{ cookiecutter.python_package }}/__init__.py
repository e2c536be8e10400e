"""A Kedro project whose metrics are in MLflow."""

__version__ = "0.1"
