"""Area under the margin (Pleiss et al., 2020)."""

from typing import ClassVar

import numpy as np

from layerprobe.baselines.base import Detector, ScoresAndFlags, log_probabilities, own_and_best_other


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
            own, best_other = own_and_best_other(log_probabilities(values), y)
            margins = own - best_other
        scores = margins.mean(0)
        return scores, None if self.threshold is None else scores < self.threshold
