"""FINE (Kim et al., 2021)."""

from typing import ClassVar

import numpy as np

from layerprobe.baselines.base import Detector, ScoresAndFlags, upper_component


class FINE(Detector):
    """Alignment with the first eigenvector of the given class, and a mixture model per class.

    For each class k, u_k is the first eigenvector of the Gram matrix, the sum of x_i x_i^T over the rows with
    given label k. The alignment of a row is its squared cosine with the eigenvector of its given label::

        a_i = (u_{y_i}^T x_i)^2 / |x_i|^2.

    The alignments of each class are modelled by two Gaussians; s_i is the probability of the component with
    the larger mean, and labels are flagged below `threshold`. The alignment is the score of
    ``MASC(components=1)`` for the given label; MASC compares the scores of all classes.

    Parameters
    ----------
    threshold : float, default 0.5
    mixture : bool, default True
        Whether the score is the probability of the component; with False it is the alignment itself.

    References
    ----------
    T. Kim, J. Ko, S. Cho, J. Choi, S.-Y. Yun, "FINE samples for learning with noisy labels", NeurIPS 2021.
    """

    reads: ClassVar[str] = "features"

    def __init__(self, threshold: float = 0.5, *, mixture: bool = True) -> None:
        self.threshold = threshold
        self.mixture = mixture

    def _detect(self, values: np.ndarray, y: np.ndarray, num_classes: int) -> ScoresAndFlags:
        alignment, clean = np.zeros(len(y)), np.ones(len(y))
        for k in range(num_classes):
            rows = np.flatnonzero(y == k)
            X = values[rows].astype(np.float64)
            u = first_eigenvector(X)
            alignment[rows] = (X @ u) ** 2 / np.maximum((X**2).sum(1), np.finfo(np.float64).tiny)
            clean[rows] = upper_component(alignment[rows], iterations=10, tolerance=1e-6, ridge=1e-6)
        return (clean if self.mixture else alignment), clean < self.threshold


def first_eigenvector(X: np.ndarray) -> np.ndarray:
    """Return the unit eigenvector of the largest eigenvalue of X^T X, (d,), for rows X (n, d)."""
    if len(X) >= X.shape[1]:
        return np.linalg.eigh(X.T @ X)[1][:, -1]
    u = X.T @ np.linalg.eigh(X @ X.T)[1][:, -1]
    return u / (np.linalg.norm(u) or 1.0)
