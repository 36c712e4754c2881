"""From pixels as they are stored to what a network takes, a batch at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from layerprobe.errors import InputError

__all__ = ["Scale"]


@dataclass(frozen=True)
class Scale:
    """Callable that turns stored images into a network's float32 inputs, on the device they are on.

    Colour images come out in the channels-last memory format, in which convolutions are faster and which the
    stored order (n, h, w, c) already is.

    Attributes
    ----------
    low, high : float
        What no intensity and full intensity become.
    max_value : float
        The stored value of full intensity.

    Examples
    --------
    >>> Scale(-1, 1)(torch.tensor([[[0, 255]]], dtype=torch.uint8))
    tensor([[[[-1.,  1.]]]])
    """

    low: float
    high: float
    max_value: float = 255

    def __call__(self, images: Tensor) -> Tensor:
        """Return inputs (n, c, h, w) of images (n, h, w) or (n, h, w, c)."""
        if images.ndim not in (3, 4):
            raise InputError(f"images need shape (n, h, w) or (n, h, w, c), got {tuple(images.shape)}")
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
        inputs = images.to(torch.float32, copy=True)
        return inputs.div_(self.max_value).mul_(self.high - self.low).add_(self.low)
