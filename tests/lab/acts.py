"""Two nodes, the first of which may be a generator, that do what a test has them do."""

from collections.abc import Callable, Iterator

from kedro.pipeline import Node, Pipeline

ACTS: dict[str, Callable[[], object]] = {}  # by node


def act(name: str) -> None:
    ACTS.get(name, lambda: None)()


def first(number: float) -> tuple[dict[str, float], float]:
    act("first")
    return {"score": number}, number


def second(number: float) -> tuple[dict[str, float], float]:
    act("second")
    return {"score": number}, number


def stream(number: float) -> Iterator[tuple[dict[str, float], float]]:
    act("before yields")
    yield {"score": number}, number
    act("after yields")


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline(
        [
            Node(first, "params:number", ["act_one_metrics", "act_one"], name="first_act"),
            Node(second, "act_one", ["act_two_metrics", "act_two"], name="second_act"),
            Node(
                stream, "params:number", ["act_stream_metrics", "act_streamed"], name="stream_act"
            ),
            Node(second, "act_streamed", ["act_three_metrics", "act_three"], name="third_act"),
        ]
    )
