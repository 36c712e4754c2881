"""Detectors that read class probabilities: confident learning, and a mixture model of the losses."""

from typing import ClassVar

import numpy as np

from layerprobe.baselines.base import Detector, ScoresAndFlags, own_and_best_other, upper_component


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
        confident, suggested = _confident_classes(values, y)
        return values[np.arange(len(y)), y], confident & (suggested != y)


class NormalizedMargin(SelfConfidence):
    """Probability of the given label minus that of the most probable other class.

    s_i = p_i[y_i] - max over k != y_i of p_i[k], in [-1, 1]; cleanlab scales it to [0, 1]. Flags are those of
    :class:`SelfConfidence`. Probabilities should be out of sample.

    References
    ----------
    C. G. Northcutt, L. Jiang, I. L. Chuang, "Confident learning: estimating uncertainty in dataset labels",
    Journal of Artificial Intelligence Research 70, 2021.
    """

    def _detect(self, values: np.ndarray, y: np.ndarray, num_classes: int) -> ScoresAndFlags:
        own, best_other = own_and_best_other(values, y)
        return own - best_other, super()._detect(values, y, num_classes)[1]


class LossGMM(Detector):
    """Probability that the loss of a row belongs to the component of small losses.

    The cross entropy l_i = -log p_i[y_i], scaled to [0, 1] over the rows, is modelled by two Gaussians (Arazo
    et al.: two Beta distributions). s_i is the probability of the component with the smaller mean; flagged
    below `threshold`. The settings of the mixture are those of DivideMix. A network that has memorised the
    labels gives no large losses: use probabilities of an early epoch, or out of sample.

    Parameters
    ----------
    threshold : float, default 0.5

    References
    ----------
    E. Arazo, D. Ortego, P. Albert, N. E. O'Connor, K. McGuinness, "Unsupervised label noise modeling and loss
    correction", ICML 2019.
    J. Li, R. Socher, S. C. H. Hoi, "DivideMix: learning with noisy labels as semi-supervised learning",
    ICLR 2020.
    """

    reads: ClassVar[str] = "pred_probs"

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold

    def _detect(self, values: np.ndarray, y: np.ndarray, num_classes: int) -> ScoresAndFlags:
        losses = -np.log(np.maximum(values[np.arange(len(y)), y], np.finfo(np.float64).tiny))
        scaled = (losses - losses.min()) / (np.ptp(losses) or 1.0)
        scores = upper_component(-scaled, tolerance=1e-2, ridge=5e-4)
        return scores, scores < self.threshold


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


def _confident_classes(pred_probs: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each row has a class above its threshold, and the most probable of these, (n,)."""
    K = pred_probs.shape[1]
    thresholds = np.array([pred_probs[y == k, k].mean() if (y == k).any() else np.inf for k in range(K)])
    confident = np.where(pred_probs >= thresholds, pred_probs, -1.0)  # (n, K)
    return confident.max(1) >= 0, confident.argmax(1)
