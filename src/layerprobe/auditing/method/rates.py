"""Estimators of the noise rate besides the mixture model of `noise`, and the interval that they span.

Trusted rows. Let a be the accuracy of the ensemble on true labels, and c its agreement with noisy labels of
other rows of the same kind. The prediction agrees with a right label in a share a of the rows, and with a
wrong one in a share b, where its error is this label. For the noise rate r

    c = (1 - r) a + r b,   so that   r = (a - c) / (a - b).

The assumption is that labels are wrong independently of the errors of the ensemble, and that errors and wrong
labels of one true class are spread evenly over the other K - 1 classes: b = (1 - a) / (K - 1). Its variance
follows from those of a and c by the delta method, as a and c come from different rows:

    dr/da = (c - b + (a - c) b') / (a - b)^2 with b' = db/da = -1 / (K - 1),   dr/dc = -1 / (a - b).

Neighbours. HOC (Zhu et al., ICML 2021; :class:`layerprobe.baselines.HOC`) reads the noise rate off the labels
of each row and its two nearest rows, which it assumes to be of one true class. Its error is in most cases
upwards, since neighbours of different classes count as noise.

The interval. Without verified labels, wrong labels and ambiguous rows cannot be distinguished: the bootstrap
interval of one estimator ignores the error of its assumption. `span` therefore takes the range of all
estimators, and lowers its lower end in proportion to the errors of the ensemble, which look like wrong
labels. The factor `WEAKNESS` was chosen on the suite of benchmarks/trust.py, see results/README.md.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from layerprobe.auditing.method.policies import Interval
from layerprobe.baselines.hoc import label_triples, rates_of_triples

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
    low: float,
    high: float,
    rates: Iterable[float],
    agreement: Interval,
    num_classes: int,
    *,
    weakness: float = WEAKNESS,
) -> tuple[float, float]:
    """Return the interval of the noise rate that all estimators span.

    Parameters
    ----------
    low, high : float
        Bootstrap interval of the mixture.
    rates : iterable of float
        By each estimator, the chosen one first; NaN counts as missing.
    agreement : Interval
        Share of the measurement rows whose given label the ensemble predicts.
    num_classes : int
        K.
    weakness : float
        Share of the errors of the ensemble that may have been counted as wrong labels.

    Returns
    -------
    low, high : float
        From zero to the share of rows that disagree, if the ensemble is too weak for an estimate.
    """
    known = [rate for rate in rates if np.isfinite(rate)]
    least, most = min(low, *known), max(high, *known)
    accuracies = [implied_accuracy(agreement.value, rate, num_classes) for rate in known]
    if min(accuracies) < LEAST_ACCURACY or agreement.value < LEAST_AGREEMENT:
        return 0.0, min(1.0, max(most, 1 - agreement.low))
    return max(0.0, least - weakness * (1 - accuracies[0])), most


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
        In [0, 1]; the whole of it if the predictions are no better than chance.
    """
    # One row of each kind is added, as in the interval of Agresti and Coull, so that no variance is zero.
    a, c = (float((part.double().sum() + 1) / (len(part) + 2)) for part in (right, agrees))
    value_a, value_c = float(right.double().mean()), float(agrees.double().mean())
    slope = -1 / (num_classes - 1)

    def rate(a: float, c: float) -> float:
        return (a - c) / (a + (1 - a) * slope)

    apart = a + (1 - a) * slope
    spread = np.sqrt(a * (1 - a) / (len(right) + 2))
    if apart <= 2 * spread:
        return Interval(float("nan"), 0.0, 1.0)
    by_a = (c + (1 - a) * slope + (a - c) * slope) / apart**2
    variance = (by_a * spread) ** 2 + c * (1 - c) / (len(agrees) + 2) / apart**2
    value = min(max(rate(value_a, value_c), 0.0), 1.0)
    half = Z * float(np.sqrt(variance))
    return Interval(value, max(0.0, min(value, rate(a, c) - half)), min(1.0, max(value, rate(a, c) + half)))


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
