"""Nearest class mean by cosine."""

import torch
from torch import Tensor

from layerprobe.probes.linear import LinearProbe

__all__ = ["NearestClassMean"]


class NearestClassMean(LinearProbe):
    """Predict the class whose mean makes the largest cosine with the point.

    An all-zero point, or an all-zero mean, has the cosine 0.

    Attributes
    ----------
    means_ : Tensor of shape (K, d)
        Class means, of the rows' dtype.
    classes_ : ndarray of shape (K,)
    n_features_in_ : int
    """

    def _fit(self, X: Tensor, codes: Tensor, num_classes: int) -> None:
        sums = torch.zeros(num_classes, X.shape[1], dtype=torch.float64, device=X.device)
        for k in range(num_classes):
            sums[k] = X[codes == k].sum(0, dtype=torch.float64)
        self.means_ = (sums / codes.bincount(minlength=num_classes)[:, None]).to(X.dtype)

    def _scores(self, X: Tensor) -> Tensor:
        weight, _ = self._weight_and_bias()
        return torch.nn.functional.normalize(X.to(weight), eps=torch.finfo(weight.dtype).tiny) @ weight.T

    def _weight_and_bias(self) -> tuple[Tensor, Tensor]:
        # The length of x does not change which of the cosines is the largest.
        return torch.nn.functional.normalize(self.means_), self.means_.new_zeros(len(self.means_))
