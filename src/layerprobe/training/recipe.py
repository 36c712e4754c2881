"""How a network is trained: optimiser, batches, and when it ends."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from layerprobe.errors import InputError
from layerprobe.training.state import Epoch

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained (METHOD section 3).

    Attributes
    ----------
    optimizer : {"adam", "sgd"}
        The optimiser, without weight decay or schedule.
    learning_rate : float
        Its step size.
    batch_size : int
        Samples a step; an epoch's last batch may be smaller.
    momentum : float
        For SGD.
    target : float
        Training stops after the epoch whose running training accuracy reaches this.
    max_epochs : int
        Training stops after so many epochs at the latest.
    shuffle : bool
        Draw a new batch order for every epoch. The published study did not: it took the samples as they lie.
    """

    optimizer: Literal["adam", "sgd"]
    learning_rate: float
    batch_size: int
    momentum: float = 0.0
    target: float = 0.999
    max_epochs: int = 500
    shuffle: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_epochs"):
            if int(getattr(self, name)) != getattr(self, name):
                raise InputError(f"{name} must be a whole number, got {getattr(self, name)!r}")
        kinds = {"batch_size": int, "max_epochs": int, "shuffle": bool}
        kinds |= dict.fromkeys(["learning_rate", "momentum", "target"], float)
        for name, kind in kinds.items():
            object.__setattr__(self, name, kind(getattr(self, name)))  # 1, 1.0 and NumPy's 1 are one recipe
        if self.optimizer not in ("adam", "sgd"):
            raise InputError(f"optimizer must be 'adam' or 'sgd', got {self.optimizer!r}")
        for name, at_least in (("batch_size", 1), ("max_epochs", 1), ("momentum", 0)):
            if not getattr(self, name) >= at_least:
                raise InputError(f"{name} must be at least {at_least}, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate must be above 0 and finite, got {self.learning_rate}")
        if self.optimizer == "adam" and self.momentum:
            raise InputError(f"momentum is SGD's; for Adam leave it at 0, got {self.momentum}")
        if not 0 < self.target <= 2:  # a share; above 1 is never reached, and a slip for percent refused
            raise InputError(
                f"target must be a share as 0.999 (above 1: never stop early), got {self.target}"
            )

    @property
    def slots(self) -> frozenset[str]:
        """What the optimiser keeps of each parameter between steps."""
        if self.optimizer == "adam":
            return frozenset({"step", "exp_avg", "exp_avg_sq"})
        return frozenset({"momentum_buffer"} if self.momentum else ())

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the fused optimiser over the model's parameters."""
        if self.optimizer == "adam":
            return torch.optim.Adam(model.parameters(), lr=self.learning_rate, fused=True)
        return torch.optim.SGD(model.parameters(), lr=self.learning_rate, momentum=self.momentum, fused=True)

    def draw_order(self, n: int) -> Tensor:
        """Return the order (n,) in which an epoch takes the samples, from torch's global generator."""
        return (torch.randperm if self.shuffle else torch.arange)(n)

    def has_ended(self, history: Sequence[Epoch]) -> bool:
        """Return whether training stops after these epochs."""
        if not history:
            return False
        last = history[-1]
        return (
            last.epoch >= self.max_epochs
            or last.train_accuracy >= self.target
            or not math.isfinite(last.loss)
        )
