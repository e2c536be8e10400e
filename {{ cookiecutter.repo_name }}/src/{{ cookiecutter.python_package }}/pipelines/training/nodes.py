"""The nodes of the training pipeline: plain functions, from data to data.

None of them knows of MLflow: what goes there is said in ``conf/base/catalog.yml``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import accuracy_score, log_loss, recall_score
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
    """Train a logistic regression, and yield it with its metrics after each epoch.

    Kedro saves what a generator node yields as it comes, so the curve grows while it trains.

    Args:
        images: One row an image.
        digits: What each image shows.
        training: ``epochs``, ``learning_rate`` and ``random_state``.

    Yields:
        ``classifier``, and ``metrics``: loss and accuracy on the training images.
    """
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
        yield {
            "classifier": classifier,
            "metrics": {
                "loss": log_loss(digits, classifier.predict_proba(images)),
                "accuracy": accuracy_score(digits, classifier.predict(images)),
            },
        }


def metrics_node(
    classifier: SGDClassifier, images: Images, digits: Digits, training: dict[str, Any]
) -> dict[str, dict[str, float] | list[dict[str, float]]]:
    """Evaluate the classifier on images that it has not seen.

    Returns:
        ``accuracy``, one value at the last epoch, and ``recall``, one value for each digit: its
        step is the digit.
    """
    predicted = classifier.predict(images)
    recall = recall_score(digits, predicted, average=None, labels=range(10))
    return {
        "accuracy": {"value": accuracy_score(digits, predicted), "step": training["epochs"]},
        "recall": [{"value": value, "step": digit} for digit, value in enumerate(recall)],
    }


def score_baseline(
    train_images: Images, train_digits: Digits, images: Images, digits: Digits
) -> dict[str, float]:
    """Score the least that can be done, the most frequent digit, to compare with."""
    baseline = DummyClassifier().fit(train_images, train_digits)
    return {"accuracy": baseline.score(images, digits)}
