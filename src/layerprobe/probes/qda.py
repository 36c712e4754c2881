"""Quadratic discriminant analysis."""

from typing import Any

from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

from layerprobe.probes.base import ProbabilityProbe
from layerprobe.probes.sklearn_probe import SklearnProbe


class QDA(ProbabilityProbe, SklearnProbe):
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

    def _estimator(self) -> Any:
        # tol=0: whether a covariance is of full rank must not depend on the units of the layer
        return QuadraticDiscriminantAnalysis(solver="eigen", shrinkage=self.shrinkage, tol=0.0)
