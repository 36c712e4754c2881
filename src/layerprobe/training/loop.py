"""One training loop for every network: data on the device, no host synchronisation within an epoch."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from layerprobe.errors import InputError
from layerprobe.training.seeds import seeded
from layerprobe.training.state import Epoch, TrainingState

__all__ = [
    "Inputs",
    "Recipe",
    "Stop",
    "accuracy",
    "check_training_data",
    "predict",
    "share_equal",
    "train",
]

Inputs = Callable[[Tensor], Tensor]
Stop = Callable[[Sequence[Epoch]], bool]


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
    shuffle : bool
        Draw a new batch order for every epoch. The published study did not: it took the samples as they lie.
    """

    optimizer: Literal["adam", "sgd"]
    learning_rate: float
    batch_size: int
    momentum: float = 0.0
    target: float = 0.999
    max_epochs: int = 500
    shuffle: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_epochs"):
            if int(getattr(self, name)) != getattr(self, name):
                raise InputError(f"{name} must be a whole number, got {getattr(self, name)!r}")
        kinds = {"batch_size": int, "max_epochs": int, "shuffle": bool}
        kinds |= dict.fromkeys(["learning_rate", "momentum", "target"], float)
        for name, kind in kinds.items():
            object.__setattr__(self, name, kind(getattr(self, name)))  # 1, 1.0 and NumPy's 1 are one recipe
        if self.optimizer not in ("adam", "sgd"):
            raise InputError(f"optimizer must be 'adam' or 'sgd', got {self.optimizer!r}")
        for name, at_least in (("batch_size", 1), ("max_epochs", 1), ("momentum", 0)):
            if not getattr(self, name) >= at_least:
                raise InputError(f"{name} must be at least {at_least}, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate must be above 0 and finite, got {self.learning_rate}")
        if self.optimizer == "adam" and self.momentum:
            raise InputError(f"momentum is SGD's; for Adam leave it at 0, got {self.momentum}")
        if not 0 < self.target <= 2:  # a share; above 1 is never reached, and a slip for percent refused
            raise InputError(
                f"target must be a share as 0.999 (above 1: never stop early), got {self.target}"
            )

    @property
    def slots(self) -> frozenset[str]:
        """What the optimiser keeps of each parameter between steps."""
        if self.optimizer == "adam":
            return frozenset({"step", "exp_avg", "exp_avg_sq"})
        return frozenset({"momentum_buffer"} if self.momentum else ())

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the fused optimiser over the model's parameters."""
        if self.optimizer == "adam":
            return torch.optim.Adam(model.parameters(), lr=self.learning_rate, fused=True)
        return torch.optim.SGD(model.parameters(), lr=self.learning_rate, momentum=self.momentum, fused=True)

    def draw_order(self, n: int) -> Tensor:
        """Return the order (n,) in which an epoch takes the samples, from torch's global generator."""
        return (torch.randperm if self.shuffle else torch.arange)(n)

    def has_ended(self, history: Sequence[Epoch]) -> bool:
        """Return whether training stops after these epochs."""
        if not history:
            return False
        last = history[-1]
        return (
            last.epoch >= self.max_epochs
            or last.train_accuracy >= self.target
            or not math.isfinite(last.loss)
        )


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    *,
    order_seed: int,
    true_labels: Tensor | None = None,
    test: tuple[Tensor, Tensor] | None = None,
    inputs: Inputs | None = None,
    earlier: Sequence[Epoch] = (),
    resume: TrainingState | None = None,
    save: Callable[[TrainingState], object] | None = None,
    on_epoch: Callable[[Epoch], object] | None = None,
    stop: Stop | None = None,
) -> list[Epoch]:
    """Train a network in place until its running accuracy on the given labels reaches the target.

    Everything random in an epoch depends on `order_seed` and the epoch's number alone, and torch's global
    generators are left as they were. With one thread on a CPU a run repeats bit for bit, whether or not it
    was interrupted between two epochs.

    Parameters
    ----------
    model : nn.Module
        Maps (n, ...) to logits (n, K); on the same device as the data.
    x : Tensor, shape (n, ...)
        The whole training set.
    y : Tensor, shape (n,), int64, or (n, K), floating point
        The labels to train on, possibly wrong; or the probabilities of all classes, of which the running
        accuracy counts the likeliest.
    recipe : Recipe
        Optimiser, batch size and stop rule.
    order_seed : int
        Draws the batch order of every epoch, and dropout.
    true_labels : Tensor, shape (n,), int64, optional
        Reported in the history, never trained on.
    test : (x, y), optional
        Reported in the history, never trained on.
    inputs : callable, optional
        Makes a batch of `x`, for instance of uint8 images, into what the network takes: a `Scale`. Without
        it batches are taken as they are.
    earlier : sequence of Epoch, optional
        The history of the network so far, which this training continues with a fresh optimiser: its epochs
        count, but do not end it.
    resume : TrainingState, optional
        Go on from here instead of from the network's present weights.
    save : callable, optional
        Called with the `TrainingState` after each epoch, before `on_epoch`.
    on_epoch : callable, optional
        Called with each `Epoch` as it ends.
    stop : callable, optional
        A stop rule beside the recipe's own: given the history so far, of at least one epoch, whether
        training ends. The same history must give the same answer, or a resumed run would end elsewhere.

    Returns
    -------
    list of Epoch
        The history, that of `earlier` or `resume` included. The target was reached if
        ``history[-1].train_accuracy >= recipe.target``; training also ends at a loss that is not finite, from
        which no network recovers.

    Raises
    ------
    InputError
        There is no sample, not exactly one label for each input, or `resume` is of another network or
        optimiser.
    """
    check_training_data(x, y, true_labels, soft=True)
    labels = y.argmax(1) if y.ndim == 2 else y
    optimizer = recipe.build_optimizer(model)
    history = list(earlier)
    if resume:
        resume.restore(model, optimizer, recipe.slots)
        history = list(resume.history)
    while len(history) == len(earlier) or not (recipe.has_ended(history) or (stop and stop(history))):
        start = time.perf_counter()
        number = len(history) + 1
        with seeded(order_seed, number):
            order = recipe.draw_order(len(x)).to(x.device)
            loss, predicted = _one_pass(model, x, y, order, recipe.batch_size, optimizer, inputs)
        epoch = Epoch(
            epoch=number,
            loss=loss.item(),
            train_accuracy=share_equal(predicted, labels[order]),
            true_accuracy=math.nan if true_labels is None else share_equal(predicted, true_labels[order]),
            test_accuracy=math.nan if test is None else accuracy(model, *test, inputs=inputs),
            seconds=time.perf_counter() - start,
        )
        history.append(epoch)
        if save:
            save(TrainingState.of(model, optimizer, history))
        if on_epoch:
            on_epoch(epoch)
    return history


