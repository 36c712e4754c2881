"""Rows of a labelled dataset for display: pixels or texts."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


class ChannelRange:
    """The smallest and largest value of every channel, to display floating-point images as pixels.

    Rows of floats are images where their shape is (h, w), (1, h, w) or (3, h, w). Their values may be scaled
    or normalised: each channel's range over all rows is mapped to 0..255.
    """

    def __init__(self) -> None:
        self.low: Tensor | float = torch.inf
        self.high: Tensor | float = -torch.inf

    def update(self, values: Any) -> bool:
        """Extend the range by a batch (b, ...), and return whether its values are floating-point images."""
        is_image = isinstance(values, Tensor) and len(values) > 0 and _is_float_image(values[0])
        if is_image:
            planes = values if values.ndim == 4 else values[:, None]
            low, high = planes.amin((0, 2, 3)).cpu(), planes.amax((0, 2, 3)).cpu()  # (c,)
            self.low = torch.minimum(low, torch.as_tensor(self.low, dtype=low.dtype))
            self.high = torch.maximum(high, torch.as_tensor(self.high, dtype=high.dtype))
        return is_image

    def display(self, value: Any) -> np.ndarray | str | None:
        """Return one row as uint8 pixels (h, w) or (h, w, 3), as a text, or None if it is neither."""
        if isinstance(value, str):
            return value
        if not isinstance(value, Tensor):
            return None
        value = value.detach().cpu()
        if value.dtype == torch.uint8 and value.ndim in (2, 3):
            is_last = value.ndim == 2 or value.shape[2] in (1, 3)
            return _channels_last(value if is_last else value.permute(1, 2, 0))
        if not _is_float_image(value):
            return None
        planes = value if value.ndim == 3 else value[None]
        low, high = (torch.as_tensor(v, dtype=value.dtype).reshape(-1, 1, 1) for v in (self.low, self.high))
        levels = 255 * (planes - low) / (high - low).clamp(min=torch.finfo(value.dtype).tiny)
        return _channels_last(levels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0))


def _is_float_image(value: Tensor) -> bool:
    shaped = value.ndim == 2 or (value.ndim == 3 and value.shape[0] in (1, 3))
    return value.is_floating_point() and shaped and min(value.shape[-2:]) > 1


def _channels_last(pixels: Tensor) -> np.ndarray | None:
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3):
        return None
    array = pixels.numpy()
    return np.ascontiguousarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)
