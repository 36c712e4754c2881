"""MASC on every layer: noisy subspaces, true subspaces and latent memorisation.

Per layer, one fit and one projection give the accuracies at all variance thresholds and at one component.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from layerprobe.errors import DegenerateWarning
from layerprobe.paper.rows import tidy
from layerprobe.paper.run_outputs import FinishedRun, LayerData
from layerprobe.probes import MASC, Probe

__all__ = [
    "DEGREES",
    "PAPER_SETTING",
    "SETTINGS",
    "accuracy_records",
    "fit_masc",
    "fit_quietly",
    "latent_memorisation",
    "network_records",
    "noisy_subspaces",
    "true_subspaces",
]

# Variance thresholds by their names in rows; the last setting is one component.
SETTINGS: dict[str, float | None] = {
    "0.25": 0.25,
    "0.5": 0.5,
    "0.75": 0.75,
    "0.9": 0.9,
    "0.95": 0.95,
    "0.99": 0.99,
    "0.999": 0.999,
    "1pc": None,
}
PAPER_SETTING = "0.99"  # of the paper's main results
LARGEST = max(filter(None, SETTINGS.values()))  # a fit at this variance contains all smaller subspaces
DEGREES = (0.2, 0.4, 0.6, 0.8, 1.0)  # corruption degrees of latent memorisation


def noisy_subspaces(finished: FinishedRun) -> pd.DataFrame:
    """Measure MASC with subspaces of the labels that the network was trained on.

    The paper shows these numbers in Figures 2, 12 and 15 and in Table 1.
    """
    return _measure_layers(finished, "noisy")


def true_subspaces(finished: FinishedRun) -> pd.DataFrame:
    """Measure MASC with subspaces of the true training labels.

    The paper shows these numbers in Figures 3, 13 and 17 and in Table 5.
    """
    return _measure_layers(finished, "true")


def latent_memorisation(finished: FinishedRun) -> pd.DataFrame:
    """Measure MASC on a generalised network with subspaces of labels that are corrupted after training.

    The run has p = 0. The labels of each degree are those that a network trained at this degree with the same
    noise seed learns. The column degree of the rows is the degree of these labels.
    """
    labels_of = {degree: finished.labels_at(degree) for degree in DEGREES}
    records = [
        {"layer": layer, "fitted_on": "noisy", "degree": degree, **record}
        for layer, data in finished.outputs.items()
        for degree, noisy in labels_of.items()
        for record in _accuracies(
            fit_masc(data.train, noisy, LARGEST),
            data,
            {"noisy": noisy, "true": finished.true},
            finished.test_labels,
            [PAPER_SETTING],
        )
    ]
    return tidy({"experiment": "latent_memorisation", "probe": "masc", **record} for record in records)


def fit_quietly(probe: Probe, X: Tensor, y: np.ndarray) -> Probe:
    """Fit a probe without the warning about saturated subspaces; the rows of components show saturation.

    Parameters
    ----------
    probe : Probe
        The probe to fit.
    X : Tensor of shape (n, d)
        Outputs of one layer.
    y : ndarray of shape (n,)
        Labels.

    Returns
    -------
    Probe
        The same probe, fitted.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        return probe.fit(X, y)


def fit_masc(X: Tensor, y: np.ndarray, variance: float = float(PAPER_SETTING)) -> MASC:
    """Fit MASC as `fit_quietly` does.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Outputs of one layer.
    y : ndarray of shape (n,)
        Labels.
    variance : float
        Share of the variance; by default the paper's.
    """
    masc = MASC(variance=variance)
    fit_quietly(masc, X, y)
    return masc


def accuracy_records(finished: FinishedRun, train: Tensor, test: Tensor) -> list[dict[str, Any]]:
    """Return the three accuracies of predicted labels as records.

    Parameters
    ----------
    finished : FinishedRun
        The run with its labels.
    train : Tensor of shape (n,)
        Labels predicted for the training data; compared with the noisy and with the true labels.
    test : Tensor of shape (m,)
        Labels predicted for the test data.

    Returns
    -------
    list of dict
        Records with split, labels, metric and value.
    """
    compared = [("train", name, train.numpy() == labels) for name, labels in finished.label_sets.items()]
    compared.append(("test", "true", test.numpy() == finished.test_labels))
    return [
        {"split": split, "labels": labels, "metric": "accuracy", "value": right.mean()}
        for split, labels, right in compared
    ]


def network_records(finished: FinishedRun) -> list[dict[str, Any]]:
    """Return the accuracies of the network itself, in evaluation mode, as records."""
    train, test = (logits.argmax(1) for logits in finished.outputs.logits)
    own = {"layer": "output", "probe": "network"}
    return [{**own, **record} for record in accuracy_records(finished, train, test)]


def _measure_layers(finished: FinishedRun, fitted_on: str) -> pd.DataFrame:
    records = network_records(finished)
    for layer, data in finished.outputs.items():
        masc = fit_masc(data.train, finished.label_sets[fitted_on], LARGEST)
        which = {"layer": layer, "probe": "masc", "fitted_on": fitted_on}
        scores = _accuracies(masc, data, finished.label_sets, finished.test_labels, list(SETTINGS))
        records += [{**which, **record} for record in [*scores, *_components(masc)]]
    return tidy({"experiment": f"{fitted_on}_subspaces", **record} for record in records)


def _accuracies(
    masc: MASC,
    data: LayerData,
    train_labels: Mapping[str, np.ndarray],
    test_labels: np.ndarray,
    settings: list[str],
) -> Iterator[dict[str, Any]]:
    """Yield accuracies at each setting: training rows against every label set, then test rows."""
    variances = [share for name in settings if (share := SETTINGS[name]) is not None]
    components = [1] if "1pc" in settings else []
    for split, X, label_sets in (
        ("train", data.train, train_labels),
        ("test", data.test, {"true": test_labels}),
    ):
        for setting, predicted in zip(settings, masc.staged_predict(X, variances, components), strict=True):
            for labels, y in label_sets.items():
                value = (predicted.numpy() == y).mean()
                which = {"setting": setting, "split": split, "labels": labels}
                yield {**which, "metric": "accuracy", "value": value}


def _components(masc: MASC) -> Iterator[dict[str, Any]]:
    """Yield the number of components per class at each variance threshold."""
    for setting, share in SETTINGS.items():
        if share is not None:
            for label, rank in zip(masc.classes_, masc.subspaces_.ranks_at(variance=share), strict=True):
                yield {"setting": setting, "class": int(label), "metric": "components", "value": rank}
