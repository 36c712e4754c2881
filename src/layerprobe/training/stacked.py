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
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy
from torch.nn.modules.dropout import _DropoutNd

from layerprobe.errors import InputError
from layerprobe.training.loop import Inputs, share_equal
from layerprobe.training.recipe import Recipe
from layerprobe.training.seeds import seeded
from layerprobe.training.state import Epoch, TrainingState

__all__ = ["stackable", "train_stacked"]


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
    resume: Sequence[TrainingState | None] | None = None,
    save: Callable[[int, TrainingState], object] | None = None,
    on_epoch: Callable[[int, Epoch], object] | None = None,
) -> list[list[Epoch]]:
    """Train R networks of one architecture side by side, each as `train` would train it alone.

    Each run has its own initial weights, labels, batch order and end; only the work is shared, so that a
    small network fills a large device. Weights and histories are those of separate runs but for the order in
    which numbers are added: weights differ by less than 1e-10 in float64, relative to a tensor's largest, for
    MLP, CNN, AlexNet and ResNet-18 after a few steps on a CPU. In float32 small networks differ, after 3
    epochs, by 1e-7 with SGD and up to 2e-4 with Adam; AlexNet after 26 steps of Adam by up to 3 %, where a
    separate run from initial weights that are one rounding off ends further away; ResNet-18
    after 4 steps of SGD by up to 12 %. Such differences grow over epochs, as they do between machines.

    Batch normalisation is done for each run. It is meant for CUDA; we have not timed it on a GPU. On a CPU
    separate processes are faster. Memory grows by weights, gradients, what the optimiser keeps and a batch's
    activations for each run; while a run leaves or joins, weights and slots are there twice.

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
    resume : sequence of TrainingState or None, optional
        R states, of `train` or of this function, each at its own epoch; None begins that run. Runs that are
        behind catch up with the others first.
    save : callable, optional
        Called with the number of the run, 0 to R-1, and its `TrainingState`, after each epoch. A run that
        ends with it has its weights in its network by then.
    on_epoch : callable, optional
        Called with the number of the run and each `Epoch` of it, when every run's epoch is saved.

    Returns
    -------
    list of list of Epoch
        The history of each run, that of `resume` included. `Epoch.seconds` is the time of the pass divided by
        the number of runs in it.

    Raises
    ------
    InputError
        If the networks are not of one architecture, there is not exactly one set of labels and one seed for
        each, labels do not fit x, the networks drop units (train those with `train`, one by one), or `resume`
        is not of these networks and this optimiser.
    """
    resume = [None] * len(models) if resume is None else resume
    _check(models, x, ys, order_seeds, true_labels, resume)
    labels = torch.stack(list(ys))  # (R, n)
    for model, state in zip(models, resume, strict=True):
        if state:
            state.restore(model, recipe.build_optimizer(model), recipe.slots)
    states = {r: state or TrainingState(models[r].state_dict(), {}, ()) for r, state in enumerate(resume)}
    histories = [list(state.history) for state in states.values()]
    stacked: list[int] = []
    while left := [r for r, history in enumerate(histories) if not recipe.has_ended(history)]:
        fewest = min(len(histories[r]) for r in left)
        running = [r for r in left if len(histories[r]) == fewest]
        if running != stacked:
            # Taken out of `states`, so that the memory of the stack before is free.
            stack = _Stack.of(models[0], [states.pop(r) for r in running], recipe, x.device)
            stacked = running
        start = time.perf_counter()
        orders = torch.stack([_order(recipe, len(x), order_seeds[r], fewest + 1) for r in running])
        orders = orders.to(x.device)  # (R, n)
        own = labels[running].gather(1, orders)
        losses, predicted = _one_pass(stack, x, own, orders, recipe.batch_size, inputs)
        tested = [math.nan] * len(running)
        if test is not None:
            tested = [share_equal(predicted, test[1]) for predicted in _predict(stack, test[0], inputs)]
        seconds = (time.perf_counter() - start) / len(running)
        for i, r in enumerate(running):
            epoch = Epoch(
                epoch=fewest + 1,
                loss=losses[i].item(),
                train_accuracy=share_equal(predicted[i], own[i]),
                true_accuracy=(
                    math.nan if true_labels is None else share_equal(predicted[i], true_labels[orders[i]])
                ),
                test_accuracy=tested[i],
                seconds=seconds,
            )
            histories[r].append(epoch)
            states[r] = stack.state(i, histories[r])
            if recipe.has_ended(histories[r]):
                models[r].load_state_dict(states[r].model)
            if save:
                save(r, states[r])
            if recipe.has_ended(histories[r]):
                del states[r]
        if on_epoch:
            for r in running:
                on_epoch(r, histories[r][-1])
    return histories


