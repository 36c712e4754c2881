"""Seeds of a run, and the software and hardware that produced a result."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from numbers import Integral
from typing import Self

import numpy as np
import torch

from layerprobe.errors import InputError

PACKAGES = ("layerprobe", "torch", "numpy", "scikit-learn", "pandas")


@dataclass(frozen=True)
class Seeds:
    """The three independent seeds of one training run.

    Attributes
    ----------
    noise : int
        Seed of the corrupted labels.
    init : int
        Seed of the initial weights.
    order : int
        Seed of the batch orders and of dropout.
    """

    noise: int
    init: int
    order: int

    @classmethod
    def derive(cls, seed: int) -> Self:
        """Return three unrelated 32-bit seeds, a fixed function of one non-negative seed."""
        if not isinstance(seed, Integral) or seed < 0:
            raise InputError(f"seed must be a non-negative integer, got {seed!r}")
        return cls(*np.random.SeedSequence(seed).generate_state(3).tolist())


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seed torch's global generators from non-negative integers, and restore their states afterwards.

    Examples
    --------
    >>> from layerprobe.networks import MLP
    >>> with seeded(7):
    ...     model = MLP(64)
    """
    # Fork only a GPU in use: forking all of them would initialise every GPU.
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))
        yield


def provenance() -> dict[str, dict[str, str]]:
    """Return the package ``versions`` and the kind of ``host``, without names of users or machines."""
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "host": {
            "system": platform.system(),
            "machine": platform.machine(),
            "cores": str(os.cpu_count()),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        },
    }
