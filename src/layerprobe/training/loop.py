"""The training loop, for one or several processes; the host does not wait for the device in an epoch."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from layerprobe.errors import InputError, warn
from layerprobe.training.checkpoints import TrainingState
from layerprobe.training.recipe import Epoch, Recipe
from layerprobe.utils.distributed import rank, require_same, sum_over_processes, world_size
from layerprobe.utils.settings import default_settings, evaluation_mode, outer_settings, seeded

Inputs = Callable[[Tensor], Tensor]
Stop = Callable[[Sequence[Epoch]], bool]


@default_settings(gradients=True)
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
    """Train a network in place until its running training accuracy reaches the target.

    The random numbers of an epoch depend on `order_seed` and the number of the epoch only, and torch's global
    generators are restored. With one CPU thread a run repeats bit for bit, also if it was interrupted between
    two epochs.

    In a job of several processes (`layerprobe.distributed.group`) all processes call this function with equal
    arguments. Each processes its share of the rows of every batch, and gradients and counts are summed, so
    that steps and history equal those of one process up to rounding. Dropout is the exception: its masks
    differ per process and repeat only for an equal number of processes.

    Parameters
    ----------
    model : nn.Module
        Maps (n, ...) to logits (n, K); on the same device as the data.
    x : Tensor, shape (n, ...)
        The whole training set.
    y : Tensor, shape (n,), int64, or (n, K), floating point
        Labels to train on, possibly wrong; or class probabilities, whose most probable class counts for the
        running accuracy.
    recipe : Recipe
        Optimiser, batch size and stop rule.
    order_seed : int
        Seed of the batch orders and of dropout.
    true_labels : Tensor, shape (n,), int64, optional
        True labels, for the history only.
    test : (x, y), optional
        Test data, for the history only.
    inputs : callable, optional
        Converts a batch of `x` to the network's inputs, for instance a `Scale` for uint8 images.
    earlier : sequence of Epoch, optional
        History of the network before this training, which continues it with a fresh optimiser. The new epochs
        are numbered after it, and at least one is trained.
    resume : TrainingState, optional
        State to continue from instead of the network's present weights.
    save : callable, optional
        Called with the `TrainingState` after each epoch, before `on_epoch`, in the first process only.
    on_epoch : callable, optional
        Called with each `Epoch` after `save`, in every process.
    stop : callable, optional
        Additional stop rule: maps the history to whether training ends. It must depend on the history only,
        so that a resumed run ends at the same epoch.

    Returns
    -------
    list of Epoch
        The history, including that of `earlier` or `resume`. The target was reached if
        ``history[-1].train_accuracy >= recipe.target``. Training also ends when the loss is not finite,
        with a warning.

    Raises
    ------
    InputError
        If there are no rows, the labels do not match the inputs, or `resume` belongs to another network or
        optimiser. With several processes, also if their arguments differ or the network uses batch
        normalisation.
    ProcessError
        If another process of the job ended.
    """
    if not isinstance(model, nn.Module) or not isinstance(recipe, Recipe):
        raise InputError(
            f"expected an nn.Module and a Recipe, got {type(model).__name__} and {type(recipe).__name__}"
        )
    check_training_data(x, y, true_labels, soft=True, test=test)
    labels = y.argmax(1) if y.ndim == 2 else y
    optimizer = recipe.build_optimizer(model)
    history = list(earlier)
    if resume:
        resume.restore(model, optimizer, recipe.slots)
        history = list(resume.history)
    data = [x, y, true_labels, *(test or ())]
    _check_processes(model, optimizer, data, f"{recipe} {order_seed} {history}")
    while len(history) == len(earlier) or not (recipe.has_ended(history) or (stop and stop(history))):
        start = time.perf_counter()
        number = len(history) + 1
        with seeded(order_seed, number):
            order = recipe.draw_order(len(x)).to(x.device)
            # Processes need different dropout masks; the first one draws the masks of a single process.
            with seeded(order_seed, number, rank()) if rank() else nullcontext():
                loss, rows, predicted = _train_epoch(model, x, y, order, recipe, optimizer, inputs)
        epoch = Epoch(
            epoch=number,
            loss=sum_over_processes(loss.double()).item(),
            train_accuracy=_share(predicted, labels[rows], len(x)),
            true_accuracy=math.nan if true_labels is None else _share(predicted, true_labels[rows], len(x)),
            test_accuracy=math.nan if test is None else _accuracy_over_processes(model, *test, inputs),
            seconds=_seconds_of_first_process(time.perf_counter() - start),
        )
        history.append(epoch)
        if save and rank() == 0:
            save(TrainingState.of(model, optimizer, history))
        if on_epoch:
            on_epoch(epoch)
    warn_if_diverged(history)
    return history


def warn_if_diverged(history: Sequence[Epoch]) -> None:
    """Warn if training ended because its loss is not finite."""
    last = history[-1]
    if not math.isfinite(last.loss):
        warn(
            f"Training ended after epoch {last.epoch}, since its loss is {last.loss}: use a lower learning "
            "rate, or check that the inputs and the outputs of the network are finite."
        )


def check_training_data(
    x: Tensor,
    y: Tensor,
    true_labels: Tensor | None = None,
    *,
    soft: bool = False,
    **others: tuple[Tensor, Tensor] | None,
) -> None:
    """Raise InputError unless all are tensors of rows, with exactly one valid label per row.

    Parameters
    ----------
    x : Tensor, shape (n, ...)
    y, true_labels : Tensor, shape (n,), int64
    soft : bool
        Also accept class probabilities (n, K) as `y`.
    **others : (x, y), optional
        Other data by name.
    """
    _require_tensors(x=x, y=y, true_labels=true_labels)
    if not len(x):
        raise InputError("training needs at least one sample; x is empty")
    if soft and y.ndim == 2 and y.is_floating_point():
        if len(y) != len(x):
            raise InputError(f"y needs shape ({len(x)},), one label for each input; got ({len(y)},)")
        bad = ~(y.isfinite() & (y >= 0)).all(1)
        if bad.any():
            row = int(bad.nonzero()[0])
            said = f"class probabilities must be finite and not negative; row {row} is {y[row].tolist()}"
            raise InputError(said)
    else:
        _check_labels("y", y, x)
    if true_labels is not None:
        _check_labels("true_labels", true_labels, x)
    for name, data in others.items():
        if data is None:
            continue
        if not isinstance(data, tuple | list) or len(data) != 2:
            raise InputError(f"{name} must be a pair (x, y) of tensors, got {type(data).__name__}")
        _require_tensors(**{f"{name}[0]": data[0], f"{name}[1]": data[1]})
        if not len(data[0]):
            raise InputError(f"{name} needs at least one sample; it is empty")
        _check_labels(f"the labels of {name}", data[1], data[0])


def _require_tensors(**values: Tensor | None) -> None:
    for name, value in values.items():
        if value is not None and (not isinstance(value, Tensor) or not value.ndim):
            hint = f": torch.as_tensor({name})" if hasattr(value, "__array__") else ""
            raise InputError(f"{name} must be a tensor of n rows, got {type(value).__name__}{hint}")


def _check_labels(name: str, y: Tensor, x: Tensor) -> None:
    if y.shape != x.shape[:1]:
        raise InputError(f"{name} needs shape ({len(x)},), one label for each input; got {tuple(y.shape)}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InputError(f"{name} must be whole numbers, the classes 0..K-1, got {y.dtype}: y.long()")
    if int(y.min()) < 0:
        raise InputError(
            f"{name} must be the classes 0..K-1, got {int(y.min())}, and {int((y < 0).sum())} negative ones: "
            "leave out rows without a label"
        )


def _train_epoch(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    order: Tensor,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    inputs: Inputs | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Train on every row once; return this process's part of the mean loss, its rows and their predictions.

    Both are Tensors of shape (m,), int64, in the order of the rows; labels are predicted before each step.
    """
    num_classes = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
    model.train()
    total_loss = torch.zeros((), device=x.device)
    rows, predicted = [order[:0]], [order[:0]]  # a process may get no rows
    for batch in order.split(recipe.batch_size):
        own = batch[rank() :: world_size()]
        optimizer.zero_grad()
        if len(own):
            with outer_settings():
                logits = model(inputs(x[own]) if inputs else x[own])
            check_outputs(logits, len(own), num_classes)
            loss = cross_entropy(logits, y[own])
            (loss * (len(own) / len(batch))).backward()
            # Losses and predictions stay on the device until the end of the epoch: no synchronisation here.
            total_loss = total_loss + loss.detach() * len(own)  # float64 for a float64 network
            rows.append(own)
            predicted.append(logits.detach().argmax(1))
        _sum_gradients(model)
        optimizer.step()
    return total_loss / len(order), torch.cat(rows), torch.cat(predicted)


