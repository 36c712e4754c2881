"""Several runs of one network as one: every operation works on all of them at once."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy
from torch.nn.modules.dropout import _DropoutNd

from layerprobe.errors import InputError
from layerprobe.training.loop import Inputs, Recipe, _ended, _share_equal
from layerprobe.training.seeds import seeded
from layerprobe.training.state import Epoch

__all__ = ["train_stacked"]


def train_stacked(
    models: Sequence[nn.Module],
    x: Tensor,
    ys: Sequence[Tensor] | Tensor,
    recipe: Recipe,
    *,
    order_seeds: Sequence[int],
    true_labels: Tensor | None = None,
    test: tuple[Tensor, Tensor] | None = None,
    inputs: Inputs | None = None,
    on_epoch: Callable[[int, Epoch], object] | None = None,
) -> list[list[Epoch]]:
    """Train R networks of one architecture side by side, each as `train` would train it alone.

    Each run has its own initial weights, labels, batch order and end; only the work is shared, so that a
    small network fills a large device. Weights and histories are those of separate runs but for the order in
    which numbers are added: after 3 epochs of small networks on a CPU, weights differ by less than 1e-10 in
    float64; in float32 by 1e-7 with SGD and up to 2e-4 with Adam, all relative to a tensor's largest. Over
    many epochs such differences grow, as they do between machines.
    Batch normalisation is done for each run. It is meant for CUDA; we have not timed it on a GPU. On a CPU
    separate processes are faster.

    Parameters
    ----------
    models : sequence of nn.Module
        R networks, all on the device of the data. Each gets its weights when its run ends.
    x : Tensor, shape (n, ...)
        The training set of all runs.
    ys : Tensor, shape (R, n), or R Tensors of shape (n,), int64
        The labels that each run trains on.
    recipe : Recipe
        Optimiser, batch size and stop rule of all runs.
    order_seeds : sequence of int
        R seeds of the batch orders.
    true_labels, test, inputs : optional
        As for `train`, the same for all runs.
    on_epoch : callable, optional
        Called with the number of the run, 0 to R-1, and each `Epoch` of it.

    Returns
    -------
    list of list of Epoch
        The history of each run. `Epoch.seconds` is the time of the pass divided by the number of runs in it.

    Raises
    ------
    InputError
        If the networks are not of one architecture, there is not exactly one set of labels and one seed for
        each, labels do not fit x, or the networks drop units: train those with `train`, one by one.
    """
    _check(models, x, ys, order_seeds, true_labels)
    labels = torch.stack(list(ys))  # (R, n)
    stack = _Stack.of(models, recipe)
    histories: list[list[Epoch]] = [[] for _ in models]
    running = list(range(len(models)))
    while running:
        start = time.perf_counter()
        orders = torch.stack([_order(recipe, len(x), order_seeds[r], len(histories[r]) + 1) for r in running])
        orders = orders.to(x.device)  # (R, n)
        own = labels[running].gather(1, orders)
        losses, predicted = _one_pass(stack, x, own, orders, recipe.batch_size, inputs)
        tested = [math.nan] * len(running)
        if test is not None:
            tested = [_share_equal(predicted, test[1]) for predicted in _predict(stack, test[0], inputs)]
        seconds = (time.perf_counter() - start) / len(running)
        for i, r in enumerate(running):
            epoch = Epoch(
                epoch=len(histories[r]) + 1,
                loss=losses[i].item(),
                train_accuracy=_share_equal(predicted[i], own[i]),
                true_accuracy=(
                    math.nan if true_labels is None else _share_equal(predicted[i], true_labels[orders[i]])
                ),
                test_accuracy=tested[i],
                seconds=seconds,
            )
            histories[r].append(epoch)
            if on_epoch:
                on_epoch(r, epoch)
        going = [i for i, r in enumerate(running) if not _ended(histories[r], recipe)]
        for i in set(range(len(running))) - set(going):
            stack.copy_to(models[running[i]], i)
        if len(going) < len(running):
            stack.keep(going)
            running = [running[i] for i in going]
    return histories


@dataclass
class _Stack:
    """R networks as one: parameters and buffers by name, each with the run as its first dimension."""

    skeleton: nn.Module  # on the meta device: the computation without weights
    parameters: dict[str, nn.Parameter]
    buffers: dict[str, Tensor]
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, models: Sequence[nn.Module], recipe: Recipe) -> Self:
        stacked, buffers = stack_module_state(list(models))
        parameters = {name: nn.Parameter(tensor) for name, tensor in stacked.items()}
        skeleton = copy.deepcopy(models[0]).to("meta")
        # Optimisers work on each number by itself, so that of the stack is that of every run.
        optimizer = recipe.build_optimizer(nn.ParameterList(parameters.values()))
        return cls(skeleton, parameters, buffers, optimizer)

    def logits(self, x: Tensor, *, own: bool) -> Tensor:
        """Return (R, n, K) of inputs (R, n, ...), each run's `own`, or (n, ...), the same for all."""
        forward = partial(functional_call, self.skeleton)
        state = self.parameters | self.buffers
        return vmap(lambda state, x: forward(state, (x,)), in_dims=(0, 0 if own else None))(state, x)

    def copy_to(self, model: nn.Module, i: int) -> None:
        """Write run i's weights and buffers into its network."""
        with torch.no_grad():
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                tensor.copy_((self.parameters | self.buffers)[name][i])

    def keep(self, going: list[int]) -> None:
        """Go on with these runs alone."""
        for parameter in self.parameters.values():
            parameter.data, parameter.grad = parameter.data[going], None
            slots = self.optimizer.state[parameter]
            slots |= {name: slot[going] for name, slot in slots.items() if slot.ndim}  # not the step count
        self.buffers = {name: buffer[going] for name, buffer in self.buffers.items()}


