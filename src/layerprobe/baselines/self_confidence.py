"""Self-confidence (Northcutt et al., 2021)."""

from typing import ClassVar

import numpy as np

from layerprobe.baselines.base import Detector


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

    def _detect(
        self, values: np.ndarray, y: np.ndarray, num_classes: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        return values[np.arange(len(y)), y], off_diagonal(values, y)


def off_diagonal(pred_probs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Flag the rows off the diagonal of the confident joint, (n,) bool.

    Parameters
    ----------
    pred_probs : ndarray (n, K)
    y : ndarray (n,), int64
        Given labels.
    """
    K = pred_probs.shape[1]
    thresholds = np.array([pred_probs[y == k, k].mean() if (y == k).any() else np.inf for k in range(K)])
    confident = np.where(pred_probs >= thresholds, pred_probs, -1.0)  # (n, K)
    return (confident.max(1) >= 0) & (confident.argmax(1) != y)
