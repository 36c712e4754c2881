"""What data-parallel training needs: equal beginnings, summed gradients, and networks that allow it."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from layerprobe.errors import InputError
from layerprobe.utils.distributed import require_same, sum_over_processes, world_size

__all__ = ["check_splittable", "require_same_start", "sum_gradients"]


def check_splittable(model: nn.Module) -> None:
    """Refuse a network whose training step depends on which rows of a batch come together.

    Raises
    ------
    InputError
        If it normalises over batches and there are several processes.
    """
    if world_size() == 1:
        return
    found = next((name for name, module in model.named_modules() if isinstance(module, _BatchNorm)), None)
    if found is not None:
        raise InputError(
            f"the network normalises over batches ({found!r}), and each of {world_size()} processes has "
            "only a part of a batch, so that it would not be trained as by one; train it in one process, or "
            "use layers that normalise each row by itself (LayerNorm, GroupNorm)"
        )


def require_same_start(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: Iterable[Tensor | None], rest: str
) -> None:
    """Demand that all processes begin with the same network, optimiser, data and whatever `rest` tells."""
    if world_size() == 1:
        return
    device = next(iter(model.state_dict().values())).device
    slots = [
        value
        for parameter in model.parameters()
        for _, value in sorted(optimizer.state[parameter].items())
        if isinstance(value, Tensor)
    ]
    require_same("network", *model.state_dict().values())
    require_same("data to train and test on", *(tensor for tensor in data if tensor is not None))
    require_same(
        "recipe, order_seed and state to resume", torch.tensor([*rest.encode()], device=device), *slots
    )


def sum_gradients(model: nn.Module) -> None:
    """Replace every process's gradients by their sum over all processes.

    A process without a row has none and adds nothing. All go in one sum for each type of number: a sum costs
    a round of messages, however short.
    """
    if world_size() == 1:
        return
    alike: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = defaultdict(list)
    for parameter in model.parameters():
        if parameter.requires_grad:
            alike[parameter.dtype, parameter.device].append(parameter)
    for parameters in alike.values():
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        total = sum_over_processes(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        for gradient, part in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
