"""The paper's pairs of network and data set, and their training recipes (supplementary Table 1).

Importing this module registers them, as importing `layerprobe.paper` does.
"""

from functools import partial

from layerprobe.networks import MLP, build
from layerprobe.runs.pairs import PAIRS, Pair
from layerprobe.training import Recipe


def _published(name: str, dataset: str, train_size: int, recipe: Recipe, low: float = -1.0) -> Pair:
    return Pair(name, dataset, train_size, recipe, partial(build, name), (low, 1.0))


# fmt: off
_PAIRS = (
    _published("mlp-mnist", "mnist", 60_000, Recipe("sgd", 1e-3, 32, momentum=0.9, target=0.999)),
    _published("mlp-cifar10", "cifar-10", 50_000, Recipe("sgd", 1e-3, 32, momentum=0.9, target=1.0)),
    _published("cnn-mnist", "mnist", 60_000, Recipe("adam", 2e-4, 128, target=0.999)),
    _published("cnn-fashion-mnist", "fashion-mnist", 60_000, Recipe("adam", 2e-4, 128, target=0.991)),
    _published("cnn-cifar10", "cifar-10", 50_000, Recipe("adam", 2e-4, 32, target=1.0)),
    _published("alexnet-cifar100", "cifar-100", 50_000, Recipe("adam", 1e-4, 128, target=0.991)),
    _published("alexnet-tiny-imagenet", "tiny-imagenet", 100_000, Recipe("adam", 1e-4, 500, target=0.999),
               low=0.0),
    _published("resnet18-cifar10", "cifar-10", 50_000, Recipe("sgd", 1e-3, 32, momentum=0.9, target=1.0)),
    # Not one of the paper's: it needs no download and is trained in seconds.
    Pair("mlp-digits", "digits", 1437, Recipe("adam", 1e-3, 32), partial(MLP, 64, (256, 512, 512))),
)
# fmt: on
PAIRS.own({pair.name: pair for pair in _PAIRS})
PAPER_PAIRS = tuple(pair.name for pair in _PAIRS if pair.name != "mlp-digits")