def check_outputs(logits: object, n: int, num_classes: int) -> None:
    """Raise unless a network returns logits (n, K) for all classes.

    Parameters
    ----------
    logits : object
    n, num_classes : int

    Raises
    ------
    InputError
    """
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else None
    if shape is None or len(shape) != 2 or shape[0] != n or shape[1] < num_classes:
        got = type(logits).__name__ if shape is None else f"the shape {shape}"
        raise InputError(
            f"the labels have {num_classes} classes, so the network must return logits ({n}, K) with "
            f"K of at least {num_classes}; got {got}"
        )


# Data-parallel training. With one process these functions do nothing.


def _check_processes(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: Iterable[Tensor | None], settings: str
) -> None:
    """Raise if a batch cannot be split, or processes start with other networks, data or settings."""
    if world_size() == 1:
        return
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            raise InputError(
                f"layer {name!r} normalises over batches, and each of {world_size()} processes has only a "
                "part of a batch; train this network in one process, or use layers that normalise per row "
                "(LayerNorm, GroupNorm)"
            )
    weights = list(model.state_dict().values())
    slots = [slot for _, slot in sorted(TrainingState.of(model, optimizer, []).optimizer.items())]
    require_same("network", *weights)
    require_same("data to train and test on", *(tensor for tensor in data if tensor is not None))
    text = torch.tensor([*settings.encode()], device=weights[0].device)
    require_same("recipe, order_seed and state to resume", text, *slots)


