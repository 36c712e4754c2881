import pytest
import torch
from torch import nn

from layerprobe.data import available
from layerprobe.errors import InputError
from layerprobe.paper import PAIRS, pair

# Supplementary Table 1:
# data set, parameters, optimiser, step size, momentum, batch, target, (c, h, w), K.
TABLE = {
    "mlp-mnist": ("mnist", 5_433_994, "sgd", 1e-3, 0.9, 32, 0.999, (1, 28, 28), 10),
    "mlp-cifar10": ("cifar-10", 5_726_858, "sgd", 1e-3, 0.9, 32, 1.0, (3, 32, 32), 10),
    "cnn-mnist": ("mnist", 344_042, "adam", 2e-4, 0.0, 128, 0.999, (1, 28, 28), 10),
    "cnn-fashion-mnist": ("fashion-mnist", 344_042, "adam", 2e-4, 0.0, 128, 0.991, (1, 28, 28), 10),
    "cnn-cifar10": ("cifar-10", 456_330, "adam", 2e-4, 0.0, 32, 1.0, (3, 32, 32), 10),
    "alexnet-cifar100": ("cifar-100", 20_495_268, "adam", 1e-4, 0.0, 128, 0.991, (3, 32, 32), 100),
    "alexnet-tiny-imagenet": ("tiny-imagenet", 21_123_080, "adam", 1e-4, 0.0, 500, 0.999, (3, 64, 64), 200),
    "resnet18-cifar10": ("cifar-10", 11_173_962, "sgd", 1e-3, 0.9, 32, 1.0, (3, 32, 32), 10),
}


def test_registry_has_the_papers_pairs_and_mlp_digits():
    assert list(PAIRS) == [*TABLE, "mlp-digits"]
    assert all(name == pair(name).name for name in PAIRS)


@pytest.mark.parametrize("name", TABLE)
def test_pair_is_as_published(name):
    dataset, parameters, optimizer, learning_rate, momentum, batch_size, target, size, classes = TABLE[name]
    found = pair(name)
    assert found.dataset == dataset
    assert dataset in available()
    recipe = found.recipe
    assert (recipe.optimizer, recipe.learning_rate, recipe.momentum) == (optimizer, learning_rate, momentum)
    assert (recipe.batch_size, recipe.target, recipe.max_epochs) == (batch_size, target, 500)
    network = found.build()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    images = torch.randint(0, 256, (2, *size[1:], *([3] if size[0] == 3 else [])), dtype=torch.uint8)
    x = found.scale()(images)
    assert x.shape == (2, *size)
    with torch.inference_mode():
        assert network.eval()(x).shape == (2, classes)


@pytest.mark.parametrize("name", PAIRS)
def test_inputs_span_the_published_range(name):
    black_and_white = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    low = 0.0 if name == "alexnet-tiny-imagenet" else -1.0
    assert pair(name).scale()(black_and_white).flatten().tolist() == [low, 1.0]


def test_digits_pair_fits_its_images():
    digits = pair("mlp-digits")
    images = torch.full((2, 8, 8), 16, dtype=torch.uint8)
    x = digits.scale(max_value=16)(images)
    assert x.unique().tolist() == [1.0]
    network = digits.build()
    assert network(x).shape == (2, 10)
    assert [m.out_features for m in network if isinstance(m, nn.Linear)] == [256, 512, 512, 10]


def test_unknown_pair_raises_and_lists_the_registered():
    with pytest.raises(InputError, match=r"There is no pair 'mlp'. Available: mlp-mnist, .*mlp-digits"):
        pair("mlp")
