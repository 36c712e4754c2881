"""Data maps (Swayamdipta et al., 2020)."""

from typing import Any, ClassVar

import numpy as np

from layerprobe.baselines.base import Detector, ScoresAndFlags, check_labels, check_values, log_probabilities
from layerprobe.errors import InputError


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


def _own_probabilities(values: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the probability of the given label after each epoch, (epochs, n)."""
    if values.ndim == 3:
        return np.exp(log_probabilities(values)[:, np.arange(len(y)), y])
    if values.min() < 0 or values.max() > 1:
        raise InputError(
            f"expected the probability of the given label in a history (epochs, n), got values from "
            f"{values.min():.3g} to {values.max():.3g}; pass logits as (epochs, n, K)"
        )
    return values
