"""Draw the rows that a person reviews: a stratified random sample with known probabilities.

Strata are made of the score of each row, and of whether relabelling changes it. Rows that look right are
drawn as well, since only they show how many wrong labels are missed. Within a stratum every row has the same
probability, so that the sample estimates the whole data set without any assumption about the scores.
"""

from dataclasses import dataclass

import numpy as np

from layerprobe.errors import InputError

LEAST_PER_STRATUM = 5
CHANGED_SHARE = 0.6  # of the sample, at least: the gain of relabelling these rows decides the advice
REPEATED_SHARE = 0.1  # of the sample is shown twice
SMOOTHING = 0.1  # weight of an uninformative score in the allocation, as scores may be miscalibrated


@dataclass(frozen=True, eq=False)
class ReviewSample:
    """A stratified sample of the training rows.

    Attributes
    ----------
    names : tuple of H str
        Descriptions of the strata.
    stratum : ndarray of shape (n,), int64
        The stratum of each training row.
    positions : ndarray of shape (m,), int64
        The drawn rows, distinct, in random order.
    repeated : ndarray of shape (r,), int64
        Rows of `positions` to show a second time.
    design : dict of str to int
        The arguments "n" and "seed" of `Audit.review_sample`, which drew it; exports repeat them.
    """

    names: tuple[str, ...]
    stratum: np.ndarray
    positions: np.ndarray
    repeated: np.ndarray
    design: dict[str, int]

    @property
    def sizes(self) -> np.ndarray:
        """Number of training rows per stratum, (H,)."""
        return np.bincount(self.stratum, minlength=len(self.names))


def draw_sample(label_score: np.ndarray, changed: np.ndarray, size: int, seed: int) -> ReviewSample:
    """Draw a stratified random sample of rows.

    Parameters
    ----------
    label_score : ndarray of shape (n,)
        Probability that the given label is right.
    changed : ndarray of shape (n,), bool
        Labels that relabelling changes.
    size : int
        Number of distinct rows to draw, at least 1. All rows are drawn if there are no more.
    seed : int
    """
    for name, value, least in (("n", size, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise InputError(f"{name} must be a whole number of {least} or more, got {value!r}")
    names, stratum = stratify(label_score, changed)
    counts = _allocate(label_score, changed, stratum, min(int(size), len(stratum)))
    generator = np.random.default_rng(seed)
    drawn = [
        generator.choice(np.flatnonzero(stratum == h), count, replace=False) for h, count in enumerate(counts)
    ]
    positions = generator.permutation(np.concatenate(drawn))
    # The first half of the sample is repeated after the second, long enough for a reviewer to forget.
    repeated = generator.permutation(positions[: (len(positions) + 1) // 2])
    repeated = repeated[: round(REPEATED_SHARE * len(positions))]
    return ReviewSample(names, stratum, positions, repeated, {"n": int(size), "seed": int(seed)})


def stratify(label_score: np.ndarray, changed: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Divide the rows by change and score.

    Changed rows are divided at their median score. Of the other rows, as many as are changed form a stratum
    of the lowest scores (at least a tenth, at most half of these rows). The rest is divided into two halves.

    Parameters
    ----------
    label_score : ndarray of shape (n,)
    changed : ndarray of shape (n,), bool

    Returns
    -------
    names : tuple of H str
    stratum : ndarray of shape (n,), int64
        In 0..H-1; each stratum has rows.
    """
    order = np.argsort(label_score, kind="stable")
    acted, other = order[changed[order]], order[~changed[order]]
    near = min(max(len(acted), -(-len(other) // 10)), len(other) // 2)
    rest = other[near:]
    groups = {
        "changed, low score": acted[: -(-len(acted) // 2)],
        "changed, high score": acted[-(-len(acted) // 2) :],
        "not changed, low score": other[:near],
        "not changed, middle score": rest[: len(rest) // 2],
        "not changed, high score": rest[len(rest) // 2 :],
    }
    filled = {name: rows for name, rows in groups.items() if len(rows)}
    stratum = np.empty(len(order), np.int64)
    for h, rows in enumerate(filled.values()):
        stratum[rows] = h
    return tuple(filled), stratum


def _allocate(label_score: np.ndarray, changed: np.ndarray, stratum: np.ndarray, size: int) -> np.ndarray:
    """Return the number of rows to draw per stratum: Neyman's allocation (1934) with lower limits.

    The variance of a stratum follows from its mean score; `SMOOTHING` keeps it above zero.
    """
    sizes = np.bincount(stratum)
    wrong = np.bincount(stratum, 1 - label_score) / sizes
    wrong = SMOOTHING + (1 - 2 * SMOOTHING) * wrong
    share = sizes * np.sqrt(wrong * (1 - wrong))
    share = share / share.sum()
    is_changed = np.bincount(stratum, changed) > 0
    if is_changed.any() and not is_changed.all() and share[is_changed].sum() < CHANGED_SHARE:
        share[is_changed] *= CHANGED_SHARE / share[is_changed].sum()
        share[~is_changed] *= (1 - CHANGED_SHARE) / share[~is_changed].sum()
    least = np.minimum(sizes, min(LEAST_PER_STRATUM, size // len(sizes)))
    counts = np.minimum(np.maximum(np.floor(share * size).astype(np.int64), least), sizes)
    # Rounding, the limits and small strata leave some rows over or too many.
    while counts.sum() != size:
        step = 1 if counts.sum() < size else -1
        possible = counts < sizes if step > 0 else counts > least
        distance = np.where(possible, step * (share * size - counts), -np.inf)
        counts[distance.argmax()] += step
    return counts
