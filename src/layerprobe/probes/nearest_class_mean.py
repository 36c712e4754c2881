"""Nearest class mean by cosine."""

from typing import ClassVar

import torch
from torch import Tensor

from layerprobe.core.statistics import Statistics
from layerprobe.core.subspaces import rescale
from layerprobe.probes.base import CalibratedProbe
from layerprobe.probes.linear import LinearProbe


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
        x, squared_norms = rescale(X.to(self.means_.device))
        return super()._scores(x / torch.where(squared_norms > 0, squared_norms, 1).sqrt()[:, None])

    def _weight_and_bias(self) -> tuple[Tensor, Tensor]:
        # The length of x does not change which of the cosines is the largest.
        means, squared_norms = rescale(self.means_)
        means = means / torch.where(squared_norms > 0, squared_norms, 1).sqrt()[:, None]
        return means, means.new_zeros(len(means))
