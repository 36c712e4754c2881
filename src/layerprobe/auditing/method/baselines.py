"""Baselines that the ensemble has to beat, compared row by row with 95 % intervals."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from layerprobe.auditing.method.ensemble import named_probes, score_candidates
from layerprobe.auditing.method.policies import SelectionSet
from layerprobe.errors import InputError
from layerprobe.training import seeded

Z = 1.96
FREQUENT = "most frequent label"


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def interval(values: Tensor) -> Interval:
    """Return the mean of independent values (m,) and its normal-approximation interval.

    The interval of a share stays in [0, 1], and that of a difference of shares in [-1, 1].
    """
    values = values.double()
    mean, m = float(values.mean()), len(values)
    half = Z * float(values.std()) / m**0.5 if m > 1 else 1.0
    least = -1.0 if float(values.min()) < 0 else 0.0
    return Interval(mean, max(least, mean - half), min(1.0, mean + half))


@dataclass(frozen=True, eq=False)
class Baseline:
    """A cheap predictor that the ensemble must beat.

    Attributes
    ----------
    name : str
    criterion : Interval
        Accuracy on the measurement rows; for early stopping, on the rows of its history.
    correct : Tensor (m,) or None
        Correctness per row, for a paired comparison; None where only the accuracy is known.
    comparable : bool
        False where the accuracy is inflated: the network, averaged over views of a training row, has
        memorised its label.
    """

    name: str
    criterion: Interval
    correct: Tensor | None
    comparable: bool = True


def network_and_input(measurement: SelectionSet, input_correct: Tensor | None) -> list[Baseline]:
    """Return the head, the head averaged over the views, and the raw input, where available.

    Parameters
    ----------
    measurement : SelectionSet
    input_correct : Tensor (m,) or None
        Correctness per row of the best candidate on the layer "input".
    """
    baselines = []
    if measurement.logits:
        correct = measurement.correct(measurement.logits)
        baselines.append(Baseline("head", interval(correct), correct))
    if measurement.averaged is not None:
        correct, fair = measurement.correct([measurement.averaged]), not measurement.of_training_rows
        baselines.append(Baseline("head, averaged over views", interval(correct), correct, fair))
    if input_correct is not None:
        correct = input_correct.double()
        baselines.append(Baseline("raw input", interval(correct), correct))
    return baselines


def most_frequent_label(measurement: SelectionSet, y: Tensor) -> Baseline:
    """Return the baseline that predicts the most frequent given label for every row.

    Parameters
    ----------
    measurement : SelectionSet
    y : Tensor (n,), int64
        Given labels of the training rows.
    """
    counts = y.bincount().double()
    correct = measurement.correct([counts.expand(len(measurement.y), -1)])
    return Baseline(FREQUENT, interval(correct), correct)


def untrained_baseline(measurement: SelectionSet, y: Tensor) -> Baseline:
    """Return the best ridge probe on the layers of an untrained network.

    Parameters
    ----------
    measurement : SelectionSet
        With the outputs of the untrained network.
    y : Tensor (n,), int64
        Given labels of the training rows.
    """
    scored = score_candidates(
        named_probes(["ridge"]), measurement.fitted_on, y, measurement.views, measurement.correct
    )
    best = max(scored, key=lambda one: one.criterion)
    return Baseline("untrained copy", interval(best.correct), best.correct.double())


def untrained_copy(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a network with new initial weights, drawn by its modules' ``reset_parameters``.

    Parameters that no ``reset_parameters`` reaches, such as parametrised ones, keep their values in a random
    order: this removes what was learnt and keeps the scale. The model itself does not change.

    Parameters
    ----------
    model : nn.Module
    seed : int
        Of the new weights.
    """
    fresh = copy.deepcopy(model)
    with seeded(seed), torch.no_grad():
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
        for learnt, parameter in zip(model.parameters(), fresh.parameters(), strict=True):
            if torch.equal(learnt, parameter):
                order = torch.randperm(parameter.numel(), device="cpu").to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return fresh


def early_stopping(history: Sequence[float], rows: int, *, comparable: bool = True) -> Baseline:
    """Return the early-stopping baseline: the best epoch by accuracy on a noisy hold-out.

    Parameters
    ----------
    history : sequence of float
        Accuracy of the network on the hold-out after each epoch.
    rows : int
        Number of rows of that hold-out.
    comparable : bool
        Whether it is the hold-out that measures the ensemble.

    Raises
    ------
    InputError
        If it is empty, or holds a number outside [0, 1].
    """
    values = [float(value) for value in history]
    if not values or not all(0 <= value <= 1 for value in values):
        raise InputError(
            "expected as history= the network's accuracy on the noisy hold-out after every epoch, numbers "
            f"in [0, 1], got {values[:5]}"
        )
    best = max(values)
    half = Z * (best * (1 - best) / max(rows, 1)) ** 0.5
    criterion = Interval(best, max(0.0, best - half), min(1.0, best + half))
    return Baseline("early stopping", criterion, None, comparable)
