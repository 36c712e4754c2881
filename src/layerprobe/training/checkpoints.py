"""Training state between two epochs, and its files: safetensors with JSON headers, written atomically."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from layerprobe.errors import InputError
from layerprobe.training.recipe import Epoch, Recipe
from layerprobe.utils.files import Location, read_tensors, write_tensors

STATE, WEIGHTS = "training state", "weights"  # kinds of file


@dataclass(frozen=True, eq=False)
class TrainingState:
    """Weights, optimiser state and history after an epoch.

    The state of random generators is not part of it: the random numbers of an epoch depend on the order seed
    and the number of the epoch only.

    Attributes
    ----------
    model : dict of str to Tensor
        The network's ``state_dict``.
    optimizer : dict of str to Tensor
        Tensors of the optimiser, named as ``"fc1.weight.momentum_buffer"``.
    history : tuple of Epoch
        All epochs so far.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    history: tuple[Epoch, ...]

    @classmethod
    def of(cls, model: nn.Module, optimizer: torch.optim.Optimizer, history: list[Epoch]) -> Self:
        """Return the present state, whose tensors are not copied: save or clone them before the next step.

        Parameters
        ----------
        model : nn.Module
            The network in training.
        optimizer : torch.optim.Optimizer
            The optimiser of its parameters.
        history : list of Epoch
            All epochs so far.
        """
        slots = {
            f"{name}.{slot}": value
            for name, parameter in model.named_parameters()
            for slot, value in optimizer.state[parameter].items()
            if isinstance(value, Tensor)
        }
        return cls(model.state_dict(), slots, tuple(history))

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, slots: frozenset[str]) -> None:
        """Copy this state into a network and its new optimiser.

        Parameters
        ----------
        model : nn.Module
            A network of the same architecture.
        optimizer : torch.optim.Optimizer
            Its optimiser, before the first step.
        slots : frozenset of str
            Names of the tensors that the optimiser keeps per parameter, `Recipe.slots`.

        Raises
        ------
        InputError
            If the state belongs to another network or another kind of optimiser.
        """
        saved_slots = {key.rsplit(".", 1)[1] for key in self.optimizer}
        if saved_slots != slots:
            raise InputError(
                f"resume must be a state of the same optimiser, which keeps {sorted(slots)} per parameter; "
                f"this state holds {sorted(saved_slots)}"
            )
        try:
            model.load_state_dict(self.model)
        except RuntimeError as error:
            raise InputError(f"resume must be a state of the same network; {error}") from error
        parameters = dict(model.named_parameters())
        restored: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)
        for key, value in self.optimizer.items():
            name, slot = key.rsplit(".", 1)
            parameter = parameters[name]
            # Fused optimisers need the same memory layout for a parameter and its slots.
            like = parameter if value.shape == parameter.shape else value
            restored[parameter][slot] = torch.empty_like(like, device=parameter.device).copy_(value)
        optimizer.state.update(restored)


def save_checkpoint(path: Location, state: TrainingState) -> None:
    """Write a training state to one file.

    Parameters
    ----------
    path : path
    state : TrainingState
    """
    tensors = {f"model.{name}": value for name, value in state.model.items()}
    tensors |= {f"optimizer.{name}": value for name, value in state.optimizer.items()}
    write_tensors(path, tensors, STATE, {"history": [asdict(epoch) for epoch in state.history]})


def load_checkpoint(path: Location, device: torch.device | str = "cpu") -> TrainingState:
    """Read a file of `save_checkpoint`.

    Parameters
    ----------
    path : path
    device : torch.device or str
        Device of the tensors.

    Raises
    ------
    DataError
        If the file is missing, damaged or of another kind.
    """
    tensors, header = read_tensors(path, STATE, device)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
    for key, value in tensors.items():
        part, name = key.split(".", 1)
        parts[part][name] = value
    return TrainingState(**parts, history=tuple(Epoch(**row) for row in header["history"]))


def save_weights(path: Location, weights: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write the weights of a network.

    Parameters
    ----------
    path : path
    weights : mapping of str to Tensor
        The network's ``state_dict``.
    header : mapping of str to JSON value
        Description of the network.
    """
    write_tensors(path, weights, WEIGHTS, header)


def load_weights(
    path: Location, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the ``state_dict`` and the header from a file of `save_weights`.

    Parameters
    ----------
    path : path
    device : torch.device or str
        Device of the tensors.

    Raises
    ------
    DataError
        If the file is missing, damaged or of another kind.
    """
    return read_tensors(path, WEIGHTS, device)


def chosen_epochs(max_epochs: int) -> list[int]:
    """Return the epochs whose weights the experiments on training dynamics use; 0 is the initial network.

    Examples
    --------
    >>> chosen_epochs(30)
    [0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 25, 30]
    """
    return [e for e in range(max_epochs + 1) if e == 1 or e % (2 if e < 20 else 5) == 0]


def bytes_needed(model: nn.Module, recipe: Recipe, *, keep_chosen: bool = False) -> int:
    """Return the largest disk space of one run, apart from a few kB of header per file.

    During training the last checkpoint and the next one exist side by side.

    Parameters
    ----------
    model : nn.Module
    recipe : Recipe
    keep_chosen : bool
        Include the weights of all `chosen_epochs`.

    Returns
    -------
    int
        Bytes.
    """
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    slots = len(recipe.slots - {"step"}) * sum(tensor.nbytes for tensor in model.parameters())
    kept = len(chosen_epochs(recipe.max_epochs)) if keep_chosen else 0
    return 2 * (weights + slots) + kept * weights
