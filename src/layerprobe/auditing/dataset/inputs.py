"""The model's inputs: made from a batch's content, held in memory, or as a dummy of the same form."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from layerprobe.errors import InputError
from layerprobe.layers.batches import named_tensors

if TYPE_CHECKING:
    from layerprobe.auditing.dataset.labelled import LabelledDataset

__all__ = ["InputStore", "batch_content", "dummy_input", "input_function", "is_texts", "map_tensors"]

MASK = ".attention_mask"


def is_texts(value: Any) -> bool:
    """Return whether this is a list of texts; a list of tensors is one input of several parts."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(text, str) for text in value)


def batch_content(raw: Any) -> Any:
    """Return texts as a list, an array of numbers as a tensor, and anything else unchanged."""
    if isinstance(raw, Tensor | Mapping):
        return raw
    if isinstance(raw, list | tuple):
        return list(raw) if is_texts(raw) else raw
    array = np.asarray(raw)
    if array.dtype.kind not in "OUT":
        return torch.tensor(array)
    values = array.tolist()
    texts = [isinstance(value, str) for value in values]
    if any(texts) and not all(texts):
        raise InputError(
            f"expected texts only, got {values[texts.index(False)]!r} among them: fill or remove it"
        )
    return values if any(texts) else raw


def input_function(inputs: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    """Return the function from a batch's content to the model's inputs.

    It applies `inputs`, the user's own function, and checks the number of rows. Without one, uint8 pixels
    (b, h, w) or (b, h, w, 3) become float32 (b, 1 or 3, h, w) in [0, 1], and all else stays unchanged.
    """

    def prepare(raw: Any) -> Any:
        content = batch_content(raw)
        if inputs is None:
            if is_texts(content):
                raise InputError(
                    "the data are texts, but a model takes numbers: give inputs=, a function from a list of "
                    "texts to the model's inputs, for example "
                    "inputs=lambda texts: tokenizer(texts, padding=True, return_tensors='pt')"
                )
            return _scaled(content) if _is_pixels(content) else raw
        made = inputs(content)
        tensors = named_tensors(torch.as_tensor(made) if isinstance(made, np.ndarray) else made)
        has_rows = isinstance(content, Tensor) or is_texts(content)
        if has_rows and tensors and len(tensors[0][1]) != len(content):
            raise InputError(
                f"expected inputs= to return {len(content)} rows for {len(content)}, "
                f"got {len(tensors[0][1])}: it must return one row per row of the batch"
            )
        return made

    return prepare


def map_tensors(value: Any, change: Callable[[str, Tensor], Any], name: str = "") -> Any:
    """Return a copy of nested tuples and mappings with every tensor replaced.

    Parameters
    ----------
    value : Tensor, tuple, list, mapping or any other object
        Objects that are none of these stay unchanged.
    change : callable
        ``change(name, tensor)`` returns the replacement.
    name : str
        The name of `value`. Items have the names ``f"{name}.{key}"``.
    """
    if isinstance(value, Tensor):
        return change(name, value)
    if isinstance(value, Mapping):
        return {key: map_tensors(item, change, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(map_tensors(item, change, f"{name}.{i}") for i, item in enumerate(value))
    return value


def dummy_input(inputs: Any, size: int) -> Any:
    """Return ones in the form of a batch of inputs, with at most two rows.

    It takes no memory and is enough to see the shapes of a network's layers. Ones are valid tokens, and a
    mask of ones keeps all of them.

    Parameters
    ----------
    inputs : Tensor, tuple or dict
        A batch of the model's inputs.
    size : int
        The batch's number of rows.
    """

    def ones(name: str, tensor: Tensor) -> Tensor:
        rows = tensor[:2] if tensor.shape[:1] == (size,) else tensor
        return torch.ones((), dtype=tensor.dtype).expand(rows.shape)

    return map_tensors(inputs, ones)


class InputStore:
    """The inputs of several datasets in memory on the CPU, one dataset after the other.

    Tokens that were padded batch by batch are padded to the longest row, on the side where their
    ``attention_mask`` is zero.

    Parameters
    ----------
    *parts : LabelledDataset
        Datasets of the same model.

    Attributes
    ----------
    n : int
        The number of rows of all parts.

    Raises
    ------
    InputError
        If rows have different shapes and no mask says which tokens are padding.
    """

    def __init__(self, *parts: "LabelledDataset") -> None:
        self.n = sum(part.n for part in parts)
        self._form: Any = None  # the first batch; its tensors without a row axis serve every batch
        pieces: dict[str, list[tuple[Tensor, Tensor]]] = {}
        start = 0
        for part in parts:
            for inputs, positions in part.batches():
                rows = torch.from_numpy(positions) + start
                first = self._form is None

                def keep(name: str, tensor: Tensor, rows: Tensor = rows, first: bool = first) -> Tensor:
                    if name in pieces or (first and tensor.shape[:1] == rows.shape):
                        pieces.setdefault(name, []).append((rows, tensor.cpu()))
                    return tensor

                form = map_tensors(inputs, keep)
                self._form = form if first else self._form
            start += part.n
        masks = pieces.get(MASK)
        left = masks is not None and any((mask[:, 0] == 0).any() for _, mask in masks)
        self._columns = {
            name: self._column(pieces.pop(name), left, may_pad=masks is not None) for name in list(pieces)
        }

    def take(self, rows: Tensor, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Any:
        """Return the inputs of some rows.

        Parameters
        ----------
        rows : Tensor of shape (b,), int64
            Row numbers in 0..n-1, on any device.
        device : torch.device, optional
            By default the CPU.
        dtype : torch.dtype, optional
            The type of floating-point inputs; by default that of the data.
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
                f"expected rows of one shape, got {', '.join(map(str, sorted(shapes)))} in different "
                "batches, and no attention_mask says which tokens are padding: bring all rows to one shape"
            )
        longest = max(shapes)
        column = pieces[0][1].new_zeros(self.n, *longest)
        for rows, piece in pieces:
            missing = longest[0] - piece.shape[1] if len(shapes) > 1 else 0
            sides = (missing, 0) if left else (0, missing)
            piece = pad(piece, (0, 0) * (piece.ndim - 2) + sides) if missing else piece
            column[rows] = piece.to(column.dtype)
        return column


def _is_pixels(value: Any) -> bool:
    shaped = isinstance(value, Tensor) and (value.ndim == 3 or value.shape[3:] == (3,))
    return shaped and value.dtype == torch.uint8


def _scaled(pixels: Tensor) -> Tensor:
    channels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return channels.to(torch.float32, memory_format=torch.contiguous_format) / 255
