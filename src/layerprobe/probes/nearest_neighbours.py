"""Nearest neighbours: by the cosine of rows, and by that of whitened rows."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from layerprobe.core.checks import check_count, check_number
from layerprobe.core.linalg import unit_rows
from layerprobe.core.statistics import centred_blocks, class_means, spectrum
from layerprobe.errors import InputError
from layerprobe.probes.base import ProbabilityProbe, StagedProbe, WeightedProbe, like
from layerprobe.probes.sklearn_probe import SklearnProbe
from layerprobe.utils.settings import default_settings


def _voters(weights: Tensor, k: float) -> int:
    """Return a number of nearest rows that is enough for k votes, whichever rows of weights (n,) they are."""
    least = weights.sort().values.cumsum(0)
    return min(int((least < k).sum()) + 1, len(weights))


def _row_votes(weights: Tensor, k: float) -> Tensor:
    """Return the votes of the nearest rows, (m, j), k in each line; `weights` are theirs, nearest first."""
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
        j = _voters(self.weights_, self.n_neighbors)
        nearest = torch.from_numpy(self.estimator_.kneighbors(self._numbers(X), j, return_distance=False))
        shares = _row_votes(self.weights_[nearest], self.n_neighbors) / self.n_neighbors
        scores = shares.new_zeros(len(X), len(self.classes_))
        return scores.scatter_add_(1, self.codes_[nearest], shares).to(X.device)

    def _estimator(self) -> Any:
        return KNeighborsClassifier(n_neighbors=self.n_neighbors, metric=self.metric)


SIMILARITIES = 2**25  # kept at a time: 128 MiB of float32
TIE_BREAK = 1e-3  # of one vote, for all similarities together


class WhitenedKNN(StagedProbe, WeightedProbe, ProbabilityProbe):
    """k nearest neighbours by cosine, after centring and whitening; many neighbours average label noise.

    Rows are whitened by their covariance C, shrunk to (1 - s) C + s trace(C) / d I (Ledoit and Wolf, 2004,
    with a given s), and scaled to unit length. The score of a class is its share of the votes of the k
    nearest training rows. The sum of the cosines of these rows, with a small weight, decides between equal
    shares. One search serves every number of neighbours. `predict_proba` is this score, scaled to sum to one:
    the share of the votes up to 1e-3 / k. A row of weight w has w votes.

    Parameters
    ----------
    n_neighbors : int, default 100
        k; at most the number of training rows, or the sum of their weights, is used.
    shrinkage : float, default 0.1
        s in [0, 1]; 1 only centres. At 0, directions without variance are left out.

    Attributes
    ----------
    rows_ : Tensor of shape (n, r)
        Training rows, whitened and of unit length.
    codes_ : Tensor of shape (n,)
        Class of each.
    weights_ : Tensor of shape (n,), or None
    mean_ : Tensor of shape (d,)
    whitening_ : Tensor of shape (d, r)
    classes_ : ndarray of shape (K,)
    n_features_in_ : int
    """

    stage: ClassVar[str] = "n_neighbors"

    def __init__(self, n_neighbors: int = 100, shrinkage: float = 0.1) -> None:
        self.n_neighbors = n_neighbors
        self.shrinkage = shrinkage

    @default_settings()
    def loo_scores(self, X: Any, y: Any) -> Any:
        """Score each training row by its nearest neighbours among all other rows.

        The whitening is that of all rows: it does not depend on labels.

        Parameters
        ----------
        X : array or Tensor of shape (n, d)
        y : sequence of n labels
            The rows and labels of the fit, in the same order.

        Returns
        -------
        array or Tensor of shape (n, K)
            One column per class, also for two classes.

        Raises
        ------
        InputError
            For other rows or labels, or a single row.
        """
        self._require_fit()
        rows, _ = self._left_out_rows(X, y, self.codes_ if self.weights_ is None else None)
        return like(self._votes(rows, [self.n_neighbors], leave_out=True)[0], X)

    def _fit_weighted(self, X: Tensor, y: Tensor, num_classes: int, weights: Tensor | None) -> None:
        self._check_stage()
        check_number("shrinkage", self.shrinkage, least=0, most=1)
        counts = y.bincount(weights, num_classes).double()
        mean = counts / counts.sum() @ class_means(X, y, num_classes, weights)
        eigenvalues, vectors, trace = spectrum(X, mean, None, weights)
        floor = self.shrinkage * trace / X.shape[1]
        self.mean_ = mean.to(X)
        # Queries outside the span of the training rows have all cosines reduced by one factor.
        self.whitening_ = (vectors / ((1 - self.shrinkage) * eigenvalues + floor).sqrt()).to(X)
        self.rows_, self.codes_, self.weights_ = self._whiten(X), y, weights

    def _check_stage(self) -> None:
        check_count("n_neighbors", self.n_neighbors)

    def _probabilities(self, X: Tensor) -> Tensor:
        scores = self._scores(X)
        scores = (scores + (1 - scores.sum(1, keepdim=True)) / scores.shape[1]).clamp(min=0)
        return scores / scores.sum(1, keepdim=True)

    def _scores(self, X: Tensor) -> Tensor:
        return self._votes(X, [self.n_neighbors])[0]

    def _staged_scores(self, X: Tensor, stages: Sequence[Self]) -> Iterator[Tensor]:
        return iter(self._votes(X, [stage.n_neighbors for stage in stages]))

    def _whiten(self, X: Tensor) -> Tensor:
        X = X.to(self.mean_.device, torch.promote_types(X.dtype, self.mean_.dtype))
        whitening = self.whitening_.to(X.dtype)
        return unit_rows(torch.cat([block @ whitening for block in centred_blocks(X, self.mean_)]))

    def _votes(self, X: Tensor, numbers: Sequence[float], *, leave_out: bool = False) -> Tensor:
        """Return the scores (S, m, K) of the rows of X, (m, d), at S numbers of neighbours, by one search."""
        weights = self.weights_
        total = len(self.rows_) - leave_out if weights is None else float(weights.sum())
        numbers = [min(k, total) for k in numbers]
        searched = [int(k) if weights is None else _voters(weights, k) for k in numbers]
        scores = self.rows_.new_zeros((len(numbers), len(X), len(self.classes_)), dtype=torch.float64)
        chunk = max(1, SIMILARITIES // len(self.rows_))
        for start in range(0, len(X), chunk):
            x = self._whiten(X[start : start + chunk])
            similarity = x @ self.rows_.T.to(x.dtype)  # (c, n)
            if leave_out:
                similarity.diagonal(start).fill_(-torch.inf)
            nearest = similarity.topk(max(searched))
            y = self.codes_[nearest.indices]  # (c, j)
            for of_stage, k, j in zip(scores, numbers, searched, strict=True):
                votes = (1 + TIE_BREAK / k * nearest.values[:, :j].double()) / k
                if weights is not None:
                    votes *= _row_votes(weights[nearest.indices[:, :j]], k)
                of_stage[start : start + chunk].scatter_add_(1, y[:, :j], votes)
        return scores
