"""Multinomial logistic regression trained as the paper trains it."""

import torch
from torch import Tensor, nn

from layerprobe.errors import InputError
from layerprobe.probes.linear import LinearProbe
from layerprobe.utils.settings import one_thread


class LogisticRegression(LinearProbe):
    """One linear layer under cross entropy, trained with Adam on shuffled batches.

    Parameters
    ----------
    learning_rate : float, default 1e-3
    epochs : int, default 20
    batch_size : int, default 128
    random_state : int, default 0
        Seed of the initial weights and of the batch order.

    Attributes
    ----------
    coef_ : Tensor of shape (K, d)
    intercept_ : Tensor of shape (K,)
    classes_ : ndarray of shape (K,)
    n_features_in_ : int
    """

    def __init__(
        self, learning_rate: float = 1e-3, epochs: int = 20, batch_size: int = 128, random_state: int = 0
    ) -> None:
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.random_state = random_state

    def _fit(self, X: Tensor, y: Tensor, num_classes: int) -> None:
        if self.epochs < 0 or self.batch_size < 1:
            raise InputError(
                f"expected epochs >= 0 and batch_size >= 1, got {self.epochs} and {self.batch_size}"
            )
        n, d = X.shape
        generator = torch.Generator().manual_seed(self.random_state)
        bound = d**-0.5  # nn.Linear's own initialisation
        weight, bias = (
            nn.init.uniform_(torch.empty(shape, dtype=X.dtype), -bound, bound, generator=generator)
            .to(X.device)
            .requires_grad_()
            for shape in ((num_classes, d), (num_classes,))
        )
        optimizer = torch.optim.Adam([weight, bias], lr=self.learning_rate, fused=True)
        with one_thread(), torch.inference_mode(False), torch.enable_grad():
            for _ in range(self.epochs):
                for batch in torch.randperm(n, generator=generator).to(X.device).split(self.batch_size):
                    optimizer.zero_grad()
                    logits = nn.functional.linear(X[batch], weight, bias)
                    nn.functional.cross_entropy(logits, y[batch]).backward()
                    optimizer.step()
        self.coef_, self.intercept_ = weight.detach(), bias.detach()

    def _weight_and_bias(self) -> tuple[Tensor, Tensor]:
        return self.coef_, self.intercept_
