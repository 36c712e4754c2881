"""Estimates from a stratified random sample of reviewed rows, with 95 % intervals.

Each stratum gives a share with Wilson's interval (JASA 1927), which is right for shares near 0 and 1, where
the normal approximation fails. MOVER combines them: the distances from the estimate to the limits add as
squares (Zou and Donner, Statistics in Medicine 2008). Distances shrink by the finite population correction,
since a stratum that was reviewed as a whole has no sampling error. Nothing is assumed about the scores.

A reviewer makes errors as well. Their rate is estimated from rows that were decided twice, and its upper
limit widens the intervals (the correction of Rogan and Gladen, American Journal of Epidemiology 1978).
"""

from collections.abc import Callable

import numpy as np

from layerprobe.auditing.method.policies import Interval
from layerprobe.recording.memorisation import wilson_interval

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
# Density of the reviewer's error rate e before any repeated decision: proportional to (1 - e)^(PRIOR - 1),
# with a mean of 1 / (PRIOR + 1) = 3 %. Without it ten repeated rows could not exclude a rate of 15 %.
PRIOR = 30
NOTHING = Interval(float("nan"), float("nan"), float("nan"))


def stratified_mean(
    values: np.ndarray, stratum: np.ndarray, sizes: np.ndarray, least: float = 0.0
) -> Interval:
    """Return the mean value over all rows, by strata.

    Parameters
    ----------
    values : ndarray of shape (m,)
        Values of decided rows, in [-1, 1]. They are not whole where a row has several decisions.
    stratum : ndarray of shape (m,), int
        Stratum of each decided row, in 0..H-1.
    sizes : ndarray of shape (H,)
        Number of all rows per stratum.
    least : float
        Smallest possible value, 0 or -1: the lower limit of strata without decisions.

    Returns
    -------
    Interval
        In [least, 1]. The value is that of the strata with decisions, as if the others were like them. The
        limits hold for all strata.
    """
    if not sizes.sum():
        return NOTHING
    counts, positive, negative = (
        np.bincount(stratum, weights, minlength=len(sizes))
        for weights in (None, values.clip(min=0), (-values).clip(min=0))
    )
    signed = bool(negative.any())
    least = -1.0 if signed else least
    nothing = Interval((least + 1) / 2, least, 1.0)
    sums = zip(counts, positive, negative, sizes, strict=True)
    parts = [_mean_of_stratum(*one, signed=signed) if one[0] else nothing for one in sums]
    weights = sizes / sizes.sum()
    value, low, high = (np.array(column) for column in zip(*parts, strict=True))
    centre, sampled = float(weights @ value), counts > 0

    def distance(to_limit: np.ndarray) -> float:
        # A stratum without decisions has no sampling error that others could balance: its whole range counts.
        part = weights * to_limit
        return float(np.linalg.norm(part[sampled]) + part[~sampled].sum())

    return Interval(
        float(np.average(value[sampled], weights=weights[sampled])) if weights[sampled].any() else centre,
        max(least, centre - distance(value - low)),
        min(1.0, centre + distance(high - value)),
    )


def _mean_of_stratum(
    count: float, positive: float, negative: float, size: float, *, signed: bool
) -> Interval:
    """Return the mean of one stratum; of signed values as a difference of two shares of the same rows."""
    shrink = np.sqrt(max(size - count, 0) / max(size - 1, 1))
    p, p_low, p_high = wilson(positive, count)
    if not signed:
        return Interval(p, p - shrink * (p - p_low), p + shrink * (p_high - p))
    q, q_low, q_high = wilson(negative, count)
    # Shares of the same rows exclude each other: their correlation is negative (Newcombe, 1998).
    spread = np.sqrt(p * (1 - p) * q * (1 - q))
    correlation = -p * q / spread if spread else 0.0

    def distance(a: float, b: float) -> float:
        return float(shrink * np.sqrt(max(a * a + b * b - 2 * correlation * a * b, 0.0)))

    return Interval(p - q, p - q - distance(p - p_low, q_high - q), p - q + distance(p_high - p, q - q_low))


def wilson(successes: float, count: float) -> Interval:
    """Return a share with Wilson's 95 % interval.

    Parameters
    ----------
    successes : float
    count : float
        Above 0.
    """
    p = successes / count
    low, high = wilson_interval(p, count, Z)
    return Interval(p, min(p, low), max(p, high))


def share_of_sum(part: Interval, rest: Interval) -> Interval:
    """Return part / (part + rest) of two independent estimates by MOVER; NaN if both are zero.

    Parameters
    ----------
    part, rest : Interval
        Not negative.
    """

    def ratio(a: float, b: float) -> float:
        return a / (a + b) if a + b > 0 else float("nan")

    value = ratio(part.value, rest.value)
    low = np.hypot(value - ratio(part.low, rest.value), value - ratio(part.value, rest.high))
    high = np.hypot(ratio(part.high, rest.value) - value, ratio(part.value, rest.low) - value)
    return Interval(value, max(0.0, float(value - low)), min(1.0, float(value + high)))


