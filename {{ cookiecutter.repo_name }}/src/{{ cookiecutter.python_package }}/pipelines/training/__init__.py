"""Train a classifier of handwritten digits; every figure of it is in MLflow."""

from .pipeline import create_pipeline

__all__ = ["create_pipeline"]
