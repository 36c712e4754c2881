"""Training of several runs of one architecture at once: every operation processes all runs (torch.vmap)."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy
from torch.nn.modules.dropout import _DropoutNd

from layerprobe.errors import InputError
from layerprobe.training.checkpoints import TrainingState
from layerprobe.training.loop import Inputs, check_outputs, check_training_data, share_equal, warn_if_diverged
from layerprobe.training.recipe import Epoch, Recipe
from layerprobe.utils.settings import default_settings, outer_settings, seeded


@default_settings(gradients=True)
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
    """Train R networks of one architecture side by side, each as `train` trains it alone.

    Each run has its own initial weights, labels, batch orders and last epoch. Stacking small networks uses a
    large GPU better; on a CPU separate processes are faster. The speed on a GPU has not been measured.

    Weights and histories equal those of separate runs except for the order of floating point additions. In
    float64 weights differ by less than 1e-10 relative to a tensor's largest entry (MLP, CNN, AlexNet and
    ResNet-18, a few steps on a CPU). In float32, after 3 epochs, small networks differ by 1e-7 with SGD and
    up to 2e-4 with Adam; AlexNet by up to 3 % after 26 steps of Adam; ResNet-18 by up to 12 % after 4 steps
    of SGD. Differences grow with the epochs, as they do between machines.

    Memory grows with the number of runs: weights, gradients, optimiser state and activations of a batch. When
    the set of active runs changes, weights and optimiser state exist twice for a moment.

    Parameters
    ----------
    models : sequence of nn.Module
        R networks, all on the device of the data. Each receives its weights when its run ends.
    x : Tensor, shape (n, ...)
        The training set of all runs.
    ys : Tensor, shape (R, n), or R Tensors of shape (n,), int64
        Labels per run.
    recipe : Recipe
        Optimiser, batch size and stop rule of all runs.
    order_seeds : sequence of int
        Seed of the batch orders per run.
    true_labels, test, inputs : optional
        As for `train`, the same for all runs.
    resume : sequence of TrainingState or None, optional
        State per run, of `train` or of this function; None starts the run. Runs with fewer epochs are trained
        first until all have the same number.
    save : callable, optional
        Called with the number of the run, 0 to R-1, and its `TrainingState`, after each epoch. When a run
        ends, its network has its weights before this call.
    on_epoch : callable, optional
        Called with the number of the run and its `Epoch`, after the epochs of all runs were saved.

    Returns
    -------
    list of list of Epoch
        History per run, including that of `resume`. `Epoch.seconds` is the time of the pass divided by the
        number of runs in it.

    Raises
    ------
    InputError
        If the networks have different architectures or use dropout, the numbers of networks, label sets and
        seeds differ, labels do not match x, or `resume` belongs to other networks or another optimiser.
    """
    resume = [None] * len(models) if resume is None else resume
    _check(models, x, ys, order_seeds, true_labels, test, resume)
    labels = torch.stack(list(ys))  # (R, n)
    for model, state in zip(models, resume, strict=True):
        if state:
            state.restore(model, recipe.build_optimizer(model), recipe.slots)
    states = {r: state or TrainingState(models[r].state_dict(), {}, ()) for r, state in enumerate(resume)}
    histories = [list(state.history) for state in states.values()]
    stacked: list[int] = []
    while left := [r for r, history in enumerate(histories) if not recipe.has_ended(history)]:
        fewest = min(len(histories[r]) for r in left)
        active = [r for r in left if len(histories[r]) == fewest]
        if active != stacked:
            # `pop` drops the references to the previous stack, so that its memory is freed.
            stack = _Stack(models[0], [states.pop(r) for r in active], recipe, x.device)
            stacked = active
        start = time.perf_counter()
        orders = torch.stack([_order(recipe, len(x), order_seeds[r], fewest + 1) for r in active])
        orders = orders.to(x.device)  # (R, n)
        own = labels[active].gather(1, orders)
        losses, predicted = _train_epoch(stack, x, own, orders, recipe.batch_size, inputs)
        tested = [math.nan] * len(active)
        if test is not None:
            tested = [share_equal(predicted, test[1]) for predicted in _predict(stack, test[0], inputs)]
        seconds = (time.perf_counter() - start) / len(active)
        for i, r in enumerate(active):
            true = math.nan if true_labels is None else share_equal(predicted[i], true_labels[orders[i]])
            epoch = Epoch(
                epoch=fewest + 1,
                loss=losses[i].item(),
                train_accuracy=share_equal(predicted[i], own[i]),
                true_accuracy=true,
                test_accuracy=tested[i],
                seconds=seconds,
            )
            histories[r].append(epoch)
            states[r] = stack.state(i, histories[r])
            ended = recipe.has_ended(histories[r])
            if ended:
                models[r].load_state_dict(states[r].model)
            if save:
                save(r, states[r])
            if ended:
                del states[r]
        if on_epoch:
            for r in active:
                on_epoch(r, histories[r][-1])
    for history in histories:
        warn_if_diverged(history)
    return histories


def stackable(model: nn.Module) -> bool:
    """Return whether `train_stacked` accepts the network.

    It has no dropout, no parameter under two names, and no buffer outside its state_dict.
    """
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    names |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    shared = len(names) > len([*model.parameters(), *model.buffers()])
    dropout = any(isinstance(module, _DropoutNd) and module.p for module in model.modules())
    return not (dropout or shared or names - model.state_dict().keys())


class _Stack:
    """Parameters and buffers of R networks by name, with the run as first dimension."""

    def __init__(
        self, model: nn.Module, states: Sequence[TrainingState], recipe: Recipe, device: torch.device
    ) -> None:
        """Stack runs of the model's architecture, all after the same number of steps."""

        def stack(tensors: list[Tensor]) -> Tensor:
            return torch.stack(tensors).contiguous().to(device)

        self.skeleton = copy.deepcopy(model).to("meta")  # the computation without weights
        names = self.skeleton.state_dict()
        self.buffers = {name: stack([state.model[name] for state in states]) for name in names}
        self.parameters = {
            name: nn.Parameter(self.buffers.pop(name), parameter.requires_grad)
            for name, parameter in self.skeleton.named_parameters()
        }
        # The optimisers work elementwise, so one optimiser of the stacked parameters serves every run.
        self.optimizer = recipe.build_optimizer(nn.ParameterList(self.parameters.values()))
        for key in states[0].optimizer:
            name, slot = key.rsplit(".", 1)
            slots = stack([state.optimizer[key] for state in states])
            self.optimizer.state[self.parameters[name]][slot] = slots[0] if slot == "step" else slots

    def logits(self, x: Tensor, *, per_run: bool) -> Tensor:
        """Return logits (R, n, K) of inputs (R, n, ...) per run, or (n, ...) common to all runs."""
        forward = partial(functional_call, self.skeleton)
        state = self.parameters | self.buffers
        with outer_settings():
            return vmap(lambda state, x: forward(state, (x,)), in_dims=(0, 0 if per_run else None))(state, x)

    def state(self, i: int, history: list[Epoch]) -> TrainingState:
        """Return the state of run i, in tensors that share the stack's memory."""
        weights = {name: tensor.detach()[i] for name, tensor in (self.parameters | self.buffers).items()}
        slots = {
            f"{name}.{slot}": value[i] if value.ndim else value
            for name, parameter in self.parameters.items()
            for slot, value in self.optimizer.state[parameter].items()
            if isinstance(value, Tensor)
        }
        return TrainingState(weights, slots, tuple(history))


