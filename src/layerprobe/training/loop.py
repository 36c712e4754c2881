"""One training loop for every network: data on the device, no host synchronisation within an epoch."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from layerprobe.errors import InputError
from layerprobe.training.seeds import seeded

__all__ = ["Epoch", "Recipe", "accuracy", "train"]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained (METHOD section 3).

    Attributes
    ----------
    optimizer : {"adam", "sgd"}
        The optimiser, without weight decay or schedule.
    learning_rate : float
        Its step size.
    batch_size : int
        Samples a step; an epoch's last batch may be smaller.
    momentum : float
        For SGD.
    target : float
        Training stops after the epoch whose running training accuracy reaches this.
    max_epochs : int
        Training stops after so many epochs at the latest.
    """

    optimizer: Literal["adam", "sgd"]
    learning_rate: float
    batch_size: int
    momentum: float = 0.0
    target: float = 0.999
    max_epochs: int = 500

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the fused optimiser over the model's parameters."""
        if self.optimizer == "adam":
            return torch.optim.Adam(model.parameters(), lr=self.learning_rate, fused=True)
        return torch.optim.SGD(model.parameters(), lr=self.learning_rate, momentum=self.momentum, fused=True)


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training data showed.

    Attributes
    ----------
    epoch : int
        1 for the first pass.
    loss : float
        Mean cross entropy of the batches, each before its step.
    train_accuracy, true_accuracy : float
        Running accuracy of the same predictions against the labels trained on, and against the true
        training labels (NaN if not given).
    test_accuracy : float
        Accuracy on the test data after the pass (NaN if not given).
    seconds : float
        Wall time of the pass and its test.
    """

    epoch: int
    loss: float
    train_accuracy: float
    true_accuracy: float
    test_accuracy: float
    seconds: float


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    *,
    order_seed: int,
    true_labels: Tensor | None = None,
    test: tuple[Tensor, Tensor] | None = None,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> list[Epoch]:
    """Train a network in place until its running accuracy on the given labels reaches the target.

    Everything random in an epoch depends on `order_seed` and the epoch's number alone, and torch's global
    generators are left as they were. With one thread on a CPU a run repeats bit for bit.

    Parameters
    ----------
    model : nn.Module
        Maps (n, ...) to logits (n, K); on the same device as the data.
    x : Tensor, shape (n, ...)
        The whole training set.
    y : Tensor, shape (n,), int64
        The labels to train on, possibly wrong.
    recipe : Recipe
        Optimiser, batch size and stop rule.
    order_seed : int
        Draws the batch order of every epoch.
    true_labels : Tensor, shape (n,), int64, optional
        Reported in the history, never trained on.
    test : (x, y), optional
        Reported in the history, never trained on.
    on_epoch : callable, optional
        Called with each `Epoch` as it ends.

    Returns
    -------
    list of Epoch
        The history. The target was reached if ``history[-1].train_accuracy >= recipe.target``; training
        also ends at a loss that is not finite, from which no network recovers.

    Raises
    ------
    InputError
        There is no sample, or not exactly one label for each input.
    """
    for name, labels in (("y", y), ("true_labels", true_labels)):
        if labels is not None and labels.shape != x.shape[:1]:
            raise InputError(
                f"{name} needs shape ({len(x)},), one label for each input; got {tuple(labels.shape)}"
            )
    if len(x) == 0:
        raise InputError("training needs at least one sample; x is empty")

    optimizer = recipe.build_optimizer(model)
    history: list[Epoch] = []
    for number in range(1, recipe.max_epochs + 1):
        start = time.perf_counter()
        with seeded(order_seed, number):
            order = torch.randperm(len(x)).to(x.device)
            loss, predicted = _one_pass(model, x, y, order, recipe.batch_size, optimizer)
        epoch = Epoch(
            epoch=number,
            loss=loss.item(),
            train_accuracy=_share_equal(predicted, y[order]),
            true_accuracy=math.nan if true_labels is None else _share_equal(predicted, true_labels[order]),
            test_accuracy=math.nan if test is None else accuracy(model, *test),
            seconds=time.perf_counter() - start,
        )
        history.append(epoch)
        if on_epoch:
            on_epoch(epoch)
        if epoch.train_accuracy >= recipe.target or not math.isfinite(epoch.loss):
            break
    return history


def _one_pass(
    model: nn.Module, x: Tensor, y: Tensor, order: Tensor, batch_size: int, optimizer: torch.optim.Optimizer
) -> tuple[Tensor, Tensor]:
    """Train on every sample once; return the mean loss, (), and the labels predicted on the way, (n,)."""
    model.train()
    total_loss = torch.zeros((), device=x.device)
    predicted = []
    for batch in order.split(batch_size):
        logits = model(x[batch])
        loss = cross_entropy(logits, y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total_loss += loss.detach() * len(batch)
        predicted.append(logits.detach().argmax(1))
    return total_loss / len(order), torch.cat(predicted)


def accuracy(model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 1024) -> float:
    """Return the share of inputs (n, ...) whose label (n,) the network predicts, in evaluation mode."""
    training = model.training
    model.eval()
    with torch.inference_mode():
        predicted = torch.cat([model(batch).argmax(1) for batch in x.split(batch_size)])
    model.train(training)
    return _share_equal(predicted, y)


def _share_equal(predicted: Tensor, labels: Tensor) -> float:
    return (predicted == labels).double().mean().item()
