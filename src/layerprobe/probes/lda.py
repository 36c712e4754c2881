"""Linear discriminant analysis."""

from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from layerprobe.core.linalg import eigenpairs
from layerprobe.core.statistics import Statistics
from layerprobe.errors import InputError
from layerprobe.probes.base import LinearProbe, MomentProbe, ProbabilityProbe, to_tensor
from layerprobe.probes.sklearn_probe import SAME_ROWS, SklearnProbe


class LDA(ProbabilityProbe, SklearnProbe, MomentProbe, LinearProbe):
    """Linear discriminant analysis, scikit-learn's.

    `predict_proba` is the posterior under classes that are Gaussian with one common covariance. Row weights
    are for the solver "svd".

    Parameters
    ----------
    solver : {"svd", "lsqr", "eigen"}, default "svd"
    shrinkage : float, "auto" or None, default None
        For the last two solvers.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"means", "scatter"})

    def __init__(self, solver: str = "svd", shrinkage: float | str | None = None) -> None:
        self.solver = solver
        self.shrinkage = shrinkage

    def _fit_weighted(self, X: Tensor, y: Tensor, num_classes: int, weights: Tensor | None) -> None:
        if weights is None:
            return self._fit(X, y, num_classes)
        if not self.streams:
            raise InputError("LDA takes sample_weight with solver='svd' and without shrinkage.")
        return super()._fit_weighted(X, y, num_classes, weights)

    def _estimator(self) -> Any:
        return LinearDiscriminantAnalysis(solver=self.solver, shrinkage=self.shrinkage)

    @property
    def streams(self) -> bool:
        """Whether sums over rows are enough for these arguments."""
        return self.solver == "svd" and self.shrinkage is None

    def _fit_statistics(self, statistics: Statistics) -> None:
        """Fit as the solver "svd" does, from moments of the rows in float64."""
        n, K, mean = statistics.n, len(statistics.counts), statistics.mean
        if not 1 < K < n:
            raise InputError(
                f"LDA cannot be fitted: expected at least two classes and more rows than classes, got {K} "
                f"class(es) and {n} rows"
            )
        eigenvalues, vectors, trace = statistics.spectrum(within=True)
        spread = statistics.means - mean  # (K, d)
        if not trace and not spread.any():
            raise InputError(f"LDA cannot be fitted: {SAME_ROWS}")
        within = (vectors * eigenvalues) @ vectors.T / n
        scale = within.diagonal().clamp(min=0).sqrt()
        # A feature that is constant within each class has only rounding error as its variance here.
        scale[within.diagonal() <= len(mean) * torch.finfo(torch.float64).eps * within.trace()] = 1
        variances, basis = eigenpairs(within / scale.outer(scale))
        kept = int((variances.sqrt() > self._estimator().tol).sum())
        scalings = basis(kept) / scale[:, None] / variances[:kept].sqrt()
        shares = statistics.shares
        between = (n * shares / (K - 1)).sqrt()[:, None] * spread @ scalings  # (K, r)
        _, strengths, rotation = torch.linalg.svd(between, full_matrices=False)
        scalings = scalings @ rotation[strengths > self._estimator().tol * strengths[:1]].T
        coef = spread @ scalings
        intercept = shares.log() - coef.square().sum(1) / 2
        coef = coef @ scalings.T
        intercept -= coef @ mean
        fitted = self._estimator()
        fitted.classes_, fitted.n_features_in_ = np.arange(K), statistics.dim
        if K == 2:
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        fitted.coef_ = coef.to(statistics.dtype).cpu().numpy()
        fitted.intercept_ = intercept.to(statistics.dtype).cpu().numpy()
        self.estimator_ = fitted

    def _weight_and_bias(self) -> tuple[Tensor, Tensor]:
        weight, bias = self.estimator_.coef_, self.estimator_.intercept_
        if len(self.classes_) == 2:  # scikit-learn's one row for two classes
            weight, bias = (np.stack([np.zeros_like(row), row]) for row in (weight[0], bias[0]))
        return to_tensor(weight), to_tensor(bias)
