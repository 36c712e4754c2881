"""Training on disk: safetensors with JSON headers, each file replaced at once, so never half-written."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from layerprobe.training.recipe import Recipe
from layerprobe.training.state import Epoch, TrainingState
from layerprobe.utils.files import read_tensors, write_tensors

__all__ = [
    "bytes_needed",
    "chosen_epochs",
    "load_checkpoint",
    "load_weights",
    "save_checkpoint",
    "save_weights",
]

STATE, WEIGHTS = "training state", "weights"
Location = str | os.PathLike[str]


def save_checkpoint(path: Location, state: TrainingState) -> None:
    """Write weights, optimiser and history into one file, which therefore never disagrees with itself."""
    tensors = {f"model.{name}": value for name, value in state.model.items()}
    tensors |= {f"optimizer.{name}": value for name, value in state.optimizer.items()}
    write_tensors(path, tensors, STATE, {"history": [asdict(epoch) for epoch in state.history]})


def load_checkpoint(path: Location, device: torch.device | str = "cpu") -> TrainingState:
    """Read what `save_checkpoint` wrote.

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
    """Write a network's ``state_dict`` and a JSON-able header that says what it is of."""
    write_tensors(path, weights, WEIGHTS, header)


def load_weights(
    path: Location, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the ``state_dict`` and the header that `save_weights` wrote.

    Raises
    ------
    DataError
        If the file is missing, damaged or of another kind.
    """
    return read_tensors(path, WEIGHTS, device)


def chosen_epochs(max_epochs: int) -> list[int]:
    """Return the epochs at which the follow-up study probes (METHOD section 5): 0 is the initial network.

    Examples
    --------
    >>> chosen_epochs(30)
    [0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 25, 30]
    """
    return [e for e in range(max_epochs + 1) if e == 1 or e % (2 if e < 20 else 5) == 0]


def bytes_needed(model: nn.Module, recipe: Recipe, *, keep_chosen: bool = False) -> int:
    """Return the disk space that one run takes at most, headers of a few kB a file aside.

    While it trains that is the last checkpoint beside the one being written, and with `keep_chosen` the
    weights of every chosen epoch up to the recipe's last.
    """
    weights = _bytes(model.state_dict().values())
    slots = len(recipe.slots - {"step"}) * _bytes(model.parameters())
    kept = len(chosen_epochs(recipe.max_epochs)) if keep_chosen else 0
    return 2 * (weights + slots) + kept * weights


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
