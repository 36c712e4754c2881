"""The content of a batch: as inputs of the model, as fingerprints of its rows, and for display."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.errors import InputError
from layerprobe.layers.batches import named_tensors


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


def _is_pixels(value: Any) -> bool:
    shaped = isinstance(value, Tensor) and (value.ndim == 3 or value.shape[3:] == (3,))
    return shaped and value.dtype == torch.uint8


def _scaled(pixels: Tensor) -> Tensor:
    channels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return channels.to(torch.float32, memory_format=torch.contiguous_format) / 255


def hash_network(model: nn.Module) -> str:
    """Return the SHA-256 of a network's weights and buffers in their order, without names and device."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        if isinstance(tensor, Tensor):
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_inputs(inputs: Any, size: int) -> np.ndarray:
    """Hash the rows of a model's input.

    The hash depends on values only: floats are converted to float32 and integers to int64, and shapes are
    ignored, so an array and a loader of the same rows agree. Tokens that ``attention_mask`` excludes are
    ignored, since padding depends on the batch.

    Parameters
    ----------
    inputs : Tensor, or tuple or dict of them
        Tensors with `size` rows are hashed in the order of their names.
    size : int
        The number of rows.

    Returns
    -------
    ndarray of shape (size,), uint64
    """
    named = dict(named_tensors(inputs))
    if len(named) > 1:
        del named[""]  # the main tensor, listed a second time under its own name
    mask = named.get(".attention_mask")
    kept = None if mask is None else mask.cpu().numpy() != 0  # (size, t)
    columns = [_numbers(tensor) for _, tensor in sorted(named.items()) if tensor.shape[:1] == (size,)]
    digests = (_digest(*(_kept(column[i], kept, i).tobytes() for column in columns)) for i in range(size))
    return np.fromiter(digests, np.uint64, size)


def hash_texts(texts: Sequence[str]) -> np.ndarray:
    """Return the hash of each text, (n,) uint64."""
    return np.fromiter(
        (_digest(text.encode("utf-8", "surrogatepass")) for text in texts), np.uint64, len(texts)
    )


def _numbers(tensor: Tensor) -> np.ndarray:
    wide = torch.float32 if tensor.is_floating_point() else torch.int64
    return tensor.detach().cpu().to(wide).numpy() + 0  # -0.0 becomes 0.0


def _kept(row: np.ndarray, kept: np.ndarray | None, i: int) -> np.ndarray:
    return row if kept is None or row.shape[:1] != kept.shape[1:] else row[kept[i]]


def _digest(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha256(b"".join(parts)).digest()[:8], "little")


def display_values(raw: Any, inputs: Any) -> Any:
    """Return the values of a batch that can be displayed.

    Parameters
    ----------
    raw : Any
        The batch's content before ``inputs=`` was applied.
    inputs : Tensor, tuple or dict
        The model's inputs for the same rows.

    Returns
    -------
    list of str, Tensor (b, ...) or None
    """
    content = batch_content(raw)
    if isinstance(content, Tensor) or is_texts(content):
        return content
    tensors = named_tensors(inputs)
    return tensors[0][1] if tensors else None


class ChannelRange:
    """The smallest and largest value of every channel, to display floating-point images as pixels.

    Rows of floats are images where their shape is (h, w), (1, h, w) or (3, h, w). Their values may be scaled
    or normalised: each channel's range over all rows is mapped to 0..255.
    """

    def __init__(self) -> None:
        self.low: Tensor | float = torch.inf
        self.high: Tensor | float = -torch.inf

    def update(self, values: Any) -> Self:
        """Extend the range by a batch (b, ...). Values that are not images have no effect."""
        if isinstance(values, Tensor) and len(values) and _is_float_image(values[0]):
            planes = values if values.ndim == 4 else values[:, None]
            low, high = planes.amin((0, 2, 3)).cpu(), planes.amax((0, 2, 3)).cpu()  # (c,)
            self.low = torch.minimum(low, torch.as_tensor(self.low, dtype=low.dtype))
            self.high = torch.maximum(high, torch.as_tensor(self.high, dtype=high.dtype))
        return self

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
