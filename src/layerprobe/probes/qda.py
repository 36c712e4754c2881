"""Quadratic discriminant analysis."""

from typing import Any

import numpy as np
from scipy.linalg import eigh
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from torch import Tensor

from layerprobe.errors import InputError
from layerprobe.probes.base import ProbabilityProbe, WeightedProbe
from layerprobe.probes.sklearn_probe import SklearnProbe


class QDA(SklearnProbe, WeightedProbe, ProbabilityProbe):
    """Quadratic discriminant analysis, scikit-learn's, with shrunk covariances.

    `predict_proba` is the posterior under classes that are Gaussian with a covariance each.

    A layer with dead units, or a class with fewer rows than features, has a singular covariance, which
    scikit-learn refuses without shrinkage. The paper names no regularisation.

    Parameters
    ----------
    shrinkage : float, "auto" or None, default "auto"
        Towards a multiple of the identity; "auto" is Ledoit and Wolf's estimate.
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
        scale[scale == 0] = 1
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
