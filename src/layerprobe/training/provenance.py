"""How a result came about: the versions and the kind of machine, and nothing that names a person or place."""

import os
import platform
from importlib.metadata import version

import torch

__all__ = ["provenance"]

PACKAGES = ("layerprobe", "torch", "numpy", "scikit-learn", "pandas")


def provenance() -> dict[str, dict[str, str]]:
    """Return JSON-able ``versions`` (of Python and the packages that compute) and ``host`` (its kind)."""
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "host": {
            "system": platform.system(),
            "machine": platform.machine(),
            "cores": str(os.cpu_count()),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        },
    }
