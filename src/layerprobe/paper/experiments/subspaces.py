"""MASC on every layer: noisy subspaces, true subspaces and latent memorisation.

Per layer, one fit and one projection give the accuracies at all variance thresholds and at one component.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import ClassifierMixin
from torch import Tensor

from layerprobe.errors import DegenerateWarning
from layerprobe.layerwise.classes import LabelSets
from layerprobe.layerwise.engine import FittedProbe, fit_layer, predictions
from layerprobe.paper.rows import tidy
from layerprobe.paper.run_outputs import FinishedRun, LayerData, RunOutputs
from layerprobe.probes import MASC

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
SETTING_PROBES = {
    name: MASC(components=1) if share is None else MASC(variance=share) for name, share in SETTINGS.items()
}
MASC_PROBES = {"masc": SETTING_PROBES[PAPER_SETTING]}
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
    records: list[dict[str, Any]] = []
    corrupted = {degree: replace(finished, noisy=finished.labels_at(degree)) for degree in DEGREES}
    for layer, data in finished.outputs.items():
        for degree, run in corrupted.items():
            fitted = fit_probes(run, layer, data, MASC_PROBES, ["noisy"])
            records += [{"degree": degree, **record} for record in probe_records(run, fitted, data)]
    common = {"experiment": "latent_memorisation", "setting": PAPER_SETTING}
    return tidy({**common, **record} for record in records)


def flipped_rows(finished: FinishedRun) -> pd.DataFrame:
    """Measure MASC and the network on the training rows whose label was flipped, and on the others.

    Flipped rows have a given label that differs from the true one. Accuracies on the split "flipped" are
    against the given ("noisy") and the true labels; on "unflipped" rows the two are equal. "flipped_share" is
    the share of flipped rows; a split without rows has no accuracy.
    """
    given, truth = finished.noisy, finished.true
    flipped = given != truth
    parts = [("flipped", "noisy", flipped, given), ("flipped", "true", flipped, truth)]
    parts.append(("unflipped", "true", ~flipped, truth))

    def accuracies(predicted: np.ndarray) -> Iterator[dict[str, Any]]:
        for split, labels, rows, reference in parts:
            if rows.any():
                value = (predicted[rows] == reference[rows]).mean()
                yield {"split": split, "labels": labels, "metric": "accuracy", "value": value}

    records: list[dict[str, Any]] = [{"metric": "flipped_share", "value": flipped.mean()}]
    network = {"layer": "output", "probe": "network"}
    own = finished.outputs.logits.train.argmax(1).numpy()
    records += [{**network, **record} for record in accuracies(own)]
    for layer, data in finished.outputs.items():
        fitted = fit_probes(finished, layer, data, MASC_PROBES)
        for i, y, _ in predictions(fitted, data.train):
            which = {
                "layer": layer,
                "probe": "masc",
                "setting": PAPER_SETTING,
                "fitted_on": fitted[i].fitted_on,
            }
            records += [{**which, **record} for record in accuracies(y.numpy())]
    return tidy({"experiment": "flipped_rows", **record} for record in records)


def fit_probes(
    finished: FinishedRun,
    layer: str,
    data: LayerData,
    probes: Mapping[str, ClassifierMixin],
    fitted_on: Iterable[str] | None = None,
) -> list[FittedProbe]:
    """Fit probes on one layer, without warnings of saturated subspaces: rows of components show saturation.

    Parameters
    ----------
    finished : FinishedRun
    layer : str
    data : LayerData
    probes : mapping of str to estimator
    fitted_on : iterable of {"noisy", "true"}, optional
        Labels of the fits; by default both where they differ.

    Returns
    -------
    list of FittedProbe
        By labels, then by probe.
    """
    differ = not np.array_equal(finished.noisy, finished.true)
    names = tuple(fitted_on or (("noisy", "true") if differ else ("noisy",)))
    y = torch.tensor(np.stack([finished.label_sets[name] for name in names]))  # (S, n)
    labels = LabelSets(names, np.arange(finished.images.num_classes), y, (y.shape[1],) * len(names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        fitted = fit_layer(layer, probes, labels, data.train)
    return sorted(fitted, key=lambda one: names.index(one.fitted_on))


def probe_records(
    finished: FinishedRun, fitted: Sequence[FittedProbe], data: LayerData
) -> list[dict[str, Any]]:
    """Return the accuracies of probes of one layer as records.

    Parameters
    ----------
    finished : FinishedRun
    fitted : sequence of FittedProbe
        Probes of `fit_probes`.
    data : LayerData
    """
    train, test = ({i: y for i, y, _ in predictions(fitted, X)} for X in data)
    return [
        {"layer": one.layer, "probe": one.name, "fitted_on": one.fitted_on, **record}
        for i, one in enumerate(fitted)
        for record in accuracy_records(finished, train[i], test[i])
    ]


def accuracy_records(finished: FinishedRun, train: Tensor, test: Tensor) -> list[dict[str, Any]]:
    """Return the three accuracies of predicted labels as records.

    Parameters
    ----------
    finished : FinishedRun
    train : Tensor of shape (n,)
        Labels predicted for the training data; compared with the noisy and with the true labels.
    test : Tensor of shape (m,)
        Labels predicted for the test data.
    """
    compared = [("train", name, train.numpy() == labels) for name, labels in finished.label_sets.items()]
    compared.append(("test", "true", test.numpy() == finished.test_labels))
    return [
        {"split": split, "labels": labels, "metric": "accuracy", "value": right.mean()}
        for split, labels, right in compared
    ]


def network_records(finished: FinishedRun, outputs: RunOutputs) -> list[dict[str, Any]]:
    """Return the accuracies of a network in evaluation mode as records.

    Parameters
    ----------
    finished : FinishedRun
        The run, for its labels.
    outputs : RunOutputs
    """
    train, test = (logits.argmax(1) for logits in outputs.logits)
    own = {"layer": "output", "probe": "network"}
    return [{**own, **record} for record in accuracy_records(finished, train, test)]


def _measure_layers(finished: FinishedRun, fitted_on: str) -> pd.DataFrame:
    records = network_records(finished, finished.outputs)
    for layer, data in finished.outputs.items():
        fitted = fit_probes(finished, layer, data, SETTING_PROBES, [fitted_on])
        accuracies = probe_records(finished, fitted, data)
        accuracies.sort(key=lambda record: record["split"] == "test")
        records += [{**record, "setting": record["probe"], "probe": "masc"} for record in accuracies]
        which = {"layer": layer, "probe": "masc", "fitted_on": fitted_on}
        records += [{**which, **record} for record in _components(fitted)]
    return tidy({"experiment": f"{fitted_on}_subspaces", **record} for record in records)


def _components(fitted: Sequence[FittedProbe]) -> Iterator[dict[str, Any]]:
    """Yield the number of components per class at each variance threshold."""
    for one in fitted:
        if SETTINGS[one.name] is not None:
            for label, rank in zip(one.classes, one.estimator.subspaces_.ranks, strict=True):
                yield {"setting": one.name, "class": int(label), "metric": "components", "value": rank}