def _one_pass(
    stack: _Stack, x: Tensor, labels: Tensor, orders: Tensor, batch_size: int, inputs: Inputs | None
) -> tuple[Tensor, Tensor]:
    """Train on every sample once; return mean losses, (R,), and the labels predicted on the way, (R, n)."""
    stack.skeleton.train()
    R, n = orders.shape
    total_losses = torch.zeros(R, device=x.device)
    predicted = []
    for rows, y in zip(orders.split(batch_size, 1), labels.split(batch_size, 1), strict=True):
        batch = x[rows.flatten()]
        batch = (inputs(batch) if inputs else batch).unflatten(0, rows.shape)
        logits = stack.logits(batch, own=True)
        losses = cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(1)
        stack.optimizer.zero_grad()
        losses.sum().backward()  # no run's weights touch another's loss
        stack.optimizer.step()
        # Nothing here waits for the device, as in `train`.
        total_losses += losses.detach() * y.shape[1]
        predicted.append(logits.detach().argmax(2))
    return total_losses / n, torch.cat(predicted, 1)


def _predict(stack: _Stack, x: Tensor, inputs: Inputs | None, batch_size: int = 1024) -> Tensor:
    """Return the labels (R, n) that each run predicts for x (n, ...), in evaluation mode."""
    stack.skeleton.eval()
    with torch.no_grad():
        batches = [inputs(batch) if inputs else batch for batch in x.split(batch_size)]
        return torch.cat([stack.logits(batch, own=False).argmax(2) for batch in batches], 1)


def _order(recipe: Recipe, n: int, order_seed: int, epoch: int) -> Tensor:
    """Draw the batch order of one epoch of one run: the same as in `train`."""
    with seeded(order_seed, epoch):
        return (torch.randperm if recipe.shuffle else torch.arange)(n)


def _check(
    models: Sequence[nn.Module],
    x: Tensor,
    ys: Sequence[Tensor] | Tensor,
    order_seeds: Sequence[int],
    true_labels: Tensor | None,
) -> None:
    if not len(models) == len(ys) == len(order_seeds) > 0:
        raise InputError(
            "expected at least one model, and labels and an order seed for each; got "
            f"{len(models)} models, {len(ys)} sets of labels, {len(order_seeds)} seeds"
        )
    if len(x) == 0 or any(y.shape != x.shape[:1] for y in ys):
        raise InputError(
            "each set of labels needs one label for each input, and there must be some; got labels of "
            f"lengths {', '.join(str(y.numel()) for y in ys)} for {len(x)} inputs"
        )
    if true_labels is not None and true_labels.shape != x.shape[:1]:
        raise InputError(f"true_labels needs shape ({len(x)},), got {tuple(true_labels.shape)}")
    shapes = [[(name, t.shape, t.dtype) for name, t in model.state_dict().items()] for model in models]
    if any(type(model) is not type(models[0]) for model in models) or any(s != shapes[0] for s in shapes):
        raise InputError(
            "stacked runs need networks of one architecture; train others in a stack of their own"
        )
    if any(isinstance(module, _DropoutNd) and module.p for module in models[0].modules()):
        raise InputError(
            "stacked runs cannot repeat the dropout of separate runs; train such networks one by one, "
            "with train()"
        )
