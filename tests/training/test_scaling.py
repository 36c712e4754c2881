import pytest
import torch

from layerprobe.errors import InputError
from layerprobe.training import Scale


@pytest.mark.parametrize(("low", "high", "max_value"), [(-1, 1, 255), (0, 1, 255), (-1, 1, 16)])
def test_intensities_go_to_the_range_given(low, high, max_value):
    images = torch.tensor([[[0, max_value]]], dtype=torch.uint8)
    assert Scale(low, high, max_value)(images).flatten().tolist() == [low, high]


def test_every_pixel_has_the_bits_of_the_formula():
    images = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    assert torch.equal(Scale(-1, 1)(images)[:, 0], images.float() / 255 * 2 - 1)


def test_grey_images_get_a_channel_and_colours_come_first_in_the_channels_last_format():
    assert Scale(0, 1)(torch.zeros(2, 5, 4, dtype=torch.uint8)).shape == (2, 1, 5, 4)
    colour = torch.arange(24, dtype=torch.uint8).view(2, 2, 2, 3)
    batch = Scale(0, 255)(colour)
    assert batch.shape == (2, 3, 2, 2)
    assert batch[1, 2, 0, 1] == colour[1, 0, 1, 2]
    assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_images_stay_as_they_are(dtype):
    images = torch.ones(1, 2, 2, dtype=dtype)
    Scale(-1, 1)(images)
    assert torch.equal(images, torch.ones(1, 2, 2, dtype=dtype))


def test_what_is_no_batch_of_images_is_refused():
    with pytest.raises(InputError, match=r"\(n, h, w\) or \(n, h, w, c\), got \(2, 3\)"):
        Scale(-1, 1)(torch.zeros(2, 3))
