"""What a model takes, in whatever form: all of it in memory, and one that holds nothing."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from layerprobe.auditing.dataset.labelled import Rows
from layerprobe.errors import InputError

__all__ = ["Gathered", "blank", "map_tensors"]

MASK = ".attention_mask"


def map_tensors(value: Any, change: Callable[[str, Tensor], Any], name: str = "") -> Any:
    """Return tensors, tuples and mappings of them with each tensor changed; all else stays as it is.

    `change` is given the tensor's name, ``""`` for one that stands alone and ``".key"`` in a tuple or a
    mapping, and the tensor.
    """
    if isinstance(value, Tensor):
        return change(name, value)
    if isinstance(value, Mapping):
        return {key: map_tensors(item, change, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(map_tensors(item, change, f"{name}.{i}") for i, item in enumerate(value))
    return value


def blank(inputs: Any, size: int) -> Any:
    """Return an input of the form of these, of at most two of their `size` rows, with a one everywhere.

    It takes no memory, and is enough to see what a network's layers put out. Ones, because they are valid
    tokens, and a mask of ones leaves something.
    """

    def ones(name: str, tensor: Tensor) -> Tensor:
        rows = tensor[:2] if tensor.shape[:1] == (size,) else tensor
        return torch.ones((), dtype=tensor.dtype).expand(rows.shape)

    return map_tensors(inputs, ones)


class Gathered:
    """The inputs of several `Rows` on the CPU, one after the other, to be taken in any order.

    Of tokens that are padded batch by batch all rows are padded to the longest, on the side where their
    ``attention_mask`` is zero.

    Parameters
    ----------
    *parts : Rows
        That one model takes.

    Raises
    ------
    InputError
        If rows have different shapes and no mask says what is padding.
    """

    def __init__(self, *parts: Rows) -> None:
        self.n = sum(rows.n for rows in parts)
        self._form: Any = None  # of the first batch; tensors in it that run along no rows are everyone's
        pieces: dict[str, list[tuple[Tensor, Tensor]]] = {}
        start = 0
        for rows in parts:
            for inputs, positions in rows.batches():
                places = torch.from_numpy(positions) + start
                first = self._form is None

                def keep(name: str, tensor: Tensor, places: Tensor = places, first: bool = first) -> Tensor:
                    if name in pieces or (first and tensor.shape[:1] == places.shape):
                        pieces.setdefault(name, []).append((places, tensor.cpu()))
                    return tensor

                form = map_tensors(inputs, keep)
                self._form = form if first else self._form
            start += rows.n
        masks = pieces.get(MASK)
        left = masks is not None and any((mask[:, 0] == 0).any() for _, mask in masks)
        self._columns = {
            name: self._column(pieces.pop(name), left, may_pad=masks is not None) for name in list(pieces)
        }

    def take(self, rows: Tensor, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Any:
        """Return the inputs of some rows on a device, those of floating point in a dtype.

        Parameters
        ----------
        rows : Tensor of shape (b,), int64
            Their numbers, on any device.
        device, dtype : optional
            By default those that the data have.
        """
        index = rows.cpu()

        def choose(name: str, tensor: Tensor) -> Tensor:
            chosen = self._columns[name][index] if name in self._columns else tensor
            return chosen.to(device, dtype if chosen.is_floating_point() else None)

        return map_tensors(self._form, choose)

    def _column(self, pieces: list[tuple[Tensor, Tensor]], left: bool, may_pad: bool) -> Tensor:
        shapes = {tuple(piece.shape[1:]) for _, piece in pieces}
        if len(shapes) > 1 and not (may_pad and len({shape[1:] for shape in shapes}) == 1):
            raise InputError(
                f"the rows have different shapes from batch to batch, {', '.join(map(str, sorted(shapes)))}, "
                "and no attention_mask says what is padding: bring them all to one shape"
            )
        longest = max(shapes)
        column = pieces[0][1].new_zeros(self.n, *longest)
        for places, piece in pieces:
            missing = longest[0] - piece.shape[1] if len(shapes) > 1 else 0
            sides = (missing, 0) if left else (0, missing)
            piece = pad(piece, (0, 0) * (piece.ndim - 2) + sides) if missing else piece
            column[places] = piece.to(column.dtype)
        return column
