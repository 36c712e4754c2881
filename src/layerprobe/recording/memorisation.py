"""The epoch in which a network begins to memorise labels, from two curves.

Rule. Let b be the epoch with the best hold-out accuracy. Memorisation begins in the first epoch t > b such
that in t and in the two epochs after it

1. the hold-out accuracy is significantly lower than in b, and
2. the fit of the training labels is significantly higher than in b.

The first condition alone also holds for a training that diverges. Both differences of shares are tested by
Newcombe's interval (Statistics in Medicine 17, 1998, method 10), which combines two Wilson intervals. Epoch b
is the best of several: its accuracy is partly chance. The level of the first test is therefore divided by the
number of epochs before t (Bonferroni). The test takes the hold-out rows of the two epochs as independent.
They are the same rows, so the difference varies less and the test is conservative. The rule uses the epochs
so far: if the hold-out accuracy reaches a higher value later, for example after a smaller learning rate, b
moves there.

On a plateau of 100 epochs, with a hold-out of 200 or 1,000 rows that is drawn anew after each epoch, the rule
has a false result in 0 to 4 % of the runs; with two epochs in a row instead of three in up to 13 %.
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

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
    holdout_accuracy: Sequence[float] | np.ndarray,
    train_fit: Sequence[float] | np.ndarray,
    *,
    holdout_rows: int,
    train_rows: int,
    level: float = LEVEL,
) -> Onset | None:
    """Return the epoch in which a network begins to memorise labels, by the rule of this module.

    Parameters
    ----------
    holdout_accuracy : sequence of float
        Accuracy after each epoch on held-out rows, whose labels may be as noisy as the rest; NaN where it was
        not measured.
    train_fit : sequence of float
        Share of the training rows whose given label was predicted in each epoch.
    holdout_rows, train_rows : int
        Numbers of rows of the two shares.
    level : float
        Level of the tests.

    Returns
    -------
    Onset or None
        None if memorisation has not begun.

    Raises
    ------
    InputError
        For curves of different lengths, or numbers that are no shares.

    Examples
    --------
    >>> accuracy, fit = [0.50, 0.58, 0.55, 0.45, 0.40, 0.39], [0.45, 0.60, 0.70, 0.85, 0.95, 0.97]
    >>> memorisation_onset(accuracy, fit, holdout_rows=1000, train_rows=9000)
    Onset(best=2, epoch=4)
    """
    accuracy, fit = np.asarray(holdout_accuracy, float), np.asarray(train_fit, float)
    if accuracy.ndim != 1 or accuracy.shape != fit.shape:
        raise InputError(
            "expected one hold-out accuracy and one fit per epoch, got the shapes "
            f"{accuracy.shape} and {fit.shape}"
        )
    both = np.concatenate([accuracy, fit])
    if not np.all(np.isnan(both) | ((both >= 0) & (both <= 1))):
        raise InputError("expected accuracies and fits as shares in [0, 1]")
    check_count("holdout_rows", holdout_rows)
    check_count("train_rows", train_rows)
    check_number("level", level, above=0, most=0.5)
    if np.isnan(accuracy).all():
        return None
    best, consecutive = int(np.nanargmax(accuracy)), 0
    for t in range(best + 1, len(accuracy)):
        falls = is_higher(accuracy[best], accuracy[t], holdout_rows, level / t)
        rises = is_higher(fit[t], fit[best], train_rows, level)
        consecutive = consecutive + 1 if falls and rises else 0
        if consecutive == CONSECUTIVE:
            return Onset(best + 1, t + 2 - CONSECUTIVE)
    return None


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
