"""Detectors that read a training: area under the margin, data maps, and the mean margin."""

from typing import Any, ClassVar

import numpy as np
from scipy.special import log_softmax

from layerprobe.baselines.base import (
    Detector,
    ScoresAndFlags,
    are_probabilities,
    check_labels,
    check_values,
    own_and_best_other,
)
from layerprobe.errors import InputError


class AUM(Detector):
    """Margin of the given label in the logits, averaged over the epochs of training.

    With the logits z after epoch t, m_t = z_t[y_i] - max over k != y_i of z_t[k], and s_i is the mean of m_t
    over the epochs. The publication averages up to the first drop of the learning rate: pass these epochs
    only. Probabilities give the same margins, since logits are log probabilities up to a constant per row.

    Parameters
    ----------
    threshold : float, optional
        Labels with a smaller score are flagged. In the publication the 99th percentile of rows that were
        given a class of their own before training; None flags nothing.

    Notes
    -----
    A history (epochs, n) holds the margins m_t.

    References
    ----------
    G. Pleiss, T. Zhang, E. Elenberg, K. Q. Weinberger, "Identifying mislabeled data using the area under the
    margin ranking", NeurIPS 2020.
    """

    reads: ClassVar[str] = "history"

    def __init__(self, threshold: float | None = None) -> None:
        self.threshold = threshold

    def _detect(self, values: np.ndarray, y: np.ndarray, num_classes: int) -> ScoresAndFlags:
        margins = values
        if values.ndim == 3:
            own, best_other = own_and_best_other(_log_probabilities(values), y)
            margins = own - best_other
        scores = margins.mean(0)
        return scores, None if self.threshold is None else scores < self.threshold


class DataMaps(Detector):
    """Probability of the given label, averaged over the epochs of training: the confidence of a data map.

    With the probability p_t[y_i] of the given label after epoch t of E, s_i = sum_t p_t[y_i] / E. Rows of low
    confidence and low variability are "hard to learn", and often have wrong labels. :meth:`coordinates`
    returns both coordinates of the map.

    Notes
    -----
    A history (epochs, n) holds the probabilities p_t[y_i].

    References
    ----------
    S. Swayamdipta, R. Schwartz, N. Lourie, Y. Wang, H. Hajishirzi, N. A. Smith, Y. Choi, "Dataset
    cartography: mapping and diagnosing datasets with training dynamics", EMNLP 2020.
    """

    reads: ClassVar[str] = "history"

    def coordinates(self, history: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the coordinates of each row on the map.

        Parameters
        ----------
        history : array or Tensor (epochs, n, K) or (epochs, n)
        labels : sequence of n labels

        Returns
        -------
        confidence, variability : ndarray (n,)
            Mean and standard deviation of the probability of the given label over the epochs.

        Raises
        ------
        InputError
            As for :meth:`Detector.score`.
        """
        values = check_values(history, self.reads)
        y, _ = check_labels(labels, values.shape[1], values.shape[2] if values.ndim == 3 else None)
        own = _own_probabilities(values, y)
        return own.mean(0), own.std(0)

    def _detect(self, values: np.ndarray, y: np.ndarray, num_classes: int) -> ScoresAndFlags:
        return _own_probabilities(values, y).mean(0), None


class MeanMargin(Detector):
    """Margin of the given label in the class probabilities averaged over the epochs of training.

    With the mean probabilities q_i (K,) over the epochs, s_i = q_i[y_i] - max over k != y_i of q_i[k]. A
    label is flagged if argmax q_i is another one: the filter of self-ensembling, with the mean in place of
    its moving average.

    References
    ----------
    D. T. Nguyen, C. K. Mummadi, T. P. N. Ngo, T. H. P. Nguyen, L. Beggel, T. Brox, "SELF: learning to filter
    noisy labels with self-ensembling", ICLR 2020.
    """

    reads: ClassVar[str] = "history"

    def _detect(self, values: np.ndarray, y: np.ndarray, num_classes: int) -> ScoresAndFlags:
        if values.ndim != 3:
            raise InputError(
                f"expected logits or probabilities of all classes, (epochs, n, K), got shape {values.shape}"
            )
        own, best_other = own_and_best_other(np.exp(_log_probabilities(values)).mean(0), y)
        return own - best_other, best_other > own


def _own_probabilities(values: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the probability of the given label after each epoch, (epochs, n)."""
    if values.ndim == 3:
        return np.exp(_log_probabilities(values)[:, np.arange(len(y)), y])
    if values.min() < 0 or values.max() > 1:
        raise InputError(
            f"expected the probability of the given label in a history (epochs, n), got values from "
            f"{values.min():.3g} to {values.max():.3g}; pass logits as (epochs, n, K)"
        )
    return values


def _log_probabilities(history: np.ndarray) -> np.ndarray:
    """Return log probabilities from logits or class probabilities, (epochs, n, K)."""
    if are_probabilities(history):
        return np.log(np.maximum(history, np.finfo(np.float64).tiny))
    return log_softmax(history, axis=-1)
