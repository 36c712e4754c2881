"""The paper's pairs of network and data set, and how each is trained (METHOD section 3)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from layerprobe.errors import InputError
from layerprobe.networks import MLP, build
from layerprobe.training import Recipe, Scale

__all__ = ["PAIRS", "Pair", "pair"]


@dataclass(frozen=True)
class Pair:
    """A network, the data set that it learns, and the recipe.

    Attributes
    ----------
    name : str
        The pair's name, as in `PAIRS`.
    dataset : str
        The name that `layerprobe.data.load` knows the images by.
    train_size : int
        Training images of the whole set, n.
    recipe : Recipe
        Optimiser, batch size, stop rule.
    build : callable
        Makes the network with PyTorch's default initialisation; its keywords are the network's options.
    input_range : (float, float)
        What no intensity and full intensity become.
    """

    name: str
    dataset: str
    train_size: int
    recipe: Recipe
    build: Callable[..., nn.Module]
    input_range: tuple[float, float] = (-1.0, 1.0)

    def network(self, options: Iterable[tuple[str, Any]] = ()) -> nn.Module:
        """Make the network with these options.

        Raises
        ------
        InputError
            If it has no such option.
        """
        try:
            return self.build(**dict(options))
        except TypeError as error:
            raise InputError(f"{self.name} cannot be built with {dict(options)}: {error}") from error

    def scale(self, max_value: float = 255) -> Scale:
        """Return what turns the data set's images, full intensity `max_value`, into inputs."""
        return Scale(*self.input_range, max_value)


def _published(name: str, dataset: str, train_size: int, recipe: Recipe, low: float = -1.0) -> Pair:
    return Pair(name, dataset, train_size, recipe, partial(build, name), (low, 1.0))


# fmt: off
PAIRS: dict[str, Pair] = {
    pair.name: pair
    for pair in (
        _published("mlp-mnist", "mnist", 60_000, Recipe("sgd", 1e-3, 32, momentum=0.9, target=0.999)),
        _published("mlp-cifar10", "cifar-10", 50_000, Recipe("sgd", 1e-3, 32, momentum=0.9, target=1.0)),
        _published("cnn-mnist", "mnist", 60_000, Recipe("adam", 2e-4, 128, target=0.999)),
        _published("cnn-fashion-mnist", "fashion-mnist", 60_000, Recipe("adam", 2e-4, 128, target=0.991)),
        _published("cnn-cifar10", "cifar-10", 50_000, Recipe("adam", 2e-4, 32, target=1.0)),
        _published("alexnet-cifar100", "cifar-100", 50_000, Recipe("adam", 1e-4, 128, target=0.991)),
        _published("alexnet-tiny-imagenet", "tiny-imagenet", 100_000, Recipe("adam", 1e-4, 500, target=0.999),
                   low=0.0),
        _published("resnet18-cifar10", "cifar-10", 50_000, Recipe("sgd", 1e-3, 32, momentum=0.9, target=1.0)),
        # Not the paper's: needs no download and memorises in seconds, for trying everything out.
        Pair("mlp-digits", "digits", 1437, Recipe("adam", 1e-3, 32), partial(MLP, 64, (256, 512, 512))),
    )
}
# fmt: on


def pair(name: str) -> Pair:
    """Return the pair of this name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in PAIRS:
        raise InputError(f"Unknown pair {name!r}. Available: {', '.join(PAIRS)}.")
    return PAIRS[name]
