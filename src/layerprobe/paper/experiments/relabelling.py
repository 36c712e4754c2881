"""Retraining on labels that MASC predicts.

The layer with the best MASC accuracy on 20 % of the test data relabels every training point, and the network
continues training on these labels. All results are measured on the other 80 % of the test data.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from torch import Tensor

from layerprobe.errors import DataError, InputError
from layerprobe.layerwise.engine import predictions
from layerprobe.paper.experiments.subspaces import MASC_PROBES, fit_probes
from layerprobe.paper.rows import Records, each, measured_as
from layerprobe.paper.run_outputs import FinishedRun, LayerData
from layerprobe.runs.execution import common_arguments
from layerprobe.training import RetrainingEpoch, RetrainingResult, retrain

VALIDATION = 0.2  # share of the test data
SPLIT_SEED = 0
PATIENCE, MAX_EPOCHS, FIXED_EPOCHS = 3, 30, 10


class RetrainingSplit(NamedTuple):
    """Ascending positions in the test data; each position is in one of the two parts."""

    validation: np.ndarray
    evaluation: np.ndarray


class LayerPredictions(NamedTuple):
    """The labels that MASC predicts at one layer."""

    layer: str
    train: np.ndarray  # (n,)
    test: np.ndarray  # (m,)


@measured_as("retraining")
def retraining(finished: FinishedRun) -> Records:
    """Relabel the training data by the best layer and continue training.

    The paper shows these numbers in Figures 4 and 27 to 31 and in Tables 6 to 8.

    Measured once with noisy and once with true subspaces. Every probed layer of the pair can be chosen, the
    input included; the first of equals is chosen. The recipe is that of the run, with a fresh optimiser and
    the run's batch orders from epoch 1 on; the recipe's own stopping rules do not apply.

    "early_stopping" stops by validation accuracy with a patience of 3, after at most 30 epochs. "ten_epochs"
    trains for ten epochs. Both are equal as long as both last. Rows of the network are in evaluation mode.
    All rows name the chosen layer. Where all labels are true (p = 0), only noisy subspaces are measured.

    Raises
    ------
    DataError
        If there are too few test images to split.
    """
    return relabel_and_retrain(finished, lambda _: MASC_PROBES)


def relabel_and_retrain(
    finished: FinishedRun,
    probes: Callable[[LayerData], Mapping[str, ClassifierMixin]],
    fitted_on: Iterable[str] | None = None,
) -> Records:
    """Yield the records of `retraining` on the labels of any probe.

    Parameters
    ----------
    finished : FinishedRun
    probes : callable
        From a layer to its probe by name; a layer without one cannot be chosen.
    fitted_on : iterable of {"noisy", "true"}, optional
        As for `fit_probes`.
    """
    split = split_test(finished.test_labels)
    if not len(split.validation) or not len(split.evaluation):
        raise DataError(
            "Retraining splits the test images into a validation and an evaluation part and needs at least 3 "
            f"per class; {finished.spec.pair} has {len(finished.test_labels)} test images here. Train on a "
            "larger test_subset."
        )
    for labels, chosen in _best_layers(finished, split.validation, probes, fitted_on).items():
        early = _continue_training(finished, chosen.train, split, MAX_EPOCHS, PATIENCE)
        fixed = early.history
        if len(fixed) <= FIXED_EPOCHS:
            fixed = _continue_training(finished, chosen.train, split, FIXED_EPOCHS, None).history
        records = chain(
            _before_retraining(finished, chosen, split),
            _per_epoch("early_stopping", early.history),
            _per_epoch("ten_epochs", fixed[: FIXED_EPOCHS + 1]),
        )
        yield from each(records, layer=chosen.layer, fitted_on=labels)


def split_test(labels: np.ndarray) -> RetrainingSplit:
    """Split the test data into 20 % of every class for validation and the rest for evaluation.

    The split is the same for every run with this test data, so corruption degrees and seeds are compared on
    the same images.

    Parameters
    ----------
    labels : ndarray of shape (m,)
        True test labels. The 20 % of a class are rounded to a whole number, half to even.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    chosen = np.zeros(len(labels), dtype=bool)  # (m,)
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        chosen[of_class[: round(VALIDATION * len(of_class))]] = True
    return RetrainingSplit(np.flatnonzero(chosen), np.flatnonzero(~chosen))


