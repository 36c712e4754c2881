"""MASC on every layer: noisy subspaces, true subspaces, latent memorisation, flipped rows, and baselines.

Per layer, one fit and one projection give the accuracies at all variance thresholds and at one component.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
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
from layerprobe.paper.rows import Records, each, measured_as, tidy
from layerprobe.paper.run_outputs import FinishedRun, LayerData, RunOutputs
from layerprobe.paper.selection import EVERY_DEGREE, PAPER, TEST
from layerprobe.probes import MASC

# Variance thresholds by their names in rows; the last setting is one component.
SETTINGS: dict[str, float | None] = {str(share): share for share in (0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)}
SETTINGS["1pc"] = None
SETTING_PROBES = {
    name: MASC(components=1) if share is None else MASC(variance=share) for name, share in SETTINGS.items()
}
MASC_PROBES = {"masc": SETTING_PROBES[PAPER["setting"]]}


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


@measured_as("latent_memorisation", setting=PAPER["setting"])
def latent_memorisation(finished: FinishedRun) -> Records:
    """Measure MASC on a generalised network with subspaces of labels that are corrupted after training.

    The run has p = 0. The labels of each degree are those that a network trained at this degree with the same
    noise seed learns. The column degree of the rows is the degree of these labels.
    """
    corrupted = {degree: replace(finished, noisy=finished.labels_at(degree)) for degree in EVERY_DEGREE[1:]}
    for layer, data in finished.outputs.items():
        for degree, run in corrupted.items():
            fitted = fit_probes(run, layer, data, MASC_PROBES, ["noisy"])
            yield from each(probe_records(run, fitted, data), degree=degree)


@measured_as("flipped_rows")
def flipped_rows(finished: FinishedRun) -> Records:
    """Measure MASC and the network on the training rows whose label was flipped, and on the others.

    Flipped rows have a given label that differs from the true one. Accuracies on the split "flipped" are
    against the given ("noisy") and the true labels; on "unflipped" rows the two are equal. "flipped_share" is
    the share of flipped rows; a split without rows has no accuracy.
    """
    given, truth = finished.noisy, finished.true
    flipped = given != truth
    parts = [("flipped", "noisy", flipped, given), ("flipped", "true", flipped, truth)]
    parts.append(("unflipped", "true", ~flipped, truth))

    def accuracies(predicted: np.ndarray, **which: str) -> Records:
        for split, labels, rows, reference in parts:
            if rows.any():
                value = (predicted[rows] == reference[rows]).mean()
                yield {**which, "split": split, "labels": labels, "metric": "accuracy", "value": value}

    yield {"metric": "flipped_share", "value": flipped.mean()}
    yield from accuracies(finished.outputs.logits.train.argmax(1).numpy(), layer="output", probe="network")
    for layer, data in finished.outputs.items():
        fitted = fit_probes(finished, layer, data, MASC_PROBES)
        for i, y, _ in predictions(fitted, data.train):
            which = {"layer": layer, "fitted_on": fitted[i].fitted_on, **PAPER}
            yield from accuracies(y.numpy(), **which)


@measured_as("controls")
def controls(finished: FinishedRun) -> Records:
    """Measure MASC at 0.99 on the untrained network, and the network at its best and at its last epoch.

    The best epoch is the first with the highest test accuracy. It is chosen on the test data, so it is an
    upper bound for early stopping. Where all labels are true, only noisy subspaces are measured. Published
    weights have no history, so no best epoch; their untrained network has initial weights of ours.
    """
    for layer, data in finished.outputs_of(finished.untrained()).items():
        fitted = fit_probes(finished, layer, data, MASC_PROBES)
        yield from each(probe_records(finished, fitted, data), setting="untrained")
    if finished.spec.weights:  # trained elsewhere: no history
        own = network_records(finished, finished.outputs)
        yield from each((one for one in own if one["split"] == "test"), setting="last_epoch")
        return
    history = finished.run.history
    best = int(history["test_accuracy"].argmax())  # the first of equals
    for setting, row in (("best_epoch", best), ("last_epoch", len(history) - 1)):
        epoch, accuracy = history.iloc[row][["epoch", "test_accuracy"]]
        which = {"layer": "output", "probe": "network", "setting": setting, "epoch": epoch}
        yield {**which, **TEST, "value": accuracy}


def fit_probes(
    finished: FinishedRun,
    layer: str,
    data: LayerData,
    probes: Mapping[str, ClassifierMixin],
    fitted_on: Iterable[str] | None = None,
) -> list[FittedProbe]:
    """Fit probes on one layer, by labels and then by probe.

    Saturated subspaces give no warning: rows of components show saturation.

    Parameters
    ----------
    finished, layer, data, probes
        Probes by name.
    fitted_on : iterable of {"noisy", "true"}, optional
        Labels of the fits; by default both where they differ.
    """
    differ = not np.array_equal(finished.noisy, finished.true)
    names = tuple(fitted_on or (("noisy", "true") if differ else ("noisy",)))
    y = torch.tensor(np.stack([finished.label_sets[name] for name in names]))  # (S, n)
    labels = LabelSets(names, np.arange(finished.images.num_classes), y, (y.shape[1],) * len(names))
    with warnings.catch_warnings(action="ignore", category=DegenerateWarning):
        fitted = fit_layer(layer, probes, labels, data.train)
    return sorted(fitted, key=lambda one: names.index(one.fitted_on))


def probe_records(
    finished: FinishedRun, fitted: Sequence[FittedProbe], data: LayerData
) -> list[dict[str, Any]]:
    """Return the accuracies of probes of one layer as records.

    Parameters
    ----------
    finished, fitted, data
        Probes of `fit_probes`, and the layer.
    """
    train, test = ({i: y for i, y, _ in predictions(fitted, X)} for X in data)
    records = []
    for i, one in enumerate(fitted):
        which = {"layer": one.layer, "probe": one.name, "fitted_on": one.fitted_on}
        records += each(accuracy_records(finished, train[i], test[i]), **which)
    return records


def accuracy_records(finished: FinishedRun, train: Tensor, test: Tensor) -> list[dict[str, Any]]:
    """Return the three accuracies of predicted labels as records.

    Parameters
    ----------
    finished : FinishedRun
    train, test : Tensor of shape (n,) and (m,)
        Predicted labels; those of the training data are compared with the noisy and with the true labels.
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
    finished, outputs
        The run, for its labels, and the outputs of the network.
    """
    train, test = (logits.argmax(1) for logits in outputs.logits)
    return each(accuracy_records(finished, train, test), layer="output", probe="network")


def _measure_layers(finished: FinishedRun, fitted_on: str) -> pd.DataFrame:
    records = network_records(finished, finished.outputs)
    for layer, data in finished.outputs.items():
        fitted = fit_probes(finished, layer, data, SETTING_PROBES, [fitted_on])
        accuracies = probe_records(finished, fitted, data)
        accuracies.sort(key=lambda record: record["split"] == "test")
        records += [{**record, "setting": record["probe"], "probe": "masc"} for record in accuracies]
        records += each(_components(fitted), layer=layer, probe="masc", fitted_on=fitted_on)
    return tidy(each(records, experiment=f"{fitted_on}_subspaces"))


def _components(fitted: Sequence[FittedProbe]) -> Records:
    """Yield the number of components per class at each variance threshold."""
    for one in fitted:
        if SETTINGS[one.name] is not None:
            for label, rank in zip(one.classes, one.estimator.subspaces_.ranks, strict=True):
                yield {"setting": one.name, "class": int(label), "metric": "components", "value": rank}
