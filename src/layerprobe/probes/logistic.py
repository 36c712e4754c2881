"""Multinomial logistic regression: at its optimum, or trained as the paper trains it."""

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as Optimum
from torch import Tensor, nn

from layerprobe.core.checks import check_count, check_number
from layerprobe.core.statistics import RowStatistics
from layerprobe.errors import DegenerateWarning, warn
from layerprobe.probes.base import LinearProbe, ProbabilityProbe, WeightedProbe
from layerprobe.utils.settings import one_thread

TOLERANCE = 1e-6  # of the gradient of the mean loss


class LogisticRegression(WeightedProbe, ProbabilityProbe, LinearProbe):
    """Multinomial logistic regression at its optimum, by scikit-learn's L-BFGS, in float64.

    The loss is the sum over rows of the cross entropy plus ``|w|^2 / (2 C)``, w the weights of the features
    in units of their standard deviations: offset and scale of a feature have no effect. Of two classes the
    first has the weights zero, as in scikit-learn's binary model. `predict_proba` is the softmax of the
    logits. The paper's recipe is `AdamLogisticRegression`, "logistic_adam" by name.

    Parameters
    ----------
    C : float, default 1.0
        Above 0; smaller values regularise more.
    max_iter : int, default 1000
        Iterations at most; a warning says if they are not enough.

    Attributes
    ----------
    coef_ : Tensor of shape (K, d)
        For features in their own units.
    intercept_ : Tensor of shape (K,)
    n_iter_ : int
        Iterations done.
    classes_ : ndarray of shape (K,)
    n_features_in_ : int
    """

    def __init__(self, C: float = 1.0, max_iter: int = 1000) -> None:
        self.C = C
        self.max_iter = max_iter

    def _fit_weighted(self, X: Tensor, y: Tensor, num_classes: int, weights: Tensor | None) -> None:
        check_number("C", self.C, above=0)
        check_count("max_iter", self.max_iter)
        rows = X.double()
        statistics = RowStatistics(rows, torch.zeros_like(y), 1, weights)
        mean, scale = statistics.mean, statistics.deviations
        coef, intercept = rows.new_zeros(num_classes, X.shape[1]), rows.new_zeros(num_classes)
        self.n_iter_ = 0
        if num_classes > 1:
            with one_thread(), warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
                fitted = Optimum(C=self.C, max_iter=self.max_iter, tol=TOLERANCE).fit(
                    ((rows - mean) / scale).cpu().numpy(),
                    y.cpu().numpy(),
                    None if weights is None else weights.cpu().numpy(),
                )
            self.n_iter_ = int(fitted.n_iter_.max())
            if self.n_iter_ >= self.max_iter:
                warn(
                    f"Logistic regression did not converge in {self.max_iter} iterations: raise max_iter=, "
                    "or regularise more by a smaller C=.",
                    DegenerateWarning,
                )
            first = 1 if num_classes == 2 else 0  # scikit-learn's one row for two classes
            coef[first:] = torch.from_numpy(fitted.coef_) / scale.cpu()
            intercept[first:] = torch.from_numpy(fitted.intercept_)
        intercept -= coef @ mean
        # The intercept of features far from zero is large, and float32 would lose the difference.
        self.coef_, self.intercept_ = coef, intercept


class AdamLogisticRegression(ProbabilityProbe, LinearProbe):
    """One linear layer under cross entropy, trained with Adam on shuffled batches: the paper's recipe.

    20 epochs do not reach the optimum on few rows, nor for features far from zero; `LogisticRegression` does.
    `predict_proba` is the softmax of the logits. It takes no row weights: its number of steps is that of the
    rows. Repeat rows instead, or use `LogisticRegression`.

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
        check_count("epochs", self.epochs, least=0)
        check_count("batch_size", self.batch_size)
        check_number("learning_rate", self.learning_rate, above=0)
        n, d = X.shape
        generator = torch.Generator().manual_seed(self.random_state)
        bound = d**-0.5  # nn.Linear's own initialisation
        weight, bias = (
            nn.init.uniform_(torch.empty(shape, dtype=torch.float32), -bound, bound, generator=generator)
            .to(X)  # drawn in float32, so that a seed starts from the same weights for rows of any dtype
            .requires_grad_()
            for shape in ((num_classes, d), (num_classes,))
        )
        optimizer = torch.optim.Adam([weight, bias], lr=self.learning_rate, fused=True)
        with one_thread(), torch.enable_grad():
            for _ in range(self.epochs):
                for batch in torch.randperm(n, generator=generator).to(X.device).split(self.batch_size):
                    optimizer.zero_grad()
                    logits = nn.functional.linear(X[batch], weight, bias)
                    nn.functional.cross_entropy(logits, y[batch]).backward()
                    optimizer.step()
        self.coef_, self.intercept_ = weight.detach(), bias.detach()
