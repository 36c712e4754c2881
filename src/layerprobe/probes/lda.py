"""Linear discriminant analysis."""

from typing import Any

from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from layerprobe.probes.sklearn_probe import SklearnProbe

__all__ = ["LDA"]


class LDA(SklearnProbe):
    """Linear discriminant analysis, scikit-learn's.

    Parameters
    ----------
    solver : {"svd", "lsqr", "eigen"}, default "svd"
    shrinkage : float, "auto" or None, default None
        For the last two solvers.
    """

    def __init__(self, solver: str = "svd", shrinkage: float | str | None = None) -> None:
        self.solver = solver
        self.shrinkage = shrinkage

    def _estimator(self) -> Any:
        return LinearDiscriminantAnalysis(solver=self.solver, shrinkage=self.shrinkage)
