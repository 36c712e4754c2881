"""Estimators of the noise rate besides the mixture model of `noise`, and the interval of the noise rate.

Bounds. Let c be the agreement of predictions with noisy labels of rows whose labels they do not depend on.
Where a right prediction differs from the given label, this label is wrong. With the accuracy a on true
labels, the noise rate is therefore r >= a - c for every kind of noise. At an input x, the given labels have
the distribution p and the predictions the distribution q. They differ with the probability 1 - p.q, which is
at least 1 - max p. If the true class is the most frequent given label at each x, 1 - max p is the noise rate
there, so that r <= 1 - c for all errors of the predictions. Noise that breaks the assumption cannot be
seen in predictions: rows of no class, and labels that follow from the content of the row.

Trusted rows. They measure a. The prediction agrees with a right label in a share a of the rows, and with a
wrong one in a share b, where its error is this label: c = (1 - r) a + r b, so that r = (a - c) / (a - b). If
errors and wrong labels of one true class are spread evenly over the other K - 1 classes,
b = (1 - a) / (K - 1). The interval consists of the two bounds and does not need the last assumption.

Neighbours. HOC (Zhu et al., ICML 2021; :class:`layerprobe.baselines.HOC`) reads the noise rate off the labels
of each row and its two nearest rows, which it assumes to be of one true class. Its error is in most cases
upwards, since neighbours of different classes count as noise.

Without trusted rows, a is unknown, and wrong labels and ambiguous rows cannot be distinguished: the bootstrap
interval of one estimator ignores the error of its assumption. `span` therefore takes the range of all
estimators. It raises the upper end to the bound 1 - c, and lowers the lower end in proportion to the errors
of the ensemble, which look like wrong labels.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from layerprobe.auditing.method.policies import Interval
from layerprobe.baselines.features import label_triples, rates_of_triples

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
LEAST_ACCURACY = 0.85  # of an ensemble on true labels, for an estimate of the noise
LEAST_AGREEMENT = 0.5  # with the given labels; below it a weak ensemble and heavy noise look the same
WEAKNESS = 0.5  # share of the errors of the ensemble that may have been counted as wrong labels
MOST_CLASSES = 64  # for HOC, whose cost grows with the cube
MOST_ROWS = 5_000  # for HOC, whose cost grows with the square


def implied_accuracy(agreement: float, rate: float, num_classes: int) -> float:
    """Return the accuracy a on true labels that follows from the agreement c with the given ones.

    With uniform noise of the rate r, c = (1 - r) a + r (1 - a) / (K - 1).

    Parameters
    ----------
    agreement, rate : float
    num_classes : int
        K.
    """
    by_chance = rate / (num_classes - 1)
    return min(max((agreement - by_chance) / max(1 - rate - by_chance, 1e-9), 0.0), 1.0)


def span(
    low: float, high: float, rates: Iterable[float], agrees: Tensor, num_classes: int
) -> tuple[float, float]:
    """Return the interval of the noise rate by all estimators and the upper bound.

    Parameters
    ----------
    low, high : float
        Bootstrap interval of the mixture.
    rates : iterable of float
        By each estimator, the chosen one first; NaN counts as missing.
    agrees : Tensor (m,), bool
        Whether the ensemble predicts the given label of each measurement row.
    num_classes : int
        K.

    Returns
    -------
    low, high : float
        From zero, if the ensemble is too weak for an estimate.
    """
    known, agreement = [rate for rate in rates if np.isfinite(rate)], float(agrees.double().mean())
    accuracies = [implied_accuracy(agreement, rate, num_classes) for rate in known]
    c, variance = _mean_and_variance(agrees)
    most = min(1.0, max(high, *known, 1 - c + Z * math.sqrt(variance)))
    if min(accuracies) < LEAST_ACCURACY or agreement < LEAST_AGREEMENT:
        return 0.0, most
    return max(0.0, min(low, *known) - WEAKNESS * (1 - accuracies[0])), most


def rate_by_trusted_rows(right: Tensor, agrees: Tensor, num_classes: int) -> Interval:
    """Return the noise rate by the accuracy on trusted rows and the agreement with noisy labels.

    Parameters
    ----------
    right : Tensor (t,), bool
        Whether the prediction for each trusted row is its true label.
    agrees : Tensor (m,), bool
        Whether the prediction for each other row is its noisy label.
    num_classes : int
        K.

    Returns
    -------
    Interval
        The value is NaN if the predictions are no better than chance.
    """
    (a, variance_a), (c, variance_c) = _mean_and_variance(right), _mean_and_variance(agrees)
    low = max(0.0, a - c - Z * math.sqrt(variance_a + variance_c))
    high = min(1.0, 1 - c + Z * math.sqrt(variance_c))
    if a - (1 - a) / (num_classes - 1) <= 2 * math.sqrt(variance_a):
        return Interval(float("nan"), low, high)
    a, c = float(right.double().mean()), float(agrees.double().mean())
    return Interval(min(max((a - c) / (a - (1 - a) / (num_classes - 1)), low), high), low, high)


def _mean_and_variance(rows: Tensor) -> tuple[float, float]:
    """Return a share and its variance, with one row of each kind added (Agresti and Coull, 1998)."""
    n = len(rows) + 2
    share = float(rows.double().sum() + 1) / n
    return share, share * (1 - share) / n


def rate_by_neighbours(X: Tensor, y: Tensor, num_classes: int) -> float:
    """Return the noise rate by HOC; NaN for too many classes.

    Parameters
    ----------
    X : Tensor (m, d)
        Features that do not depend on the labels.
    y : Tensor (m,), int64
        Noisy labels.
    num_classes : int
        K.
    """
    if num_classes > MOST_CLASSES or len(y) < 3:
        return float("nan")
    rows = torch.linspace(0, len(y) - 1, min(len(y), MOST_ROWS)).round().long()
    centred = X[rows].double() - X[rows].double().mean(0)
    return rates_of_triples(label_triples(centred.numpy(), y[rows].numpy()), num_classes).rate
