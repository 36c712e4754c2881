"""Linear discriminant analysis with a covariance shrunk towards a multiple of the identity."""

from typing import ClassVar

from layerprobe.core.checks import check_number
from layerprobe.core.statistics import Statistics
from layerprobe.probes.base import LinearProbe, MomentProbe, ProbabilityProbe, StagedProbe


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
