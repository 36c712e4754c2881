"""The paper's networks; each layer that the paper probes is a module of that name."""

from layerprobe.networks.mlp import MLP

__all__ = ["MLP"]
