"""Margin of the probabilities averaged over epochs (Nguyen et al., 2020)."""

from typing import ClassVar

import numpy as np

from layerprobe.baselines.base import Detector, ScoresAndFlags, log_probabilities, own_and_best_other
from layerprobe.errors import InputError


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
        own, best_other = own_and_best_other(np.exp(log_probabilities(values)).mean(0), y)
        return own - best_other, best_other > own
