"""One training loop for every network: data on the device, no host synchronisation within an epoch."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from layerprobe.errors import InputError
from layerprobe.training.parallel import check_splittable, require_same_start, sum_gradients
from layerprobe.training.recipe import Recipe
from layerprobe.training.seeds import seeded
from layerprobe.training.state import Epoch, TrainingState
from layerprobe.utils.distributed import rank, sum_over_processes, world_size

__all__ = [
    "Inputs",
    "Stop",
    "accuracy",
    "check_training_data",
    "predict",
    "share_equal",
    "train",
]

Inputs = Callable[[Tensor], Tensor]
Stop = Callable[[Sequence[Epoch]], bool]


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

    In a job of several processes (`layerprobe.distributed.group`) all of them call this with equal arguments.
    Each takes its share of the rows of every batch, and gradients and counts are summed, so that steps and
    history are those of one process up to rounding, whatever the number of processes. Dropout is the
    exception: its masks are drawn anew in every process, and repeat for the same number of processes alone.

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
        Called with the `TrainingState` after each epoch, before `on_epoch`; in the first process alone.
    on_epoch : callable, optional
        Called with each `Epoch` as it ends; in every process.
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
        optimiser. In a job of several processes, that arguments differ between them, or that the network
        normalises over batches.
    ProcessError
        If another process of the job ended.
    """
    check_training_data(x, y, true_labels, soft=True)
    check_splittable(model)
    labels = y.argmax(1) if y.ndim == 2 else y
    optimizer = recipe.build_optimizer(model)
    history = list(earlier)
    if resume:
        resume.restore(model, optimizer, recipe.slots)
        history = list(resume.history)
    others = [true_labels, *(test or ())]
    require_same_start(model, optimizer, [x, y, *others], f"{recipe} {order_seed} {history}")
    while len(history) == len(earlier) or not (recipe.has_ended(history) or (stop and stop(history))):
        start = time.perf_counter()
        number = len(history) + 1
        with seeded(order_seed, number):
            order = recipe.draw_order(len(x)).to(x.device)
            # Other rows must not be dropped by the same masks; the first process draws those of a job of one.
            with seeded(order_seed, number, rank()) if rank() else nullcontext():
                loss, taken, predicted = _one_pass(model, x, y, order, recipe.batch_size, optimizer, inputs)
        epoch = Epoch(
            epoch=number,
            loss=sum_over_processes(loss.double()).item(),
            train_accuracy=_share(predicted, labels[taken], len(x)),
            true_accuracy=math.nan if true_labels is None else _share(predicted, true_labels[taken], len(x)),
            test_accuracy=math.nan if test is None else _accuracy_together(model, *test, inputs),
            seconds=_of_first(time.perf_counter() - start),
        )
        history.append(epoch)
        if save and rank() == 0:
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Train on every sample once.

    Returns
    -------
    loss : Tensor, ()
        This process's part of the mean loss.
    taken : Tensor, (m,), int64
        Its samples, in the order taken: all of them in a job of one process.
    predicted : Tensor, (m,), int64
        Their labels as predicted on the way.
    """
    model.train()
    total_loss = torch.zeros((), device=x.device)
    taken, predicted = [order[:0]], [order[:0]]  # a process may be left without a row
    for batch in order.split(batch_size):
        mine = batch[rank() :: world_size()]
        optimizer.zero_grad()
        if len(mine):
            logits = model(inputs(x[mine]) if inputs else x[mine])
            loss = cross_entropy(logits, y[mine])
            (loss * (len(mine) / len(batch))).backward()
            # Nothing here waits for the device: losses and predictions stay on it until the pass is over.
            total_loss = total_loss + loss.detach() * len(mine)  # in float64 for a network of float64
            taken.append(mine)
            predicted.append(logits.detach().argmax(1))
        sum_gradients(model)
        optimizer.step()
    return total_loss / len(order), torch.cat(taken), torch.cat(predicted)


def _share(predicted: Tensor, labels: Tensor, n: int) -> float:
    """Return the share of n samples that some process predicted right; each has its own predictions."""
    return sum_over_processes((predicted == labels).sum()).item() / n


def _accuracy_together(model: nn.Module, x: Tensor, y: Tensor, inputs: Inputs | None) -> float:
    """Return `accuracy`, each process predicting its share of the rows."""
    mine = slice(rank(), None, world_size())
    predicted = predict(model, x[mine], inputs=inputs) if len(x) > rank() else y[:0]
    return _share(predicted, y[mine], len(x))


def _of_first(seconds: float) -> float:
    """Return what the first process measured, in every process: histories must not differ."""
    return sum_over_processes(torch.tensor(0.0 if rank() else seconds, dtype=torch.float64)).item()


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
