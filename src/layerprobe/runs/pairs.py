"""Pairs of a network and a data set, registered by name."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from layerprobe.errors import InputError
from layerprobe.training import Recipe, Scale
from layerprobe.utils.registry import Registry, calling_module


@dataclass(frozen=True)
class Pair:
    """A network, the data set it is trained on, and the training recipe.

    Attributes
    ----------
    name : str
        The name of the pair, its key in `PAIRS`.
    dataset : str
        The name of the data set for `layerprobe.data.load`.
    train_size : int
        Number n of training images in the whole data set.
    recipe : Recipe
        Optimiser, batch size and stopping rule.
    build : callable
        Build the network with PyTorch's default initialisation. Its keywords are the options of the network.
    input_range : (float, float)
        Inputs of the network for zero intensity and for full intensity.
    """

    name: str
    dataset: str
    train_size: int
    recipe: Recipe
    build: Callable[..., nn.Module]
    input_range: tuple[float, float] = (-1.0, 1.0)

    def network(self, options: Iterable[tuple[str, Any]] = ()) -> nn.Module:
        """Build the network with these options.

        Raises
        ------
        InputError
            If the network does not have one of the options.
        """
        try:
            return self.build(**dict(options))
        except TypeError as error:
            raise InputError(f"{self.name} cannot be built with {dict(options)}: {error}") from error

    def scale(self, max_value: float = 255) -> Scale:
        """Return the map from images with full intensity `max_value` to inputs of the network."""
        return Scale(*self.input_range, max_value)


def _check(name: str, pair: Any) -> Pair:
    if not isinstance(pair, Pair):
        raise InputError(f"expected a layerprobe.paper.Pair as {name!r}, got {type(pair).__name__}")
    if pair.name != name:
        raise InputError(f"expected a pair of the name {name!r}, got one of the name {pair.name!r}")
    return pair


PAIRS: Registry[Pair] = Registry("pair", "layerprobe.pairs", _check)
"""The registered pairs. Worker processes and clusters get those of the process that sends them work."""


def register_pair(pair: Pair) -> Pair:
    """Register a pair of your own by its name, for runs, experiments and the option --pair; return it.

    Installed packages register theirs by the entry points "layerprobe.pairs".

    Raises
    ------
    InputError
        If the name is that of one of layerprobe's own pairs.
    """
    return PAIRS.register(getattr(pair, "name", ""), pair, calling_module())


def pair(name: str) -> Pair:
    """Return the pair of this name.

    Raises
    ------
    InputError
        If no pair of this name is registered.
    """
    return PAIRS[name]
