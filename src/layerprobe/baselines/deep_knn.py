"""Deep k nearest neighbours (Bahri et al., 2020)."""

from typing import ClassVar

import numpy as np

from layerprobe.baselines.base import Detector, ScoresAndFlags, neighbour_shares
from layerprobe.core.checks import check_count


class DeepKNN(Detector):
    """Share of the k nearest rows that have the same label, by Euclidean distance in a layer.

    s_i = share of y_i among the labels of the k nearest other rows. A label is flagged if the nearest rows
    predict another one.

    Parameters
    ----------
    k : int, optional
        Default: 1 % of the rows, and at least 10. (The publication uses 500 of 50,000 rows.)

    References
    ----------
    D. Bahri, H. Jiang, M. Gupta, "Deep k-NN for noisy labels", ICML 2020.
    """

    reads: ClassVar[str] = "features"

    def __init__(self, k: int | None = None) -> None:
        if k is not None:
            check_count("k", k)
        self.k = k

    def _detect(self, values: np.ndarray, y: np.ndarray, num_classes: int) -> ScoresAndFlags:
        k = max(10, len(y) // 100) if self.k is None else self.k
        shares = neighbour_shares(values, y, num_classes, k, "euclidean")
        return shares[np.arange(len(y)), y], shares.argmax(1) != y
