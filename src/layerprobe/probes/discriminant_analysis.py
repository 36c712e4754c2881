"""Discriminant analysis: linear, with one shrunk covariance, and quadratic."""

from typing import Any, ClassVar

import numpy as np
import torch
from scipy.linalg import eigh
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from torch import Tensor

from layerprobe.core.checks import check_number
from layerprobe.core.linalg import eigenpairs
from layerprobe.core.statistics import Statistics
from layerprobe.errors import InputError
from layerprobe.probes.base import (
    LinearProbe,
    MomentProbe,
    ProbabilityProbe,
    StagedProbe,
    WeightedProbe,
    to_tensor,
)
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

    def _fit(self, X: Tensor, y: Tensor, num_classes: int) -> None:
        # scikit-learn divides a constant feature by the rounding error of its mean, unless it is zero.
        constant = X.amin(0) == X.amax(0)
        super()._fit(X.masked_fill(constant, 0), y, num_classes)
        self.estimator_.coef_[:, constant.cpu().numpy()] = 0

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
        if not 1 < K < max(n, statistics.n_rows):
            raise InputError(
                f"LDA cannot be fitted: expected at least two classes and more rows than classes, got {K} "
                f"class(es) and {statistics.n_rows} rows"
            )
        units = statistics.deviations  # features of any units, as for scikit-learn
        eigenvalues, vectors, trace = statistics.spectrum(within=True, units=units)
        spread = (statistics.means - mean) / units  # (K, d)
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
        coef = coef @ scalings.T / units
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


class ShrinkageLDA(StagedProbe, MomentProbe, ProbabilityProbe, LinearProbe):
    """Linear discriminant analysis with the within-class covariance (1 - s) S + s trace(S) / d I.

    S is pooled over the classes, whose priors are their shares of the rows. One eigendecomposition serves
    every shrinkage. It predicts as scikit-learn's ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s)``.

    `predict_proba` is the posterior under classes that are Gaussian with this common covariance; it is too
    sure where features are not.

    Where all rows within each class are equal, the spread between the classes replaces trace(S) / d. A layer
    with equal outputs on all rows predicts the most frequent class. (Shrinkage: Ledoit and Wolf, "A
    well-conditioned estimator for large-dimensional covariance matrices", 2004.)

    Parameters
    ----------
    shrinkage : float, default 0.1
        s in [0, 1]. At 0, directions without variance within the classes are left out.

    Attributes
    ----------
    coef_ : Tensor of shape (K, d)
    intercept_ : Tensor of shape (K,)
    means_ : Tensor of shape (K, d)
        Class means, float64.
    priors_ : Tensor of shape (K,)
    eigenvalues_ : Tensor of shape (r,)
        Of S, descending; those above the rounding error.
    vectors_ : Tensor of shape (d, r)
        Their eigenvectors.
    scale_ : float
        trace(S) / d.
    classes_ : ndarray of shape (K,)
    n_features_in_ : int
    """

    reads: ClassVar[frozenset[str]] = frozenset({"means", "scatter"})
    stage: ClassVar[str] = "shrinkage"

    def __init__(self, shrinkage: float = 0.1) -> None:
        self.shrinkage = shrinkage

    def _fit_statistics(self, statistics: Statistics) -> None:
        self._check_stage()
        n, d = statistics.n, statistics.dim
        self.means_, self.priors_ = statistics.means, statistics.shares
        eigenvalues, self.vectors_, trace = statistics.spectrum(within=True)
        self.eigenvalues_ = eigenvalues / n
        between = float(self.priors_ @ (self.means_ - self.priors_ @ self.means_).square().sum(1))
        self.scale_ = trace / n / d or between / d or 1.0
        self.dtype_ = statistics.dtype
        self._restage()

    def _check_stage(self) -> None:
        check_number("shrinkage", self.shrinkage, least=0, most=1)

    def _restage(self) -> None:
        # Subtract the mean of all: differences of scores stay, and products of large means lose no digits.
        mean = self.priors_ @ self.means_
        means = (self.means_ - mean).T  # (d, K)
        floor = self.shrinkage * self.scale_
        inside = self.vectors_.T @ means  # (r, K)
        coef = self.vectors_ @ (inside / ((1 - self.shrinkage) * self.eigenvalues_ + floor)[:, None])
        if floor:  # part of the means outside the directions with variance
            coef += (means - self.vectors_ @ inside) / floor
        self.coef_ = coef.T.to(self.dtype_)
        intercept = self.priors_.log() - (means * coef).sum(0) / 2 - mean @ coef
        self.intercept_ = intercept.to(self.dtype_)