def _train_epoch(
    stack: _Stack, x: Tensor, labels: Tensor, orders: Tensor, batch_size: int, inputs: Inputs | None
) -> tuple[Tensor, Tensor]:
    """Train on every row once; return the mean losses (R,) and the predicted labels (R, n)."""
    stack.skeleton.train()
    R, n = orders.shape
    total_losses, num_classes = torch.zeros(R, device=x.device), int(labels.max()) + 1
    predicted = []
    for rows, y in zip(orders.split(batch_size, 1), labels.split(batch_size, 1), strict=True):
        batch = x[rows.flatten()]
        batch = (inputs(batch) if inputs else batch).unflatten(0, rows.shape)
        logits = stack.logits(batch, per_run=True)
        check_outputs(logits[0], rows.shape[1], num_classes)
        losses = cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(1)
        stack.optimizer.zero_grad()
        losses.sum().backward()  # a run's loss depends on its own weights only
        stack.optimizer.step()
        # Losses and predictions stay on the device until the end of the epoch, as in `train`.
        total_losses = total_losses + losses.detach() * y.shape[1]  # float64 for a float64 network
        predicted.append(logits.detach().argmax(2))
    return total_losses / n, torch.cat(predicted, 1)


def _predict(stack: _Stack, x: Tensor, inputs: Inputs | None, batch_size: int = 1024) -> Tensor:
    """Return the labels (R, n) that each run predicts for x (n, ...), in evaluation mode."""
    stack.skeleton.eval()
    with torch.no_grad():
        batches = (inputs(batch) if inputs else batch for batch in x.split(batch_size))
        return torch.cat([stack.logits(batch, per_run=False).argmax(2) for batch in batches], 1)


def _order(recipe: Recipe, n: int, order_seed: int, epoch: int) -> Tensor:
    """Draw the batch order of one epoch of one run, as `train` does."""
    with seeded(order_seed, epoch):
        return recipe.draw_order(n)


def _check(
    models: Sequence[nn.Module],
    x: Tensor,
    ys: Sequence[Tensor] | Tensor,
    order_seeds: Sequence[int],
    true_labels: Tensor | None,
    test: tuple[Tensor, Tensor] | None,
    resume: Sequence[TrainingState | None],
) -> None:
    """Raise if the arguments of `train_stacked` do not fit together."""
    if not len(models) == len(ys) == len(order_seeds) == len(resume) > 0:
        raise InputError(
            "expected at least one model, and labels, an order seed and, where runs are resumed, a state or "
            f"None for each; got {len(models)} models, {len(ys)} sets of labels, {len(order_seeds)} seeds, "
            f"{len(resume)} states"
        )
    for y in ys:
        check_training_data(x, y, true_labels, test=test)
    shapes = [
        [(name, t.shape, t.dtype, t.requires_grad) for name, t in model.state_dict(keep_vars=True).items()]
        for model in models
    ]
    if any(type(model) is not type(models[0]) for model in models) or any(s != shapes[0] for s in shapes):
        raise InputError("stacked runs need networks of one architecture; train other networks separately")
    if not stackable(models[0]):
        raise InputError(
            "stacked runs do not support dropout, whose masks would differ from those of separate runs, "
            "parameters with two names, and buffers outside the state_dict; train these networks one by one, "
            "with train()"
        )
