"""Linear discriminant analysis."""

from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from layerprobe.probes.base import to_tensor
from layerprobe.probes.linear import LinearProbe
from layerprobe.probes.sklearn_probe import SklearnProbe

__all__ = ["LDA"]


class LDA(SklearnProbe, LinearProbe):
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

    def _weight_and_bias(self) -> tuple[Tensor, Tensor]:
        weight, bias = self.estimator_.coef_, self.estimator_.intercept_
        if len(self.classes_) == 2:  # scikit-learn's one row for two classes
            weight, bias = (np.stack([np.zeros_like(row), row]) for row in (weight[0], bias[0]))
        return to_tensor(weight), to_tensor(bias)