def error_rate(pairs: int, different: float) -> Interval:
    """Return the error rate of a reviewer from rows that were decided twice.

    Two independent decisions with the error rate e differ with the probability 2 e (1 - e).

    Parameters
    ----------
    pairs : int
        Rows with two decisions.
    different : float
        Pairs of different decisions.

    Returns
    -------
    Interval
        The value is the mode of the posterior distribution, 0 where all pairs agree and always below .5. The
        limits are its quantiles.
    """
    e = np.linspace(0, 0.5, 5001)[1:-1]
    differs = 2 * e * (1 - e)
    log_density = (
        different * np.log(differs) + (pairs - different) * np.log1p(-differs) + (PRIOR - 1) * np.log1p(-e)
    )
    cumulative = np.cumsum(np.exp(log_density - log_density.max()))
    low, high = np.interp([0.025, 0.975], cumulative / cumulative[-1], e)
    if not different:
        return Interval(0.0, 0.0, float(high))
    value = e[log_density.argmax()]
    return Interval(float(value), float(min(low, value)), float(high))


def correct_share(observed: Interval, errors: Interval, rows: int) -> Interval:
    """Correct a share of wrong labels for the reviewer's errors, and widen its interval by their upper limit.

    Parameters
    ----------
    observed : Interval
        Share of rows that the reviewer called wrong.
    errors : Interval
        Error rate of a decision, below .5. The value is the probability that a right label is called wrong,
        and also that a wrong one is called right. At the upper limit all errors fall on right labels, or all
        on wrong ones.
    rows : int
        Number N of all rows, decided or not. The finite population correction of `observed` also shrinks the
        variance e (1 - e) / n of the errors in n decisions, although they are no part of the population: it
        leaves out the fraction n / N, which is e (1 - e) / N in every stratification.
    """
    return correct_by(share_without_errors, observed, errors, rows)


def correct_by(
    corrected: Callable[[float, float, float], float], observed: Interval, errors: Interval, rows: int
) -> Interval:
    """Return a corrected share, with an interval for the errors of sampling and of the reviewer, by MOVER.

    Parameters
    ----------
    corrected : callable
        From the observed share and the two error rates of `share_without_errors` to the corrected share.
    observed, errors, rows
        As for `correct_share`.
    """
    e, most = errors.value, errors.high
    value, *limits = (corrected(limit, e, e) for limit in observed)
    by_errors = corrected(observed.value, most, 0.0), corrected(observed.value, 0.0, most)
    likely = max(e, 1 / (PRIOR + 1))
    chance = Z * np.sqrt(likely * (1 - likely) / rows)
    low, high = (
        float(np.linalg.norm(np.clip([*(sign * (one - value) for one in ends), chance], 0, None)))
        for sign, ends in ((-1, (limits[0], *by_errors)), (1, (limits[1], *by_errors)))
    )
    return Interval(value, max(0.0, value - low), min(1.0, value + high))


def share_without_errors(share: float, false: float, missed: float) -> float:
    """Return the share of wrong labels, given the share that a reviewer with errors calls wrong.

    Parameters
    ----------
    share : float
    false, missed : float
        Probability that a right label is called wrong, and that a wrong one is called right.
    """
    return min(max((share - false) / (1 - false - missed), 0.0), 1.0)


def error_of_majority(error: float, votes: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the probability that the class named by most decisions on a row is wrong, (v,).

    Bayes' rule for independent decisions whose errors are spread evenly over the other classes; before any
    decision, all classes are equally likely to be right.

    Parameters
    ----------
    error : float
        Of one decision.
    votes : ndarray of shape (v, w), int
        Per row, the numbers of decisions for each class, in descending order; zeros fill the line.
    num_classes : int
        K.
    """
    ratio = error / ((num_classes - 1) * (1 - error))
    named = np.where(votes > 0, ratio ** (votes[:, :1] - votes), 0.0)
    others = np.maximum(num_classes - (votes > 0).sum(1), 0) * ratio ** votes[:, 0]
    return 1 - 1 / (named.sum(1) + others)


def correct_gain(observed: Interval, errors: Interval, rows: int) -> Interval:
    """Correct the mean gain per changed label, in [-1, 1], for the reviewer's errors.

    Parameters
    ----------
    observed : Interval
        Share of labels that become right minus share of labels that become wrong.
    errors, rows
        As for `correct_share`. An error exchanges the two.
    """
    half = correct_share(Interval(*((1 + limit) / 2 for limit in observed)), errors, rows)
    return Interval(*(2 * limit - 1 for limit in half))
