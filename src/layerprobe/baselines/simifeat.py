"""SimiFeat by vote and by rank (Zhu et al., 2022)."""

from typing import ClassVar

import numpy as np

from layerprobe.baselines.base import Detector, ScoresAndFlags, lowest_per_class, neighbour_shares
from layerprobe.baselines.hoc import label_triples, rates_of_triples
from layerprobe.core.checks import check_count


class _SimiFeat(Detector):
    """Detector by the labels of the k nearest rows."""

    reads: ClassVar[str] = "features"

    def __init__(self, k: int = 10) -> None:
        check_count("k", k)
        self.k = k


class SimiFeatVote(_SimiFeat):
    """Vote of the k nearest rows by cosine distance.

    With the shares q_i (K,) of the labels of the k nearest other rows, s_i = q_i[y_i], and a label is flagged
    if argmax q_i is another one. The publication repeats this for random transforms of the inputs; here the
    features are given once, for example averaged over such views.

    Parameters
    ----------
    k : int, default 10

    References
    ----------
    Z. Zhu, Z. Dong, Y. Liu, "Detecting corrupted labels without training a model to predict", ICML 2022.
    """

    def _detect(self, values: np.ndarray, y: np.ndarray, num_classes: int) -> ScoresAndFlags:
        shares = neighbour_shares(values, y, num_classes, self.k, "cosine")
        return shares[np.arange(len(y)), y], shares.argmax(1) != y


class SimiFeatRank(_SimiFeat):
    """Rank of the similarity between a label and the labels of the k nearest rows by cosine distance.

    With the shares q_i (K,) of the labels of the k nearest other rows, ``s_i = q_i[y_i] / |q_i|``, the cosine
    of q_i and the label as a one-hot vector. Among the N_j rows of given label j the N_j (1 - P(true = j |
    given = j)) rows with the lowest scores are flagged; :class:`HOC` estimates this probability.

    Parameters
    ----------
    k : int, default 10

    References
    ----------
    Z. Zhu, Z. Dong, Y. Liu, "Detecting corrupted labels without training a model to predict", ICML 2022.
    """

    def _detect(self, values: np.ndarray, y: np.ndarray, num_classes: int) -> ScoresAndFlags:
        shares = neighbour_shares(values, y, num_classes, self.k, "cosine")
        scores = shares[np.arange(len(y)), y] / np.linalg.norm(shares, axis=1)
        rates = rates_of_triples(label_triples(values, y), num_classes)
        return scores, lowest_per_class(scores, y, 1 - rates.right_given_label)
