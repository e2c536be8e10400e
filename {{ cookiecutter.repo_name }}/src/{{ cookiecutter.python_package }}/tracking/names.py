"""The names of tags and files, and MLflow's limits: each stands here and nowhere else."""

import re
import sys
from collections.abc import Collection
from difflib import get_close_matches
from reprlib import repr as short_repr

from kedro.io import AbstractDataset
from omegaconf import OmegaConf

# What the keys of MLflow's own system metrics begin with.
SYSTEM = "system/"

# An SQLite file with what could not be written to the tracking store: requests, in this table, and
# whole runs, in MLflow's.
OUTBOX_FILE = "mlflow-spool.db"
OUTBOX_TABLE = "kedro_waiting_requests"


def best_start(separator: str) -> str:
    """What the keys of the best values begin with: ``best.`` and the key."""
    return "best" + separator


class Tag:
    """The tags of an MLflow run."""

    PIPELINE = "kedro.pipeline"
    ENV = "kedro.env"
    RUNNER = "kedro.runner"
    KEDRO_VERSION = "kedro.version"
    KEDRO_RUN_ID = "kedro.run_id"
    COMMAND = "kedro.command"
    ERROR = "kedro.error"  # what ended the run
    MACHINE = "kedro.machine"  # the machine, or container, of the processes that use the run
    PROCESS = "kedro.process"  # ids and start times of the processes that use the run
    # One value for each run: tells whether a request whose answer was lost has created the run.
    IDEMPOTENCY_KEY = "kedro.idempotency_key"
    # Of a run of `kedro metrics open`, for several Kedro runs: its `--key`, else a random id.
    SHARED = "kedro.shared"
    # Of a run that began in the outbox: its target store and, if its target is an external run,
    # that run's id and a mark that `kedro metrics sync` must not end the target.
    TARGET_STORE = "kedro.spool.store"
    TARGET_RUN = "kedro.spool.run_id"
    EXTERNAL = "kedro.spool.external"
    # MLflow's own, https://mlflow.org/docs/latest/ml/tracking/#system-tags
    RUN_NAME = "mlflow.runName"
    USER = "mlflow.user"
    SOURCE_NAME = "mlflow.source.name"
    SOURCE_TYPE = "mlflow.source.type"
    GIT_COMMIT = "mlflow.source.git.commit"
    GIT_DIRTY = "mlflow.source.git.dirty"
    PARENT_RUN = "mlflow.parentRunId"
    EXPERIMENT_KIND = "mlflow.experimentKind"  # of an experiment


# A kind of experiment, for which MLflow's UI, 3.7 to 3.9, shows runs and not traces.
FOR_MODELS = "custom_model_development"


# MLflow 3.17, mlflow.utils.validation; servers as old as 3.7 allow the same.
MAX_KEY_LENGTH = 250
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
MAX_STEP = 2**63 - 1
TIMES = range(253_402_300_800_000)  # ms; pandas and Python know none after the year 9999
# One request of log_batch takes at most so many
# (https://mlflow.org/docs/latest/api_reference/rest-api.html#log-batch).
METRICS_PER_REQUEST = 1000
PARAMS_PER_REQUEST = 100

# What a point may be, for errors.
A_VALUE = "a value is a real number (int, float, bool, a NumPy or pandas scalar, a 0-d array)"
A_STEP = "a step is a whole number that fits in 64 bits"
A_TIMESTAMP = "a timestamp is a whole number of milliseconds since the epoch, up to the year 9999"
A_METRIC = (
    "a metric is a number, {'value': v} with 'step' and 'timestamp' if wanted, a list or 1-d"
    " array of these, {step: v, ...}, or a mapping of names to metrics"
)


def known_words(word: object, known: Collection[str]) -> str:
    """What to say of an unknown word: the nearest that is known, if one is near, and all."""
    near = get_close_matches(str(word), known, n=1)
    hint = f"did you mean {near[0]!r}? Known are" if near else "known are"
    return f"{hint} {', '.join(known)}"


def shown(value: object) -> str:
    """A value and its type, in one line, for an error."""
    try:
        text = " ".join(short_repr(value).split())  # a data frame's has several lines
    except Exception:  # an int of more than 4,300 digits has none
        text = "something"
    return f"{text} ({type(value).__name__})"


def check_arguments(metrics: object, **texts: object) -> None:
    """Raise a ValueError for arguments of a metrics dataset that are no texts, or one too many."""
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            given = f"{name!r} is {value!r} ({type(value).__name__})"
            raise ValueError(f'{given}; it is a string: write "{value}", in quotes')
    if texts["key"] and (texts["prefix"] is not None or metrics is not None):
        raise ValueError("'key' goes with neither 'prefix' nor 'metrics'; leave one out")


def given_text(name: str, value: object) -> str | None:
    """How a runtime parameter stands on the command line, which Kedro (1.7) reads as YAML."""
    for argument in sys.argv:
        for text in re.findall(rf"\b{name}=([^,]+)", argument):
            if OmegaConf.from_dotlist([f"given={text}"])["given"] == value:
                return str(text)
    return None


def entry_being_built() -> str | None:
    """The entry's name, without what follows an @; None where none is.

    Kedro (1.0 to 1.7) gives it only to the ``from_config`` that calls us.
    """
    code = AbstractDataset.from_config.__func__.__code__  # type: ignore[attr-defined]
    frame, name = sys._getframe(), None
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_code is code:
            name = frame.f_locals["name"]  # the outermost: CachedDataset's inner one is "_cached"
    return name and str(name).partition("@")[0]
