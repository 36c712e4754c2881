"""Base of linear probes: a weight matrix and a bias that can replace the last layer of a network."""

import torch
from torch import Tensor, nn

from layerprobe.probes.base import Probe


class LinearProbe(Probe):
    """A probe that predicts argmax_k (w_k . x + b_k); subclasses define ``_fit``, ``_weight_and_bias``."""

    @property
    def linear_(self) -> tuple[Tensor, Tensor]:
        """Weight (K, d) and bias (K,) of the linear layer that predicts as this probe does."""
        self._require_fit()
        return self._weight_and_bias()

    def _weight_and_bias(self) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} must define _weight_and_bias().")

    def _scores(self, X: Tensor) -> Tensor:
        weight, bias = self._weight_and_bias()
        dtype = torch.promote_types(X.dtype, weight.dtype)
        return nn.functional.linear(X.to(weight.device, dtype), weight.to(dtype), bias.to(dtype))