class QDA(SklearnProbe, WeightedProbe, ProbabilityProbe):
    """Quadratic discriminant analysis, scikit-learn's, with shrunk covariances.

    `predict_proba` is the posterior under classes that are Gaussian with a covariance each.

    A layer with dead units, or a class with fewer rows than features, has a singular covariance, which
    scikit-learn refuses without shrinkage. The paper names no regularisation.

    Parameters
    ----------
    shrinkage : float, "auto" or None, default "auto"
        Towards a multiple of the identity; "auto" is Ledoit and Wolf's estimate, for features in units of
        their standard deviations in the class. As in scikit-learn, that of a feature without variance in the
        class, such as a dead unit, counts as 1: the accuracy then depends on the scale of the layer. With a
        number it does not.
    """

    def __init__(self, shrinkage: float | str | None = "auto") -> None:
        self.shrinkage = shrinkage

    def _fit_weighted(self, X: Tensor, y: Tensor, num_classes: int, weights: Tensor | None) -> None:
        self._fit(X, y, num_classes)  # also checks the arguments and the rows
        if weights is None:
            return
        rows, classes, w = X.double().cpu().numpy(), y.cpu().numpy(), weights.cpu().numpy()
        totals = np.bincount(classes, w, num_classes)
        means, scalings, rotations = [], [], []
        for k in range(num_classes):
            chosen = classes == k
            mean = np.average(rows[chosen], axis=0, weights=w[chosen])
            covariance = _covariance(rows[chosen] - mean, w[chosen], self.shrinkage)
            scaling, rotation = eigh(covariance)
            if scaling[0] <= 0:
                name = self.classes_.tolist()[k]
                raise InputError(f"QDA cannot be fitted: the covariance of class {name!r} is singular")
            means.append(mean)
            scalings.append(scaling[::-1])
            rotations.append(rotation[:, ::-1])
        fitted = self.estimator_
        fitted.means_, fitted.scalings_, fitted.rotations_ = np.asarray(means), scalings, rotations
        fitted.priors_ = totals / totals.sum()

    def _estimator(self) -> Any:
        # tol=0: whether a covariance is of full rank must not depend on the units of the layer
        return QuadraticDiscriminantAnalysis(solver="eigen", shrinkage=self.shrinkage, tol=0.0)


def _covariance(rows: np.ndarray, w: np.ndarray, shrinkage: float | str | None) -> np.ndarray:
    """Return the covariance of centred rows (n, d) of weights (n,), as scikit-learn does for repeated rows.

    "auto" is the shrinkage of Ledoit and Wolf (2004) of the features in units of their standard deviations.
    """
    n, d = w.sum(), rows.shape[1]
    scale = np.ones(d)
    if shrinkage == "auto":
        scale = np.sqrt(w @ rows**2 / n)
        scale[(scale == 0) | (rows == rows[0]).all(0)] = 1
        rows = rows / scale
    covariance = (rows.T * w) @ rows / n
    mu = covariance.trace() / d
    if shrinkage == "auto":
        distance = (covariance**2).sum() - d * mu**2
        error = (w @ (rows**2).sum(1) ** 2 / n - (covariance**2).sum()) / n
        share = min(max(error, 0), distance) / distance if distance > 0 else 0.0
    else:
        share = 0.0 if shrinkage in (None, "empirical") else float(shrinkage)
    covariance = (1 - share) * covariance + share * mu * np.eye(d)
    return scale[:, None] * covariance * scale
