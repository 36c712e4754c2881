"""A row of a model's input as what a person looks at: a picture, a text, or nothing."""

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

__all__ = ["Levels", "pixel_inputs"]


def pixel_inputs(pixels: Tensor) -> Tensor:
    """Make float32 (b, 1 or 3, h, w) in [0, 1] of uint8 pixels (b, h, w) or (b, h, w, 3)."""
    channels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return channels.to(torch.float32, memory_format=torch.contiguous_format) / 255


class Levels:
    """The range of every channel over all rows, which tells how numbers become pixels again.

    Rows of floats are pictures where they have the shape (h, w), (1, h, w) or (3, h, w): scaled pixels, or
    normalised ones, whose channels are brought back by their smallest and largest values.
    """

    def __init__(self) -> None:
        self.low: Tensor | float = torch.inf
        self.high: Tensor | float = -torch.inf

    def update(self, rows: Any) -> Self:
        """Widen the range to these rows (b, ...); what is no picture is passed over."""
        if isinstance(rows, Tensor) and len(rows) and _is_floats(rows[0]):
            planes = rows if rows.ndim == 4 else rows[:, None]
            low, high = planes.amin((0, 2, 3)).cpu(), planes.amax((0, 2, 3)).cpu()  # (c,)
            self.low = torch.minimum(low, torch.as_tensor(self.low, dtype=low.dtype))
            self.high = torch.maximum(high, torch.as_tensor(self.high, dtype=high.dtype))
        return self

    def picture(self, row: Any) -> np.ndarray | str | None:
        """Show one row: uint8 pixels (h, w) or (h, w, 3), a text, or None."""
        if isinstance(row, str):
            return row
        if not isinstance(row, Tensor):
            return None
        row = row.detach().cpu()
        if row.dtype == torch.uint8 and row.ndim in (2, 3):
            return _channels_last(row if row.ndim == 2 or row.shape[2] in (1, 3) else row.permute(1, 2, 0))
        if not _is_floats(row):
            return None
        planes = row if row.ndim == 3 else row[None]
        low, high = (torch.as_tensor(end, dtype=row.dtype).reshape(-1, 1, 1) for end in (self.low, self.high))
        levels = 255 * (planes - low) / (high - low).clamp(min=torch.finfo(row.dtype).tiny)
        return _channels_last(levels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0))


def _is_floats(row: Tensor) -> bool:
    shaped = row.ndim == 2 or (row.ndim == 3 and row.shape[0] in (1, 3))
    return row.is_floating_point() and shaped and min(row.shape[-2:]) > 1


def _channels_last(pixels: Tensor) -> np.ndarray | None:
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3):
        return None
    array = pixels.numpy()
    return np.ascontiguousarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)
