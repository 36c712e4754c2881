"""Normalised margin (Northcutt et al., 2021)."""

from typing import ClassVar

import numpy as np

from layerprobe.baselines.base import Detector, own_and_best_other
from layerprobe.baselines.self_confidence import off_diagonal


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

    def _detect(
        self, values: np.ndarray, y: np.ndarray, num_classes: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        own, best_other = own_and_best_other(values, y)
        return own - best_other, off_diagonal(values, y)
