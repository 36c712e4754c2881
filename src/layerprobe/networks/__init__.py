"""Networks of arXiv 2501.14687 and their published weights.

Each network has an attribute ``probed_layers``, a mapping from the paper's layer names to module names.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from layerprobe.errors import InputError, unknown_name
from layerprobe.networks.architectures import CNN, MLP, AlexNet, ResNet18
from layerprobe.networks.weights import load_published, load_state, read_state_dict

__all__ = [
    "CNN",
    "MLP",
    "AlexNet",
    "ResNet18",
    "available",
    "build",
    "load_published",
    "load_state",
    "read_state_dict",
]

REGISTRY: dict[str, Callable[..., nn.Module]] = {
    "mlp-mnist": partial(MLP, 28 * 28),
    "mlp-cifar10": partial(MLP, 3 * 32 * 32),
    "cnn-mnist": partial(CNN, 1, 28),
    "cnn-fashion-mnist": partial(CNN, 1, 28),
    "cnn-cifar10": partial(CNN, 3, 32),
    "alexnet-cifar100": partial(AlexNet, (3, 2, 1), (3, 1), num_classes=100),
    "alexnet-tiny-imagenet": partial(AlexNet, (11, 4, 2), (5, 2), num_classes=200),
    "resnet18-cifar10": ResNet18,
}


def available() -> list[str]:
    """Return the names of the paper's eight pairs of network and data set."""
    return list(REGISTRY)


def build(pair: str, **options: Any) -> nn.Module:
    """Build the network of a pair, with PyTorch's default initialisation.

    Parameters
    ----------
    pair : str
        One of `available`.
    **options
        ``num_classes`` for all networks, ``hidden`` for MLPs, ``dropout`` for CNNs, ``maxpool`` for
        ResNet-18.

    Returns
    -------
    nn.Module

    Raises
    ------
    InputError
        If the pair or an option is unknown.

    Examples
    --------
    >>> sum(weights.numel() for weights in build("cnn-cifar10").parameters())
    456330
    """
    if pair not in REGISTRY:
        raise unknown_name("pair", pair, REGISTRY)
    network = REGISTRY[pair]
    known = list(inspect.signature(network).parameters)
    if unknown := [name for name in options if name not in known]:
        raise InputError(f"{pair} has the options {', '.join(known)}, not {', '.join(unknown)}.")
    return network(**options)
