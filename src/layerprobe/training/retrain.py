"""Training goes on: a trained network learns other labels, until a validation set says that it is enough."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from layerprobe.errors import InputError
from layerprobe.training.loop import (
    Inputs,
    Stop,
    accuracy,
    check_training_data,
    predict,
    share_equal,
    train,
)
from layerprobe.training.recipe import Recipe
from layerprobe.training.state import Epoch

__all__ = ["Measured", "Retrained", "early_stopping", "retrain"]

NEVER = 2.0  # a training accuracy that is not reached


@dataclass(frozen=True)
class Measured:
    """What a network was after an epoch of retraining, all in evaluation mode.

    Attributes
    ----------
    epoch : int
        0 for the network as it was given.
    train_accuracy, true_accuracy : float
        On the training data against the labels it is retrained on, and against the true ones (NaN if not
        given).
    validation_accuracy, evaluation_accuracy : float
        On the data that stop the training, and on those that take no part in it (NaN if not given).
    """

    epoch: int
    train_accuracy: float
    true_accuracy: float
    validation_accuracy: float
    evaluation_accuracy: float


@dataclass(frozen=True, eq=False)
class Retrained:
    """Retrained networks, both in evaluation mode, and how they came about.

    Attributes
    ----------
    last : nn.Module
        The network after the last epoch.
    best : nn.Module
        The network after the best epoch.
    best_epoch : int
        The first epoch from 1 on of the highest validation accuracy.
    history : list of Measured
        One for each epoch, the first for epoch 0.
    """

    last: nn.Module
    best: nn.Module
    best_epoch: int
    history: list[Measured]


def early_stopping(patience: int) -> Stop:
    """Return a stop rule for `train`: so many epochs in a row were no better than the best on its test data.

    Examples
    --------
    >>> accuracies = [0.5, 0.7, 0.6, 0.7]  # equal is not better
    >>> history = [Epoch(i, 1, 1, 1, a, 1) for i, a in enumerate(accuracies, start=1)]
    >>> early_stopping(2)(history), early_stopping(3)(history)
    (True, False)
    """
    if patience < 1:
        raise InputError(f"patience must be at least 1 epoch, got {patience}")

    def stop(history: Sequence[Epoch]) -> bool:
        best = max(history, key=lambda epoch: epoch.test_accuracy)  # the first of equals
        return history[-1].epoch - best.epoch >= patience

    return stop


def retrain(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    *,
    order_seed: int,
    validation: tuple[Tensor, Tensor],
    evaluation: tuple[Tensor, Tensor] | None = None,
    true_labels: Tensor | None = None,
    inputs: Inputs | None = None,
    max_epochs: int = 30,
    patience: int | None = 3,
) -> Retrained:
    """Go on training a copy of a network on these labels with a fresh optimiser (METHOD section 4.4).

    Early stopping looks at epochs from 1 on, so that it may end with a network that is worse on the
    validation data than the one it began with; `Retrained.history` tells. Repeats bit for bit as
    `train` does.

    Parameters
    ----------
    model : nn.Module
        Maps (n, ...) to logits (n, K); it stays as it is. On the same device as the data.
    x : Tensor, shape (n, ...)
        The whole training set.
    y : Tensor, shape (n,), int64
        The labels to train on now.
    recipe : Recipe
        Optimiser, batch size and whether batches are shuffled. Its own ends, `target` and `max_epochs`, do
        not count here.
    order_seed : int
        Draws the batch order of every epoch, and dropout.
    validation : (x, y)
        Decides when training ends and which epoch was the best; never trained on.
    evaluation : (x, y), optional
        Reported in the history, and nothing else.
    true_labels : Tensor, shape (n,), int64, optional
        Reported in the history, never trained on.
    inputs : callable, optional
        As for `train`.
    max_epochs : int
        Training ends after so many epochs at the latest.
    patience : int, optional
        Training ends when so many epochs in a row have not raised the validation accuracy above its best.
        None trains all `max_epochs`.

    Returns
    -------
    Retrained

    Raises
    ------
    InputError
        If labels and inputs do not fit together, there are no validation data, or `max_epochs` or `patience`
        is below 1.
    """
    check_training_data(x, y, true_labels)
    if len(validation[0]) == 0:
        raise InputError("validation needs at least one sample to judge an epoch by; it is empty")
    stop = None if patience is None else early_stopping(patience)
    recipe = replace(recipe, max_epochs=max_epochs, target=NEVER)
    network = copy.deepcopy(model)
    best = network
    history: list[Measured] = []

    def measure(epoch: int, validation_accuracy: float) -> None:
        predicted = predict(network, x, inputs=inputs)
        history.append(
            Measured(
                epoch=epoch,
                train_accuracy=share_equal(predicted, y),
                true_accuracy=math.nan if true_labels is None else share_equal(predicted, true_labels),
                validation_accuracy=validation_accuracy,
                evaluation_accuracy=(
                    math.nan if evaluation is None else accuracy(network, *evaluation, inputs=inputs)
                ),
            )
        )

    def after(epoch: Epoch) -> None:
        nonlocal best
        measure(epoch.epoch, epoch.test_accuracy)
        if _best_epoch(history) == epoch.epoch:
            best = copy.deepcopy(network).eval()

    measure(0, accuracy(network, *validation, inputs=inputs))
    train(
        network,
        x,
        y,
        recipe,
        order_seed=order_seed,
        test=validation,
        inputs=inputs,
        on_epoch=after,
        stop=stop,
    )
    return Retrained(network.eval(), best, _best_epoch(history), history)


def _best_epoch(history: Sequence[Measured]) -> int:
    return max(history[1:], key=lambda measured: measured.validation_accuracy).epoch