def relabel_statistics(given: np.ndarray, relabelled: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Return the shares of labels that relabelling corrects and breaks.

    "corrected" is the share of wrong labels that became right, "broken" that of right labels that became
    wrong (each NaN if there were none); "incorrect_before" and "incorrect_after" are those of all labels.

    Parameters
    ----------
    given, relabelled, true : ndarrays of shape (n,)

    Raises
    ------
    InputError
        If the three arrays differ in shape.

    Examples
    --------
    >>> relabel_statistics(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0]), np.array([0, 1, 1, 1]))
    {'corrected': 1.0, 'broken': 0.3333333333333333, 'incorrect_before': 0.25, 'incorrect_after': 0.25}
    """
    if not given.shape == relabelled.shape == true.shape:
        shapes = ", ".join(str(labels.shape) for labels in (given, relabelled, true))
        raise InputError(f"expected given, relabelled and true labels of one shape, got the shapes {shapes}")
    wrong, wrong_after = given != true, relabelled != true  # (n,)
    shares = {
        "corrected": ~wrong_after[wrong],
        "broken": wrong_after[~wrong],
        "incorrect_before": wrong,
        "incorrect_after": wrong_after,
    }
    return {name: float(part.mean()) if len(part) else float("nan") for name, part in shares.items()}


def _best_layers(
    finished: FinishedRun,
    validation: np.ndarray,
    probes: Callable[[LayerData], Mapping[str, ClassifierMixin]],
    fitted_on: Iterable[str] | None,
) -> dict[str, LayerPredictions]:
    """Return the layer whose probe is best on the validation part, by the labels of the fit."""
    highest: dict[str, float] = {}
    best: dict[str, LayerPredictions] = {}
    for layer, data in finished.outputs.items():
        fitted = fit_probes(finished, layer, data, probes(data), fitted_on)
        train, test = ({i: y.numpy() for i, y, _ in predictions(fitted, X)} for X in data)
        for i, one in enumerate(fitted):
            accuracy = np.mean(test[i][validation] == finished.test_labels[validation])
            if accuracy > highest.get(one.fitted_on, -1):
                highest[one.fitted_on] = accuracy
                best[one.fitted_on] = LayerPredictions(layer, train[i], test[i])
    if not best:
        raise DataError(f"{finished.spec.pair} has no probed layer to choose from")
    return best


def _continue_training(
    finished: FinishedRun, labels: np.ndarray, split: RetrainingSplit, max_epochs: int, patience: int | None
) -> RetrainingResult:
    device = torch.device(finished.device)
    arguments = common_arguments(finished.spec, finished.images, device)
    images, truth = arguments.pop("test")

    def part(rows: np.ndarray) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor(rows, device=device)
        return images[chosen], truth[chosen]

    return retrain(
        finished.model().to(memory_format=torch.channels_last),  # type: ignore[call-overload]  # not in its stub
        y=torch.tensor(labels, device=device),
        order_seed=finished.spec.order_seed,
        validation=part(split.validation),
        evaluation=part(split.evaluation),
        max_epochs=max_epochs,
        patience=patience,
        **arguments,
    )


def _accuracy(value: float, **which: Any) -> dict[str, Any]:
    return {"labels": "true", "metric": "accuracy", "value": value, **which}


def _per_epoch(setting: str, history: Sequence[RetrainingEpoch]) -> Records:
    for one in history:
        own = {"probe": "network", "setting": setting, "epoch": one.epoch}
        yield _accuracy(one.evaluation_accuracy, split="evaluation", **own)
        yield _accuracy(one.validation_accuracy, split="validation", **own)
        yield _accuracy(one.true_accuracy, split="train", **own)
        yield _accuracy(one.train_accuracy, split="train", **own, labels="relabelled")


def _before_retraining(finished: FinishedRun, chosen: LayerPredictions, split: RetrainingSplit) -> Records:
    right = chosen.test == finished.test_labels
    yield _accuracy(right[split.evaluation].mean(), probe="masc", split="evaluation")
    yield _accuracy(right[split.validation].mean(), probe="masc", split="validation")
    for metric, value in relabel_statistics(finished.noisy, chosen.train, finished.true).items():
        yield {"probe": "masc", "split": "train", "metric": metric, "value": value}
