"""A pipeline: load, evaluate.

What it makes has names that begin with its own: no two pipelines may write the same output.
"""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from .nodes import evaluate, load_scores


def create_pipeline(**kwargs: object) -> Pipeline:
    """The pipeline; what is said of its metrics is in ``conf/base``, in a catalog of its own."""
    return Pipeline(
        [
            Node(
                load_scores,
                inputs=None,
                outputs="{{ cookiecutter.pipeline_name }}_scores",
                name="{{ cookiecutter.pipeline_name }}_load",
            ),
            Node(
                evaluate,
                inputs=[
                    "{{ cookiecutter.pipeline_name }}_scores",
                    "params:{{ cookiecutter.pipeline_name }}",
                ],
                outputs="{{ cookiecutter.pipeline_name }}_metrics",
                name="{{ cookiecutter.pipeline_name }}_evaluate",
            ),
        ]
    )