def _sum_gradients(model: nn.Module) -> None:
    """Replace the gradients by their sums over all processes, one message per dtype and device."""
    if world_size() == 1:
        return
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:  # a process without rows adds zero
                parameter.grad = torch.zeros_like(parameter)
            groups[parameter.dtype, parameter.device].append(parameter.grad)
    for gradients in groups.values():
        total = sum_over_processes(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        for gradient, part in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _share(predicted: Tensor, labels: Tensor, n: int) -> float:
    """Return the share of correct predictions among n rows, summed over processes."""
    return sum_over_processes((predicted == labels).sum()).item() / n


def _accuracy_over_processes(model: nn.Module, x: Tensor, y: Tensor, inputs: Inputs | None) -> float:
    """Return `accuracy`; each process predicts its share of the rows."""
    own = slice(rank(), None, world_size())
    predicted = predict(model, x[own], inputs=inputs) if len(x) > rank() else y[:0]
    return _share(predicted, y[own], len(x))


def _seconds_of_first_process(seconds: float) -> float:
    """Return the first process's time in every process, so that histories are equal."""
    return sum_over_processes(torch.tensor(0.0 if rank() else seconds, dtype=torch.float64)).item()


# Evaluation.


@default_settings()
def accuracy(
    model: nn.Module, x: Tensor, y: Tensor, *, inputs: Inputs | None = None, batch_size: int = 256
) -> float:
    """Return the share of rows whose label the network predicts, in evaluation mode.

    Parameters
    ----------
    model : nn.Module
        Maps inputs to logits (n, K).
    x : Tensor, shape (n, ...)
    y : Tensor, shape (n,), int64
    inputs : callable, optional
        As for `train`.
    batch_size : int
        Rows per forward pass.
    """
    return share_equal(predict(model, x, inputs=inputs, batch_size=batch_size), y)


@default_settings()
def predict(model: nn.Module, x: Tensor, *, inputs: Inputs | None = None, batch_size: int = 256) -> Tensor:
    """Return the labels (n,) that the network predicts in evaluation mode.

    Parameters
    ----------
    model : nn.Module
        Maps inputs to logits (n, K).
    x : Tensor, shape (n, ...)
    inputs : callable, optional
        As for `train`.
    batch_size : int
        Rows per forward pass.
    """
    with evaluation_mode(model), outer_settings():
        batches = (inputs(batch) if inputs else batch for batch in x.split(batch_size))
        return torch.cat([model(batch).argmax(1) for batch in batches])


def share_equal(predicted: Tensor, labels: Tensor) -> float:
    """Return the share of equal entries of two label tensors.

    Parameters
    ----------
    predicted, labels : Tensor, shape (n,)
    """
    return (predicted == labels).double().mean().item()
