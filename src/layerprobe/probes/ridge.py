"""Ridge regression to one-hot targets, with exact leave-one-out scores."""

import copy
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from layerprobe.core.checks import check_number
from layerprobe.core.linalg import BLOCK
from layerprobe.core.statistics import Statistics, centred_blocks, class_means
from layerprobe.probes.base import CalibratedProbe, LinearProbe, StagedProbe, like
from layerprobe.utils.settings import default_settings


class Ridge(StagedProbe, CalibratedProbe, LinearProbe):
    """Least squares to one-hot targets with a free intercept and a penalty on the weights.

    The penalty is `strength` times the mean eigenvalue trace(Xc^T Xc) / d of the centred rows Xc, so that
    the scale of a layer has no effect. One symmetric eigendecomposition serves every strength. A layer that
    is the same on every row predicts the most frequent class. `predict_proba` is the softmax of the scores
    times an inverse temperature `beta_`, calibrated by cross-validation (`CalibratedProbe`).

    Parameters
    ----------
    strength : float, default 1.0
        Above 0. Products of float32 rows resolve strengths down to about 1e-3; use float64 rows for
        smaller ones.

    Attributes
    ----------
    coef_ : Tensor of shape (K, d)
    intercept_ : Tensor of shape (K,)
    eigenvalues_ : Tensor of shape (r,)
        Of Xc^T Xc, descending, in units of their mean over all d; those above the rounding error.
    vectors_ : Tensor of shape (d, r)
        Their eigenvectors.
    scale_ : float
        Square root of the mean eigenvalue.
    codes_ : Tensor of shape (n,), or None
        Class of each training row; None after a fit with weights.
    classes_ : ndarray of shape (K,)
    n_features_in_ : int

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from layerprobe.probes import Ridge
    >>> X, y = load_digits(return_X_y=True)
    >>> ridge = Ridge(strength=0.1).fit(X[:1500], y[:1500])
    >>> left_out = ridge.loo_scores(X[:1500], y[:1500]).argmax(1)  # each row by the fit to the others
    >>> bool((left_out == y[:1500]).mean() > 0.9)
    True
    """

    reads: ClassVar[frozenset[str]] = frozenset({"means", "scatter"})
    stage: ClassVar[str] = "strength"

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = strength

    @default_settings()
    def loo_scores(self, X: Any, y: Any) -> Any:
        """Score each training row by the fit to all other rows, exactly and without refitting.

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

        Notes
        -----
        For row i with target t, fit f and leverage h = 1/n + sum_j z_j^2 / (e_j + penalty), z = V^T (x - m),
        the fit without the row gives t - (t - f) / (1 - h). f and h use the penalty of the other
        rows, whose mean eigenvalue differs from that of all. (Leave-one-out of linear smoothers: Hastie,
        Tibshirani and Friedman, "The Elements of Statistical Learning", section 7.10.)
        """
        self._require_fit()
        rows, codes = self._left_out_rows(X, y, self.codes_)
        n, d = rows.shape
        if n < d:
            rows = rows.double()  # leverages near one, where float32 loses what is left of it
        vectors, eigenvalues = self.vectors_.to(rows), self.eigenvalues_.to(rows)
        projections, shares = self.projections_.to(rows), self.shares_.to(rows)
        scores = rows.new_empty(n, len(shares))
        blocks = centred_blocks(rows, self.mean_)
        for block, y, out in zip(blocks, codes.split(BLOCK), scores.split(BLOCK), strict=True):
            x = block / self.scale_  # (b, d)
            rest = 1 - x.square().sum(1, keepdim=True) * (n / (n - 1) / d)  # mean eigenvalue of the others
            z = x @ vectors  # (b, r)
            shrunk = z / (eigenvalues + self.strength * rest.clamp(min=0))
            leverage = 1 / n + (shrunk * z).sum(1, keepdim=True)
            target = torch.nn.functional.one_hot(y, len(shares)).to(rows)
            left_out = target - (target - shares - shrunk @ projections) / (1 - leverage)
            # Where all other rows are equal, their fit is the mean of their targets.
            others = (n * shares - target) / (n - 1)
            out.copy_(torch.where(rest > d * torch.finfo(rows.dtype).eps, left_out, others))
        return like(scores.to(self.dtype_), X)

    @default_settings()
    def relabelled(self, X: Tensor, y: Tensor) -> Self:
        """Return the fit to other labels of the same rows, without another decomposition.

        Parameters
        ----------
        X : Tensor of shape (n, d)
            Rows of the fit.
        y : Tensor of shape (n,), int64
            The other labels as positions in ``classes_``.
        """
        other = copy.copy(self)
        counts = y.bincount(minlength=len(self.classes_)).double()
        other._project(counts, class_means(X, y, len(self.classes_)))
        other.codes_ = y
        return other

    def _fit_weighted(self, X: Tensor, y: Tensor, num_classes: int, weights: Tensor | None) -> None:
        super()._fit_weighted(X, y, num_classes, weights)
        self.codes_ = y if weights is None else None  # for leave-one-out

    def _fit_statistics(self, statistics: Statistics) -> None:
        self._check_stage()
        self.mean_ = statistics.mean
        eigenvalues, self.vectors_, trace = statistics.spectrum(within=False)
        self.scale_ = (trace / statistics.dim) ** 0.5 or 1.0
        self.eigenvalues_ = eigenvalues / self.scale_**2
        self.dtype_ = statistics.dtype
        self._project(statistics.n * statistics.shares, statistics.means)

    def _project(self, counts: Tensor, means: Tensor) -> None:
        """Fit to the row counts, (K,), and means, (K, d), of the classes."""
        self.shares_ = counts / counts.sum()
        # Column k of Xc^T Y is the sum of the rows of class k, each less the mean of all.
        sums = counts[:, None] * (means - self.mean_) / self.scale_  # (K, d)
        self.projections_ = self.vectors_.T @ sums.T  # (r, K)
        self._restage()

    def _check_stage(self) -> None:
        check_number("strength", self.strength, above=0)

    def _restage(self) -> None:
        shrunk = self.projections_ / (self.eigenvalues_ + self.strength)[:, None]
        coef = (self.vectors_ @ shrunk / self.scale_).T  # (K, d)
        self.coef_ = coef.to(self.dtype_)
        self.intercept_ = (self.shares_ - coef @ self.mean_).to(self.dtype_)
