"""200 metrics datasets, 10 points each."""

from functools import partial

from kedro.pipeline import Node, Pipeline


def scores(number: int) -> dict[str, list[dict[str, float]]]:
    return {"score": [{"value": number / 7, "step": step} for step in range(10)]}


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline(
        [
            Node(partial(scores, number), None, f"m{number}_metrics", name=f"m{number}")
            for number in range(200)
        ]
    )
