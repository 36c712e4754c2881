"""k nearest neighbours."""

from typing import Any

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from layerprobe.core.checks import check_count
from layerprobe.errors import InputError
from layerprobe.probes.base import ProbabilityProbe, WeightedProbe
from layerprobe.probes.sklearn_probe import SklearnProbe


def voters(weights: Tensor, k: float) -> int:
    """Return a number of nearest rows that is enough for k votes, whichever rows they are.

    Parameters
    ----------
    weights, k : Tensor of shape (n,) and float
        Votes of each training row.
    """
    least = weights.sort().values.cumsum(0)
    return min(int((least < k).sum()) + 1, len(weights))


def row_votes(weights: Tensor, k: float) -> Tensor:
    """Return the votes of the nearest rows, (m, j), k in each line.

    Parameters
    ----------
    weights, k : Tensor of shape (m, j) and float
        Weights of the nearest rows, nearest first.
    """
    before = weights.cumsum(1) - weights
    return torch.minimum((k - before).clamp(min=0), weights)


class KNN(SklearnProbe, WeightedProbe, ProbabilityProbe):
    """k nearest neighbours by cosine distance, scikit-learn's; scores and probabilities are vote shares.

    A row of weight w has w votes. The nearest rows vote, and the last of them has only as many votes as are
    left of `n_neighbors`.

    Parameters
    ----------
    n_neighbors : int, default 5
    metric : str, default "cosine"
    """

    weights_: Tensor | None

    def __init__(self, n_neighbors: int = 5, metric: str = "cosine") -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric

    def _numbers(self, X: Tensor) -> np.ndarray:
        if self.metric == "cosine":  # scikit-learn takes rows shorter than 1e-15 for zero
            X = torch.ldexp(X, -torch.frexp(X.abs().amax(1, keepdim=True)).exponent)
        return super()._numbers(X)

    def _fit(self, X: Tensor, y: Tensor, num_classes: int) -> None:
        super()._fit(X, y, num_classes)
        self.weights_ = None

    def _fit_weighted(self, X: Tensor, y: Tensor, num_classes: int, weights: Tensor | None) -> None:
        self._fit(X, y, num_classes)
        if weights is not None:
            check_count("n_neighbors", self.n_neighbors)
            if (total := float(weights.sum())) < self.n_neighbors:
                raise InputError(
                    f"expected weights of at least n_neighbors={self.n_neighbors} in total, got {total:g}"
                )
            self.weights_, self.codes_ = weights.cpu(), y.cpu()

    def _probabilities(self, X: Tensor) -> Tensor:
        return self._scores(X)

    def _scores(self, X: Tensor) -> Tensor:
        if self.weights_ is None:
            return super()._scores(X)
        j = voters(self.weights_, self.n_neighbors)
        nearest = torch.from_numpy(self.estimator_.kneighbors(self._numbers(X), j, return_distance=False))
        shares = row_votes(self.weights_[nearest], self.n_neighbors) / self.n_neighbors
        scores = shares.new_zeros(len(X), len(self.classes_))
        return scores.scatter_add_(1, self.codes_[nearest], shares).to(X.device)

    def _estimator(self) -> Any:
        return KNeighborsClassifier(n_neighbors=self.n_neighbors, metric=self.metric)