def check_training_data(
    x: Tensor, y: Tensor, true_labels: Tensor | None = None, *, soft: bool = False
) -> None:
    """Demand at least one input, and one label of each kind for every input; of `soft` also (n, K)."""
    rows = y[:, 0] if soft and y.ndim == 2 and y.is_floating_point() else y
    for name, labels in (("y", rows), ("true_labels", true_labels)):
        if labels is not None and labels.shape != x.shape[:1]:
            raise InputError(
                f"{name} needs shape ({len(x)},), one label for each input; got {tuple(labels.shape)}"
            )
    if len(x) == 0:
        raise InputError("training needs at least one sample; x is empty")


def _one_pass(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    order: Tensor,
    batch_size: int,
    optimizer: torch.optim.Optimizer,
    inputs: Inputs | None,
) -> tuple[Tensor, Tensor]:
    """Train on every sample once; return the mean loss, (), and the labels predicted on the way, (n,)."""
    model.train()
    total_loss = torch.zeros((), device=x.device)
    predicted = []
    for batch in order.split(batch_size):
        logits = model(inputs(x[batch]) if inputs else x[batch])
        loss = cross_entropy(logits, y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # Nothing here waits for the device: losses and predictions stay on it until the pass is over.
        total_loss += loss.detach() * len(batch)
        predicted.append(logits.detach().argmax(1))
    return total_loss / len(order), torch.cat(predicted)


def accuracy(
    model: nn.Module, x: Tensor, y: Tensor, *, inputs: Inputs | None = None, batch_size: int = 1024
) -> float:
    """Return the share of x (n, ...) whose label (n,) the network predicts, in evaluation mode.

    `inputs` is that of `train`.
    """
    return share_equal(predict(model, x, inputs=inputs, batch_size=batch_size), y)


def predict(model: nn.Module, x: Tensor, *, inputs: Inputs | None = None, batch_size: int = 1024) -> Tensor:
    """Return the labels (n,) that the network predicts for x (n, ...) in evaluation mode.

    `inputs` is that of `train`.
    """
    training = model.training
    model.eval()
    with torch.inference_mode():
        predicted = torch.cat(
            [model(inputs(batch) if inputs else batch).argmax(1) for batch in x.split(batch_size)]
        )
    model.train(training)
    return predicted


def share_equal(predicted: Tensor, labels: Tensor) -> float:
    """Return the share of predictions (n,) that are these labels (n,)."""
    return (predicted == labels).double().mean().item()
