"""Retraining on labels that a layer gives (METHOD 4.4): what its subspaces know, put back into the network.

The layer that MASC does best on, judged on a fifth of the test data, relabels every training point; the
network goes on with these labels. What comes out is judged on the other four fifths.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerprobe.errors import DataError, InputError
from layerprobe.paper.experiments.measuring import fit_masc
from layerprobe.paper.rows import tidy
from layerprobe.paper.run_outputs import Subject
from layerprobe.runs.execution import common_arguments
from layerprobe.training import Measured, Retrained, retrain

__all__ = ["VALIDATION", "relabel_statistics", "retraining", "split_test"]

VALIDATION = 0.2  # share of the test data
SPLIT_SEED = 0
PATIENCE, MAX_EPOCHS, FIXED_EPOCHS = 3, 30, 10
MASC_ACCURACY = {"probe": "masc", "labels": "true", "metric": "accuracy"}


class Relabelled(NamedTuple):
    """What the chosen layer says."""

    layer: str
    train: np.ndarray  # (n,) labels
    test: np.ndarray  # (m,)


def retraining(subject: Subject) -> pd.DataFrame:
    """Relabel by the best layer and go on training (Figures 4, 27-31, Tables 6-8).

    Once with noisy and once with true subspaces. All of the pair's probed layers can be chosen, the input
    too; the first of equals is. The recipe is the run's, with a fresh optimiser and the run's batch orders
    from epoch 1 on; the recipe's own ends do not count.

    "early_stopping" ends by the validation accuracy, with a patience of 3 and after at most 30 epochs;
    "ten_epochs" does not. Both go the same way as long as both last. Network rows are in evaluation mode;
    like all others they name the chosen layer. "masc_after" is fitted on the labels that the network was
    retrained on, to its state after the last epoch of "early_stopping".
    """
    validation, evaluation = split_test(subject.test_labels)
    if not len(validation) or not len(evaluation):
        raise DataError(
            f"Retraining splits the test images, of which {subject.spec.pair} has {len(subject.test_labels)} "
            "here, into a validation and an evaluation part: it needs at least 3 of a class. "
            "Train on a larger test_subset."
        )
    records: list[dict[str, Any]] = []
    for fitted_on, labels in subject.label_sets.items():
        chosen = _relabel(subject, labels, validation)
        common = {"layer": chosen.layer, "fitted_on": fitted_on}
        early = _go_on(subject, chosen.train, validation, evaluation, MAX_EPOCHS, PATIENCE)
        fixed = early.history
        if len(fixed) <= FIXED_EPOCHS:
            fixed = _go_on(subject, chosen.train, validation, evaluation, FIXED_EPOCHS, None).history
        for part in (
            _masc_itself(subject, chosen, validation, evaluation),
            _per_epoch("early_stopping", early.history),
            _per_epoch("ten_epochs", fixed[: FIXED_EPOCHS + 1]),
            _masc_after(subject, early, chosen.train, evaluation),
        ):
            records += [{**common, **record} for record in part]
    return tidy({"experiment": "retraining", **record} for record in records)


def split_test(labels: np.ndarray, seed: int = SPLIT_SEED) -> tuple[np.ndarray, np.ndarray]:
    """Split the test data into a validation part, a fifth of every class, and an evaluation part.

    The same for every run with this test data, so that corruption degrees and seeds are compared on the same
    images.

    Parameters
    ----------
    labels : ndarray of shape (m,)
        True test labels. A fifth of a class is rounded to a whole number, half to even.
    seed : int
        Of NumPy's default generator.

    Returns
    -------
    validation, evaluation : ndarrays of int
        Positions, ascending; each of the m positions is in one of them.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = np.zeros(len(labels), dtype=bool)  # (m,)
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        chosen[of_class[: round(VALIDATION * len(of_class))]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def relabel_statistics(given: np.ndarray, relabelled: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Say what relabelling did.

    Parameters
    ----------
    given, relabelled, true : ndarrays of shape (n,)
        Labels before and after, and the true ones.

    Returns
    -------
    dict
        "corrected", the share of the wrong labels that became right; "broken", the share of the right ones
        that became wrong (NaN where there were none); "incorrect_before" and "incorrect_after", the shares
        of all labels that are wrong.

    Examples
    --------
    >>> relabel_statistics(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0]), np.array([0, 1, 1, 1]))
    {'corrected': 1.0, 'broken': 0.3333333333333333, 'incorrect_before': 0.25, 'incorrect_after': 0.25}
    """
    if not given.shape == relabelled.shape == true.shape:
        shapes = ", ".join(str(labels.shape) for labels in (given, relabelled, true))
        raise InputError(f"given, relabelled and true labels must be as many, got the shapes {shapes}")
    wrong, wrong_after = given != true, relabelled != true  # (n,)
    return {
        "corrected": _share(~wrong_after[wrong]),
        "broken": _share(wrong_after[~wrong]),
        "incorrect_before": _share(wrong),
        "incorrect_after": _share(wrong_after),
    }


def _share(which: np.ndarray) -> float:
    return float(which.mean()) if len(which) else float("nan")


def _relabel(subject: Subject, labels: np.ndarray, validation: np.ndarray) -> Relabelled:
    """Choose the layer and let it relabel the training points."""
    highest, chosen = -1.0, None
    for layer, data in subject.outputs.items():
        masc = fit_masc(data.train, labels)
        test = masc.predict(data.test).numpy()
        accuracy = np.mean(test[validation] == subject.test_labels[validation])
        if accuracy > highest:
            highest, chosen = accuracy, Relabelled(layer, masc.predict(data.train).numpy(), test)
    assert chosen is not None
    return chosen


def _go_on(
    subject: Subject,
    labels: np.ndarray,
    validation: np.ndarray,
    evaluation: np.ndarray,
    max_epochs: int,
    patience: int | None,
) -> Retrained:
    device = torch.device(subject.device)
    arguments = common_arguments(subject.spec, subject.images, device)
    images, truth = arguments.pop("test")

    def part(rows: np.ndarray) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor(rows, device=device)
        return images[chosen], truth[chosen]

    return retrain(
        subject.model().to(memory_format=torch.channels_last),  # type: ignore[call-overload]  # not in its stub
        y=torch.tensor(labels, device=device),
        order_seed=subject.spec.order_seed,
        validation=part(validation),
        evaluation=part(evaluation),
        max_epochs=max_epochs,
        patience=patience,
        **arguments,
    )


def _per_epoch(setting: str, history: list[Measured]) -> Iterator[dict[str, Any]]:
    for measured in history:
        for split, labels, value in (
            ("evaluation", "true", measured.evaluation_accuracy),
            ("validation", "true", measured.validation_accuracy),
            ("train", "true", measured.true_accuracy),
            ("train", "relabelled", measured.train_accuracy),
        ):
            yield {
                "probe": "network",
                "setting": setting,
                "split": split,
                "labels": labels,
                "epoch": measured.epoch,
                "metric": "accuracy",
                "value": value,
            }


def _masc_itself(
    subject: Subject, chosen: Relabelled, validation: np.ndarray, evaluation: np.ndarray
) -> Iterator[dict[str, Any]]:
    right = chosen.test == subject.test_labels
    for split, rows in (("evaluation", evaluation), ("validation", validation)):
        yield {**MASC_ACCURACY, "split": split, "value": right[rows].mean()}
    for metric, value in relabel_statistics(subject.noisy, chosen.train, subject.true).items():
        yield {"probe": "masc", "split": "train", "metric": metric, "value": value}


def _masc_after(
    subject: Subject, retrained: Retrained, labels: np.ndarray, evaluation: np.ndarray
) -> Iterator[dict[str, Any]]:
    common = {**MASC_ACCURACY, "setting": "masc_after", "split": "evaluation"}
    truth = subject.test_labels[evaluation]
    for layer, data in subject.outputs_of(retrained.last).items():
        predicted = fit_masc(data.train, labels).predict(data.test[evaluation]).numpy()
        yield {**common, "layer": layer, "value": (predicted == truth).mean()}
