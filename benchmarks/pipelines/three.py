"""A pipeline that uses three entries of a large catalog."""

from kedro.pipeline import Node, Pipeline


def first() -> int:
    return 1


def more(number: int) -> int:
    return number + 1


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline(
        [
            Node(first, None, "e1", name="first_of_three"),
            Node(more, "e1", "e2", name="second_of_three"),
            Node(more, "e2", "e3", name="third_of_three"),
        ]
    )
