"""The three accuracies of the paper, as records."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from layerprobe.paper.subjects import Subject

__all__ = ["accuracies"]


def accuracies(subject: Subject, train: Tensor, test: Tensor) -> Iterator[dict[str, Any]]:
    """Yield the accuracies of predictions: against noisy and true training labels, and on the test data.

    Parameters
    ----------
    subject : Subject
        The run that the predictions are of.
    train, test : Tensor of shape (n,), (m,)
        Predicted labels.
    """
    for split, labels, predicted, truth in (
        ("train", "noisy", train, subject.noisy),
        ("train", "true", train, subject.true),
        ("test", "true", test, subject.test_labels),
    ):
        value = (predicted.cpu().numpy() == truth).mean()
        yield {"split": split, "labels": labels, "metric": "accuracy", "value": value}