def stackable(model: nn.Module) -> bool:
    """Return whether `train_stacked` takes such a network: the dropout of separate runs it cannot repeat."""
    return not any(isinstance(module, _DropoutNd) and module.p for module in model.modules())


@dataclass
class _Stack:
    """R networks as one: parameters and buffers by name, each with the run as its first dimension."""

    skeleton: nn.Module  # on the meta device: the computation without weights
    parameters: dict[str, nn.Parameter]
    buffers: dict[str, Tensor]
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(
        cls, model: nn.Module, states: Sequence[TrainingState], recipe: Recipe, device: torch.device
    ) -> Self:
        """Stack runs of the model's architecture, all of which have taken the same number of steps."""

        def stack(tensors: list[Tensor]) -> Tensor:
            return torch.stack(tensors).contiguous().to(device)

        skeleton = copy.deepcopy(model).to("meta")
        held = {name: stack([state.model[name] for state in states]) for name in skeleton.state_dict()}
        parameters = {name: nn.Parameter(held.pop(name)) for name, _ in skeleton.named_parameters()}
        # Optimisers work on each number by itself, so that of the stack is that of every run.
        optimizer = recipe.build_optimizer(nn.ParameterList(parameters.values()))
        for key, first in states[0].optimizer.items():
            name, slot = key.rsplit(".", 1)
            own = [state.optimizer[key] for state in states]
            optimizer.state[parameters[name]][slot] = stack(own) if first.ndim else stack(own)[0]  # the step
        return cls(skeleton, parameters, held, optimizer)

    def logits(self, x: Tensor, *, own: bool) -> Tensor:
        """Return (R, n, K) of inputs (R, n, ...), each run's `own`, or (n, ...), the same for all."""
        forward = partial(functional_call, self.skeleton)
        state = self.parameters | self.buffers
        return vmap(lambda state, x: forward(state, (x,)), in_dims=(0, 0 if own else None))(state, x)

    def state(self, i: int, history: list[Epoch]) -> TrainingState:
        """Return run i's state now, in tensors that share the stack's memory."""
        weights = {name: tensor.detach()[i] for name, tensor in (self.parameters | self.buffers).items()}
        slots = {
            f"{name}.{slot}": value[i] if value.ndim else value
            for name, parameter in self.parameters.items()
            for slot, value in self.optimizer.state[parameter].items()
            if isinstance(value, Tensor)
        }
        return TrainingState(weights, slots, tuple(history))


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
        return recipe.draw_order(n)


def _check(
    models: Sequence[nn.Module],
    x: Tensor,
    ys: Sequence[Tensor] | Tensor,
    order_seeds: Sequence[int],
    true_labels: Tensor | None,
    resume: Sequence[TrainingState | None],
) -> None:
    if not len(models) == len(ys) == len(order_seeds) == len(resume) > 0:
        raise InputError(
            "expected at least one model, and labels, an order seed and, where runs are resumed, a state or "
            f"None for each; got {len(models)} models, {len(ys)} sets of labels, {len(order_seeds)} seeds, "
            f"{len(resume)} states"
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
    if not stackable(models[0]):
        raise InputError(
            "stacked runs cannot repeat the dropout of separate runs; train such networks one by one, "
            "with train()"
        )
