"""Two metrics datasets that write the same key, one after the other."""

from kedro.pipeline import Node, Pipeline


def first() -> tuple[dict[str, float], int]:
    return {"score": 0.5}, 1


def second(one: int) -> dict[str, float]:
    return {"score": 0.5 + one}


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline(
        [
            Node(first, None, ["first_metrics", "one"], name="first_of_two"),
            Node(second, "one", "second_metrics", name="second_of_two"),
        ]
    )
