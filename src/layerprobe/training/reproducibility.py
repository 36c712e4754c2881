"""Seeds of a run, and the software and hardware that produced a result."""

import os
import platform
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
