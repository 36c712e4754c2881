"""What several experiments measure alike."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from layerprobe.errors import DegenerateWarning
from layerprobe.paper.run_outputs import Subject
from layerprobe.probes import MASC

__all__ = ["PAPER", "accuracies", "fit_masc"]

PAPER = "0.99"  # the setting of the paper's main results


def fit_masc(rows: Tensor, labels: np.ndarray, variance: float = float(PAPER)) -> MASC:
    """Fit MASC to a layer's outputs (n, d) and labels (n,); silent where subspaces are saturated.

    Whether they are shows in their number of components.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        return MASC(variance=variance).fit(rows, labels)


def accuracies(subject: Subject, train: np.ndarray, test: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield the three accuracies of labels predicted for the training data (n,) and the test data (m,)."""
    for split, labels, right in (
        ("train", "noisy", train == subject.noisy),
        ("train", "true", train == subject.true),
        ("test", "true", test == subject.test_labels),
    ):
        yield {"split": split, "labels": labels, "metric": "accuracy", "value": right.mean()}
