"""The project's pipelines."""

from kedro.pipeline import Pipeline

from rockets.pipelines import data_processing, data_science


def register_pipelines() -> dict[str, Pipeline]:
    processing = data_processing.create_pipeline()
    science = data_science.create_pipeline()
    return {"__default__": processing + science, "processing": processing, "science": science}
