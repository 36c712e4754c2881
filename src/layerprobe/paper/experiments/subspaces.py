"""MASC on every layer: noisy subspaces, true subspaces, latent memorisation (METHOD section 4).

Every variance threshold and the single component come from one fit and one projection a layer.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from layerprobe.paper.experiments.measuring import PAPER, accuracies, fit_masc
from layerprobe.paper.rows import tidy
from layerprobe.paper.run_outputs import LayerData, Subject
from layerprobe.probes import MASC

__all__ = [
    "DEGREES",
    "PAPER",
    "STRENGTHS",
    "latent_memorisation",
    "network_rows",
    "noisy_subspaces",
    "true_subspaces",
]

# The settings of the threshold study by their names in rows; the last is one component.
STRENGTHS: dict[str, float | None] = {
    "0.25": 0.25,
    "0.5": 0.5,
    "0.75": 0.75,
    "0.9": 0.9,
    "0.95": 0.95,
    "0.99": 0.99,
    "0.999": 0.999,
    "1pc": None,
}
LARGEST = max(filter(None, STRENGTHS.values()))  # all others follow from a fit at this one
DEGREES = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the labels that latent memorisation corrupts after training


def noisy_subspaces(subject: Subject) -> pd.DataFrame:
    """MASC with subspaces from the labels that the network was trained on (Figures 2 and 12, 15, Table 1)."""
    return _every_layer(subject, "noisy_subspaces", "noisy")


def true_subspaces(subject: Subject) -> pd.DataFrame:
    """MASC with subspaces from the true training labels (Figures 3 and 13, 17, Table 5)."""
    return _every_layer(subject, "true_subspaces", "true")


def latent_memorisation(subject: Subject) -> pd.DataFrame:
    """MASC on the generalised model with subspaces from labels that are corrupted only afterwards.

    For a run with p = 0. The corrupted labels of every degree are the draw that a network trained at that
    degree with the same noise seed would have had; rows name the degree.
    """
    labels_of = {degree: subject.labels_at(degree) for degree in DEGREES}
    records: list[dict[str, Any]] = []
    for layer, data in subject.outputs.items():
        for degree, noisy in labels_of.items():
            label_sets = {"noisy": noisy, "true": subject.true}
            fitted = fit_masc(data.train, noisy, LARGEST)
            scores = _scores(fitted, data, label_sets, subject.test_labels, [PAPER])
            records += [{"layer": layer, "fitted_on": "noisy", "degree": degree, **score} for score in scores]
    return tidy({"experiment": "latent_memorisation", "probe": "masc", **record} for record in records)


def network_rows(subject: Subject, experiment: str) -> list[dict[str, Any]]:
    """Return the accuracies of the network itself, in evaluation mode, as records."""
    train, test = (logits.argmax(1).numpy() for logits in subject.outputs.logits)
    common = {"experiment": experiment, "layer": "output", "probe": "network"}
    return [{**common, **record} for record in accuracies(subject, train, test)]


def _every_layer(subject: Subject, experiment: str, fitted_on: str) -> pd.DataFrame:
    common = {"experiment": experiment, "probe": "masc", "fitted_on": fitted_on}
    records = network_rows(subject, experiment)
    for layer, data in subject.outputs.items():
        fitted = fit_masc(data.train, subject.label_sets[fitted_on], LARGEST)
        scores = _scores(fitted, data, subject.label_sets, subject.test_labels, list(STRENGTHS))
        for record in [*scores, *_components(fitted)]:
            records.append({**common, "layer": layer, **record})
    return tidy(records)


def _scores(
    fitted: MASC,
    data: LayerData,
    train_labels: dict[str, np.ndarray],
    test_labels: np.ndarray,
    settings: list[str],
) -> Iterator[dict[str, Any]]:
    """Yield accuracies at each setting, on the training rows against every label set and on the test rows."""
    variances = [share for name in settings if (share := STRENGTHS[name]) is not None]
    components = [1] if "1pc" in settings else []
    for split, rows, label_sets in (
        ("train", data.train, train_labels),
        ("test", data.test, {"true": test_labels}),
    ):
        staged = fitted.staged_predict(rows, variances, components)
        for setting, predicted in zip(settings, staged, strict=True):
            for labels, truth in label_sets.items():
                right = predicted.numpy() == truth
                yield {
                    "setting": setting,
                    "split": split,
                    "labels": labels,
                    "metric": "accuracy",
                    "value": right.mean(),
                }


def _components(fitted: MASC) -> Iterator[dict[str, Any]]:
    """Yield the number of components of each class at each threshold."""
    for setting, share in STRENGTHS.items():
        if share is not None:
            for label, rank in zip(fitted.classes_, fitted.subspaces_.ranks_at(variance=share), strict=True):
                yield {"setting": setting, "class": int(label), "metric": "components", "value": rank}
