"""The nodes of the training pipeline: plain functions, from data to data.

None but the last knows of MLflow: which figures go there is said in ``conf/base/catalog.yml``.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split

Images = NDArray[np.float64]
Digits = NDArray[np.int64]


def split_digits(split: dict[str, Any]) -> tuple[Images, Images, Digits, Digits]:
    """Load scikit-learn's 1,797 images of handwritten digits and hold some of them out.

    Args:
        split: ``test_size``, the share that is held out, and ``random_state``.

    Returns:
        Training images, test images (64 pixels each, from 0 to 1), training digits, test digits.
    """
    images, digits = load_digits(return_X_y=True)
    train_images, test_images, train_digits, test_digits = train_test_split(
        images / 16, digits, stratify=digits, **split
    )
    return train_images, test_images, train_digits, test_digits


def train_model(
    images: Images, digits: Digits, training: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Train a logistic regression, and yield what there is of it after each epoch.

    Kedro saves what a generator node yields as it comes, so the curve grows while it trains.

    Args:
        images: One row an image.
        digits: What each image shows.
        training: ``epochs``, ``learning_rate`` and ``random_state``.

    Yields:
        ``classifiers``, as they were after each epoch so far, and ``metrics``: loss and accuracy
        of the last one on the training images.
    """
    classifiers: list[SGDClassifier] = []
    classifier = SGDClassifier(
        loss="log_loss",
        learning_rate="constant",
        eta0=training["learning_rate"],
        random_state=training["random_state"],
    )
    shuffle = np.random.default_rng(training["random_state"])
    for _ in range(training["epochs"]):
        order = shuffle.permutation(len(digits))
        classifier.partial_fit(images[order], digits[order], classes=np.arange(10))
        classifiers.append(deepcopy(classifier))
        yield {
            "classifiers": classifiers,
            "metrics": {
                "loss": log_loss(digits, classifier.predict_proba(images)),
                "accuracy": accuracy_score(digits, classifier.predict(images)),
            },
        }


def metrics_node(
    classifiers: list[SGDClassifier], images: Images, digits: Digits
) -> dict[str, dict[str, float] | list[dict[str, float]]]:
    """Evaluate the classifiers of all epochs on images that they have not seen.

    Returns:
        ``accuracy``, one value at the last epoch, and ``loss``, a curve: one value for each epoch,
        at the steps of the loss in training.
    """
    accuracy = accuracy_score(digits, classifiers[-1].predict(images))
    losses = [log_loss(digits, classifier.predict_proba(images)) for classifier in classifiers]
    return {
        "accuracy": {"value": accuracy, "step": len(classifiers) - 1},
        "loss": [{"value": loss, "step": epoch} for epoch, loss in enumerate(losses)],
    }


def score_baseline(
    train_images: Images, train_digits: Digits, images: Images, digits: Digits
) -> dict[str, float]:
    """Score the least that can be done, the most frequent digit, to compare with."""
    baseline = DummyClassifier().fit(train_images, train_digits)
    return {"accuracy": baseline.score(images, digits)}


def keep_model(classifiers: list[SGDClassifier], images: Images) -> None:
    """Keep the classifier of the last epoch in MLflow, to be loaded or served from there.

    Whatever a node does with MLflow's own functions lands in the MLflow run of the Kedro run.
    Without one (``track: never`` in ``mlflow.yml``) there is nothing to keep it in.
    """
    import mlflow

    if mlflow.active_run():
        mlflow.sklearn.log_model(
            classifiers[-1],
            name="classifier",
            signature=mlflow.models.infer_signature(images),
            # What is needed to load it. MLflow would take half a minute to find out.
            conda_env={"dependencies": ["pip", {"pip": [f"scikit-learn=={sklearn.__version__}"]}]},
        )
