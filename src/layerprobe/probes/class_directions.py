"""Probes of one direction per class: nearest class mean by cosine, and VeLPIC."""

import warnings
from typing import ClassVar

from torch import Tensor

from layerprobe.core.linalg import unit_rows
from layerprobe.core.statistics import Statistics
from layerprobe.errors import DegenerateWarning
from layerprobe.probes.base import CalibratedProbe, LinearProbe


class NearestClassMean(CalibratedProbe, LinearProbe):
    """Predict the class whose mean makes the largest cosine with the point.

    An all-zero point, or an all-zero mean, has the cosine 0. `predict_proba` is the softmax of the cosines
    times an inverse temperature `beta_`, calibrated by cross-validation (`CalibratedProbe`).

    Attributes
    ----------
    means_ : Tensor of shape (K, d)
        Class means, of the dtype of the rows.
    classes_ : ndarray of shape (K,)
    n_features_in_ : int
    """

    reads: ClassVar[frozenset[str]] = frozenset({"means"})

    def _fit_statistics(self, statistics: Statistics) -> None:
        self.means_ = statistics.means.to(statistics.dtype)

    def _scores(self, X: Tensor) -> Tensor:
        return super()._scores(unit_rows(X.to(self.means_.device)))

    def _weight_and_bias(self) -> tuple[Tensor, Tensor]:
        # The length of x does not change which of the cosines is the largest.
        means = unit_rows(self.means_)
        return means, means.new_zeros(len(means))


class VeLPIC(CalibratedProbe, LinearProbe):
    """Predict the class whose first component has the largest product with the point.

    The first component v_k of class k is the leading eigenvector, of unit norm, of its uncentred second
    moment. Its sign makes the mean of v_k . x over all training points positive or zero. A class
    whose rows are all zero has no direction: its v_k is zero, and its score 0. `predict_proba` is the softmax
    of the products times an inverse temperature `beta_`, calibrated by cross-validation (`CalibratedProbe`).

    Attributes
    ----------
    directions_ : Tensor of shape (K, d)
        Rows v_k, of the dtype of the training rows.
    classes_ : ndarray of shape (K,)
    n_features_in_ : int

    References
    ----------
    The follow-up of the paper, arXiv 2603.19865.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"moments", "means"})

    def _fit_statistics(self, statistics: Statistics) -> None:
        with warnings.catch_warnings(action="ignore", category=DegenerateWarning):
            # One feature saturates subspaces; signed directions still differ.
            bases = statistics.subspaces(components=1).bases
        self.directions_ = bases[0].new_zeros((len(bases), statistics.dim), dtype=statistics.dtype)
        for direction, basis in zip(self.directions_, bases, strict=True):
            if basis.shape[1]:  # none for an all-zero class
                direction.copy_(basis[:, 0])
        self.directions_[self.directions_.double() @ statistics.mean < 0] *= -1

    def _weight_and_bias(self) -> tuple[Tensor, Tensor]:
        return self.directions_, self.directions_.new_zeros(len(self.directions_))
