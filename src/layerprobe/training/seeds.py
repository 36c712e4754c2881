"""Where randomness comes from: one seed for the noise, one for the weights, one for the order."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Self

import numpy as np
import torch

from layerprobe.errors import InputError

__all__ = ["Seeds", "seeded"]


@dataclass(frozen=True)
class Seeds:
    """The three independent seeds of one training run.

    Attributes
    ----------
    noise : int
        Draws the corrupted labels.
    init : int
        Draws the initial weights.
    order : int
        Draws the batch order of every epoch, and dropout where there is any.
    """

    noise: int
    init: int
    order: int

    @classmethod
    def derive(cls, seed: int) -> Self:
        """Return three unrelated 32-bit seeds, a fixed function of one non-negative seed."""
        if not isinstance(seed, Integral) or seed < 0:
            raise InputError(f"seed must be an integer that is not negative, got {seed!r}.")
        return cls(*np.random.SeedSequence(seed).generate_state(3).tolist())


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seed torch's global generators from non-negative numbers; restore their states afterwards.

    Examples
    --------
    >>> from layerprobe.networks import MLP
    >>> with seeded(7):
    ...     model = MLP(64)
    """
    # Only a device in use has a state worth keeping; forking them all would wake every GPU.
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))
        yield
