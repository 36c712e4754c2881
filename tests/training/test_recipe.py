import math
from dataclasses import replace

import pytest
import torch

from layerprobe.errors import InputError
from layerprobe.training import Recipe, Scale


@pytest.mark.parametrize(("low", "high", "max_value"), [(-1, 1, 255), (0, 1, 255), (-1, 1, 16)])
def test_scale_maps_intensities_to_range(low, high, max_value):
    images = torch.tensor([[[0, max_value]]], dtype=torch.uint8)
    assert Scale(low, high, max_value)(images).flatten().tolist() == [low, high]


def test_scale_equals_formula():
    images = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    assert torch.equal(Scale(-1, 1)(images)[:, 0], images.float() / 255 * 2 - 1)


def test_scale_returns_channels_first_in_channels_last_format():
    assert Scale(0, 1)(torch.zeros(2, 5, 4, dtype=torch.uint8)).shape == (2, 1, 5, 4)
    colour = torch.arange(24, dtype=torch.uint8).view(2, 2, 2, 3)
    batch = Scale(0, 255)(colour)
    assert batch.shape == (2, 3, 2, 2)
    assert batch[1, 2, 0, 1] == colour[1, 0, 1, 2]
    assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_scale_does_not_change_images(dtype):
    images = torch.ones(1, 2, 2, dtype=dtype)
    Scale(-1, 1)(images)
    assert torch.equal(images, torch.ones(1, 2, 2, dtype=dtype))


def test_scale_rejects_other_shapes():
    with pytest.raises(InputError, match=r"\(n, h, w\) or \(n, h, w, c\), got \(2, 3\)"):
        Scale(-1, 1)(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adagrad"}, "'adam' or 'sgd', got 'adagrad'"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": "0.1"}, "learning_rate must be a number, got '0.1'"),
        ({"batch_size": None}, "batch_size must be a number, got None"),
        ({"batch_size": True}, "batch_size must be a number, got True"),
        ({"max_epochs": math.nan}, "max_epochs must be a whole number, got nan"),
        ({"shuffle": "yes"}, "shuffle must be a flag, got 'yes'"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"max_epochs": 0}, "max_epochs must be a whole number of at least 1, got 0"),
        ({"target": 99.0}, "a share such as 0.999, or 2 to never stop early; got 99"),
        ({"momentum": -0.1}, "momentum must be a number of at least 0, got -0.1"),
    ],
)
def test_invalid_recipe_raises(changes, message):
    with pytest.raises(InputError, match=message):
        replace(Recipe("adam", learning_rate=3e-3, batch_size=32), **changes)
