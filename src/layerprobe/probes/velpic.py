"""VeLPIC, the linear probe of the follow-up study: one direction per class."""

import warnings
from typing import ClassVar

from torch import Tensor

from layerprobe.core.statistics import Statistics
from layerprobe.errors import DegenerateWarning
from layerprobe.probes.base import CalibratedProbe
from layerprobe.probes.linear import LinearProbe


class VeLPIC(CalibratedProbe, LinearProbe):
    """Predict the class whose first component has the largest product with the point.

    The first component v_k of class k is the leading eigenvector, of unit norm, of its uncentred second
    moment, with the sign that makes the mean of v_k . x over all training points positive or zero. A class
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
        with warnings.catch_warnings():  # one feature saturates subspaces; signed directions still differ
            warnings.simplefilter("ignore", DegenerateWarning)
            bases = statistics.subspaces(components=1).bases
        self.directions_ = bases[0].new_zeros(len(bases), statistics.dim)
        for direction, basis in zip(self.directions_, bases, strict=True):
            if basis.shape[1]:  # none for an all-zero class
                direction.copy_(basis[:, 0])
        self.directions_[self.directions_.double() @ statistics.mean < 0] *= -1

    def _weight_and_bias(self) -> tuple[Tensor, Tensor]:
        return self.directions_, self.directions_.new_zeros(len(self.directions_))
