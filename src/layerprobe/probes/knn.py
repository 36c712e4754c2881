"""k nearest neighbours."""

from typing import Any

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from layerprobe.probes.base import ProbabilityProbe
from layerprobe.probes.sklearn_probe import SklearnProbe


class KNN(ProbabilityProbe, SklearnProbe):
    """k nearest neighbours by cosine distance, scikit-learn's; scores and probabilities are vote shares.

    Parameters
    ----------
    n_neighbors : int, default 5
    metric : str, default "cosine"
    """

    def __init__(self, n_neighbors: int = 5, metric: str = "cosine") -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric

    def _numbers(self, X: Tensor) -> np.ndarray:
        if self.metric == "cosine":  # scikit-learn takes rows shorter than 1e-15 for zero
            X = torch.ldexp(X, -torch.frexp(X.abs().amax(1, keepdim=True)).exponent)
        return super()._numbers(X)

    def _probabilities(self, X: Tensor) -> Tensor:
        return self._scores(X)

    def _estimator(self) -> Any:
        return KNeighborsClassifier(n_neighbors=self.n_neighbors, metric=self.metric)
