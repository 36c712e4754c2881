"""Retraining of a trained network on other labels, with early stopping on validation data."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from layerprobe.core.checks import check_count
from layerprobe.errors import InputError
from layerprobe.training.loop import Inputs, Stop, accuracy, check_training_data, predict, share_equal, train
from layerprobe.training.recipe import NEVER, Epoch, Recipe
from layerprobe.utils.settings import default_settings


@dataclass(frozen=True)
class RetrainingEpoch:
    """Accuracies of a network after one epoch of retraining, all in evaluation mode.

    Attributes
    ----------
    epoch : int
        0 for the given network.
    train_accuracy, true_accuracy : float
        On the training data, against the labels of the retraining and against the true labels (NaN if not
        given).
    validation_accuracy, evaluation_accuracy : float
        On the validation data, and on the evaluation data (NaN if not given).
    """

    epoch: int
    train_accuracy: float
    true_accuracy: float
    validation_accuracy: float
    evaluation_accuracy: float


@dataclass(frozen=True, eq=False)
class RetrainingResult:
    """Retrained networks, in evaluation mode, and the history.

    Attributes
    ----------
    last : nn.Module
        The network after the last epoch.
    best : nn.Module
        The network after the best epoch.
    best_epoch : int
        The first epoch, from 1 on, with the highest validation accuracy.
    history : list of RetrainingEpoch
        One entry per epoch; the first is epoch 0.
    """

    last: nn.Module
    best: nn.Module
    best_epoch: int
    history: list[RetrainingEpoch]


def early_stopping(patience: int) -> Stop:
    """Return a stop rule for `train`: stop after `patience` epochs without a higher test accuracy.

    Examples
    --------
    >>> accuracies = [0.5, 0.7, 0.6, 0.7]  # an equal accuracy is not an improvement
    >>> history = [Epoch(i, 1, 1, 1, a, 1) for i, a in enumerate(accuracies, start=1)]
    >>> early_stopping(2)(history), early_stopping(3)(history)
    (True, False)
    """
    check_count("patience", patience)

    def stop(history: Sequence[Epoch]) -> bool:
        if math.isnan(history[-1].test_accuracy):
            raise InputError("early stopping compares test accuracies: give train() the data test=(x, y)")
        best = max(history, key=lambda epoch: epoch.test_accuracy)  # the first of equals
        return history[-1].epoch - best.epoch >= patience

    return stop


@default_settings(gradients=True)
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
) -> RetrainingResult:
    """Continue the training of a copy of a network on other labels with a fresh optimiser.

    This is the retraining of arXiv 2501.14687. Early stopping considers the epochs from 1 on, so the result
    may be worse on the validation data than the given network; compare `RetrainingResult.history`. Repeats
    bit for bit as `train` does.

    Parameters
    ----------
    model : nn.Module
        Maps (n, ...) to logits (n, K); not changed. On the same device as the data.
    x : Tensor, shape (n, ...)
        The whole training set.
    y : Tensor, shape (n,), int64
        Labels to train on.
    recipe : Recipe
        Optimiser, batch size and shuffling. Its `target` and `max_epochs` are not used.
    order_seed : int
        Seed of the batch orders and of dropout.
    validation : (x, y)
        Data for early stopping and for the choice of the best epoch.
    evaluation : (x, y), optional
        Data for the history only.
    true_labels : Tensor, shape (n,), int64, optional
        True labels, for the history only.
    inputs : callable, optional
        As for `train`.
    max_epochs : int
        Largest number of epochs.
    patience : int, optional
        Training ends after this number of successive epochs without a higher validation accuracy. None
        trains for `max_epochs`.

    Returns
    -------
    RetrainingResult

    Raises
    ------
    InputError
        If the labels do not match the inputs, the validation data are empty, or `max_epochs` or `patience`
        is below 1.
    """
    check_training_data(x, y, true_labels, validation=validation, evaluation=evaluation)
    stop = None if patience is None else early_stopping(patience)
    recipe = replace(recipe, max_epochs=max_epochs, target=NEVER)
    network = copy.deepcopy(model)
    best = network
    history: list[RetrainingEpoch] = []

    def measure(epoch: int, validation_accuracy: float) -> None:
        predicted = predict(network, x, inputs=inputs)
        measured = RetrainingEpoch(
            epoch=epoch,
            train_accuracy=share_equal(predicted, y),
            true_accuracy=math.nan if true_labels is None else share_equal(predicted, true_labels),
            validation_accuracy=validation_accuracy,
            evaluation_accuracy=accuracy(network, *evaluation, inputs=inputs) if evaluation else math.nan,
        )
        history.append(measured)

    def best_epoch() -> int:
        return max(history[1:], key=lambda epoch: epoch.validation_accuracy).epoch

    def note(epoch: Epoch) -> None:
        nonlocal best
        measure(epoch.epoch, epoch.test_accuracy)
        if best_epoch() == epoch.epoch:
            best = copy.deepcopy(network).eval()

    measure(0, accuracy(network, *validation, inputs=inputs))
    train(
        network, x, y, recipe, order_seed=order_seed, test=validation, inputs=inputs, on_epoch=note, stop=stop
    )
    return RetrainingResult(network.eval(), best, best_epoch(), history)
