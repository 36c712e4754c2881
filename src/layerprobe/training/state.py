"""What a training run is after an epoch: its history, and all that the next epoch depends on."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from layerprobe.errors import InputError

__all__ = ["Epoch", "TrainingState"]


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training data showed.

    Attributes
    ----------
    epoch : int
        1 for the first pass.
    loss : float
        Mean cross entropy of the batches, each before its step.
    train_accuracy, true_accuracy : float
        Running accuracy of the same predictions against the labels trained on, and against the true
        training labels (NaN if not given).
    test_accuracy : float
        Accuracy on the test data after the pass (NaN if not given).
    seconds : float
        Wall time of the pass and its test.
    """

    epoch: int
    loss: float
    train_accuracy: float
    true_accuracy: float
    test_accuracy: float
    seconds: float


@dataclass(frozen=True, eq=False)
class TrainingState:
    """Weights, optimiser and history between two epochs.

    No generator's state is among them: all that is random in an epoch is drawn anew from the order seed and
    the epoch's number.

    Attributes
    ----------
    model : dict of str to Tensor
        The network's ``state_dict``.
    optimizer : dict of str to Tensor
        What the optimiser keeps of each parameter, as ``"fc1.weight.momentum_buffer"``.
    history : tuple of Epoch
        Every epoch so far.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    history: tuple[Epoch, ...]

    @classmethod
    def of(cls, model: nn.Module, optimizer: torch.optim.Optimizer, history: list[Epoch]) -> Self:
        """Return the state now. Its tensors are those in use: save or clone them before the next step."""
        slots = {
            f"{name}.{slot}": value
            for name, parameter in model.named_parameters()
            for slot, value in optimizer.state[parameter].items()
            if isinstance(value, Tensor)
        }
        return cls(model.state_dict(), slots, tuple(history))

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, expected_slots: frozenset[str]
    ) -> None:
        """Copy the weights and the optimiser's tensors into a network and its new optimiser.

        Raises
        ------
        InputError
            If the state is that of another network, or of an optimiser that keeps other slots.
        """
        held_slots = {key.rsplit(".", 1)[1] for key in self.optimizer}
        if held_slots != expected_slots:
            raise InputError(
                f"resume must be a state of the same optimiser, which keeps {sorted(expected_slots)} of each "
                f"parameter; this state holds {sorted(held_slots)}"
            )
        try:
            model.load_state_dict(self.model)
        except RuntimeError as error:
            raise InputError(f"resume must be a state of the same network; {error}") from error
        parameters = dict(model.named_parameters())
        slots: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)
        for key, value in self.optimizer.items():
            name, slot = key.rsplit(".", 1)
            parameter = parameters[name]
            # Fused kernels walk parameter and slot side by side in memory: both need the same layout.
            like = parameter if value.shape == parameter.shape else value
            slots[parameter][slot] = torch.empty_like(like, device=parameter.device).copy_(value)
        optimizer.state.update(slots)
