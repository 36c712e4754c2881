"""Confident learning (Northcutt et al., 2021): self-confidence and the normalised margin."""

from typing import ClassVar

import numpy as np

from layerprobe.baselines.base import Detector, ScoresAndFlags, own_and_best_other


class SelfConfidence(Detector):
    """Probability of the given label, s_i = p_i[y_i].

    Flags are the off-diagonal entries of the confident joint: with the thresholds t_k = mean of p_i[k] over
    the rows of given label k, row i is flagged if the most probable class among {k : p_i[k] >= t_k} exists
    and is not y_i. Probabilities should be out of sample.

    References
    ----------
    C. G. Northcutt, L. Jiang, I. L. Chuang, "Confident learning: estimating uncertainty in dataset labels",
    Journal of Artificial Intelligence Research 70, 2021.
    """

    reads: ClassVar[str] = "pred_probs"

    def _detect(self, values: np.ndarray, y: np.ndarray, num_classes: int) -> ScoresAndFlags:
        return values[np.arange(len(y)), y], _off_diagonal(values, y)


class NormalizedMargin(Detector):
    """Probability of the given label minus that of the most probable other class.

    s_i = p_i[y_i] - max over k != y_i of p_i[k], in [-1, 1]; cleanlab scales it to [0, 1]. Flags are those of
    :class:`SelfConfidence`. Probabilities should be out of sample.

    References
    ----------
    C. G. Northcutt, L. Jiang, I. L. Chuang, "Confident learning: estimating uncertainty in dataset labels",
    Journal of Artificial Intelligence Research 70, 2021.
    """

    reads: ClassVar[str] = "pred_probs"

    def _detect(self, values: np.ndarray, y: np.ndarray, num_classes: int) -> ScoresAndFlags:
        own, best_other = own_and_best_other(values, y)
        return own - best_other, _off_diagonal(values, y)


def confident_joint_rate(pred_probs: np.ndarray, y: np.ndarray) -> float:
    """Return the noise rate by the confident joint, whose rows are scaled to the number of given labels.

    Parameters
    ----------
    pred_probs : ndarray (n, K)
        Out of sample.
    y : ndarray (n,), int64
    """
    confident, suggested = _confident_classes(pred_probs, y)
    K = pred_probs.shape[1]
    given, counted = np.bincount(y, minlength=K), np.bincount(y[confident], minlength=K)
    wrong = np.bincount(y[confident & (suggested != y)], minlength=K)
    return float((given * wrong / np.maximum(counted, 1)).sum() / len(y))


def _off_diagonal(pred_probs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Flag the rows off the diagonal of the confident joint of probabilities (n, K): (n,) bool."""
    confident, suggested = _confident_classes(pred_probs, y)
    return confident & (suggested != y)


def _confident_classes(pred_probs: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each row has a class above its threshold, and the most probable of these, (n,)."""
    K = pred_probs.shape[1]
    thresholds = np.array([pred_probs[y == k, k].mean() if (y == k).any() else np.inf for k in range(K)])
    confident = np.where(pred_probs >= thresholds, pred_probs, -1.0)  # (n, K)
    return confident.max(1) >= 0, confident.argmax(1)
