"""Settings of one training run (`Recipe`, `Scale`) and the record of one epoch (`Epoch`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.core.checks import check_count, check_number
from layerprobe.errors import InputError

NEVER = 2.0  # a target accuracy that is never reached


@dataclass(frozen=True)
class Epoch:
    """Loss and accuracies of one pass over the training data.

    Attributes
    ----------
    epoch : int
        Number of the pass, from 1.
    loss : float
        Mean cross entropy of the batches, each measured before its step.
    train_accuracy, true_accuracy : float
        Running accuracy during the pass, against the labels trained on and against the true training labels
        (NaN if these are not given).
    test_accuracy : float
        Accuracy on the test data after the pass (NaN without test data).
    seconds : float
        Wall time of the pass and its test.
    """

    epoch: int
    loss: float
    train_accuracy: float
    true_accuracy: float
    test_accuracy: float
    seconds: float


@dataclass(frozen=True)
class Recipe:
    """Optimiser, batch size and stop rule of a training run.

    Attributes
    ----------
    optimizer : {"adam", "sgd"}
        The optimiser, without weight decay or learning rate schedule.
    learning_rate : float
        Step size.
    batch_size : int
        Rows per step; the last batch of an epoch may be smaller.
    momentum : float
        Momentum of SGD.
    target : float
        Training stops after the epoch whose running training accuracy reaches this share.
    max_epochs : int
        Largest number of epochs.
    shuffle : bool
        Draw a new batch order in every epoch. The published code does not: it keeps the order of the data.
    """

    optimizer: Literal["adam", "sgd"]
    learning_rate: float
    batch_size: int
    momentum: float = 0.0
    target: float = 0.999
    max_epochs: int = 500
    shuffle: bool = True

    def __post_init__(self) -> None:
        kinds: dict[str, type] = {"batch_size": int, "max_epochs": int, "shuffle": bool}
        kinds |= dict.fromkeys(["learning_rate", "momentum", "target"], float)
        for name, kind in kinds.items():
            value: Any = getattr(self, name)
            if not isinstance(value, Real | np.bool_) or (isinstance(value, bool) and kind is not bool):
                raise InputError(f"{name} must be a {'flag' if kind is bool else 'number'}, got {value!r}")
            if kind is int and value % 1 != 0:  # also of NaN and infinity
                raise InputError(f"{name} must be a whole number, got {value!r}")
            object.__setattr__(self, name, kind(value))  # 1, 1.0 and NumPy's 1 give equal recipes
        if self.optimizer not in ("adam", "sgd"):
            raise InputError(f"optimizer must be 'adam' or 'sgd', got {self.optimizer!r}")
        check_count("batch_size", self.batch_size)
        check_count("max_epochs", self.max_epochs)
        check_number("momentum", self.momentum, least=0)
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate must be above 0 and finite, got {self.learning_rate}")
        if self.optimizer == "adam" and self.momentum:
            raise InputError(f"momentum applies to SGD only; for Adam leave it at 0, got {self.momentum}")
        if not 0 < self.target <= NEVER:  # larger values are percentages by mistake
            raise InputError(
                f"target must be a share such as 0.999, or {NEVER:g} to never stop early; got {self.target}"
            )

    @property
    def slots(self) -> frozenset[str]:
        """Names of the tensors that the optimiser keeps per parameter."""
        if self.optimizer == "adam":
            return frozenset({"step", "exp_avg", "exp_avg_sq"})
        return frozenset({"momentum_buffer"} if self.momentum else ())

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the fused optimiser of the model's parameters."""
        if self.optimizer == "adam":
            return torch.optim.Adam(model.parameters(), lr=self.learning_rate, fused=True)
        return torch.optim.SGD(model.parameters(), lr=self.learning_rate, momentum=self.momentum, fused=True)

    def draw_order(self, n: int) -> Tensor:
        """Draw the order (n,) of the rows in one epoch from torch's global generator."""
        return (torch.randperm if self.shuffle else torch.arange)(n)

    def has_ended(self, history: Sequence[Epoch]) -> bool:
        """Return whether training stops after these epochs."""
        if not history:
            return False
        last = history[-1]
        reached = last.epoch >= self.max_epochs or last.train_accuracy >= self.target
        return reached or not math.isfinite(last.loss)


@dataclass(frozen=True)
class Scale:
    """Callable that converts stored images to a network's float32 inputs, on the same device.

    Colour images are returned in the channels-last memory format: the stored order (n, h, w, c) is already
    that format, and convolutions are faster in it.

    Attributes
    ----------
    low, high : float
        Outputs for intensity 0 and for full intensity.
    max_value : float
        Stored value of full intensity.

    Examples
    --------
    >>> Scale(-1, 1)(torch.tensor([[[0, 255]]], dtype=torch.uint8))
    tensor([[[[-1.,  1.]]]])
    """

    low: float
    high: float
    max_value: float = 255

    def __call__(self, images: Tensor) -> Tensor:
        """Return the inputs (n, c, h, w) for images (n, h, w) or (n, h, w, c)."""
        if images.ndim not in (3, 4):
            raise InputError(f"images need shape (n, h, w) or (n, h, w, c), got {tuple(images.shape)}")
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
        inputs = images.to(torch.float32, copy=True)
        return inputs.div_(self.max_value).mul_(self.high - self.low).add_(self.low)
