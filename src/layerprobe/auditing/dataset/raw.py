"""What a batch holds in the place of the model's input: texts, pixels or the input itself."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from layerprobe.auditing.dataset.pictures import pixel_inputs
from layerprobe.data.adaptors import from_dataset
from layerprobe.errors import InputError
from layerprobe.layers.batches import named_tensors

__all__ = ["as_arrays", "faces", "is_texts", "preparing", "readable"]


def is_texts(value: Any) -> bool:
    """Tell texts from a list of tensors, which is one input of several parts."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(text, str) for text in value)


def readable(raw: Any) -> Any:
    """Give texts as a list, an array as a tensor, and anything else as it is."""
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
        raise InputError(f"expected texts, got {values[texts.index(False)]!r} among them: fill or remove it")
    return values if any(texts) else raw


def preparing(inputs: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    """Return the function from what a batch holds to the model's input."""

    def prepare(raw: Any) -> Any:
        value = readable(raw)
        if inputs is None:
            if is_texts(value):
                raise InputError(
                    "the data are texts, but a model takes numbers: give inputs=, a function from a list of "
                    "texts to what the model takes, say "
                    "inputs=lambda texts: tokenizer(texts, padding=True, return_tensors='pt')"
                )
            return pixel_inputs(value) if _is_pixels(value) else raw
        made = inputs(value)
        tensors = named_tensors(torch.as_tensor(made) if isinstance(made, np.ndarray) else made)
        rows = isinstance(value, Tensor) or is_texts(value)
        if rows and tensors and len(tensors[0][1]) != len(value):
            raise InputError(
                f"expected inputs= to make {len(value)} rows of {len(value)}, got {len(tensors[0][1])}"
            )
        return made

    return prepare


def faces(raw: Any, inputs: Any) -> Any:
    """Return what can be shown of each row of a batch: texts, a tensor, or None."""
    value = readable(raw)
    if isinstance(value, Tensor) or is_texts(value):
        return value
    tensors = named_tensors(inputs)
    return tensors[0][1] if tensors else None


def as_arrays(data: Any) -> Any:
    """Turn a list of texts, and a Dataset of Pillow images, into whole arrays; all else stays as it is."""
    if isinstance(data, list) and is_texts(data):
        return np.array(data, object)
    if isinstance(data, tuple) and data and isinstance(data[0], list):
        return (as_arrays(data[0]), *data[1:])
    if not isinstance(data, Dataset) or isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        return data
    first = data[0] if len(data) else None
    if not (isinstance(first, tuple) and hasattr(first[0], "convert") and hasattr(first[0], "mode")):
        return data
    columns: list[tuple] = []

    def pictures() -> Any:
        for i in range(len(data)):
            picture, *rest = data[i]
            columns.append(tuple(rest))
            yield picture, 0

    pixels = from_dataset(pictures()).train_images
    return (pixels, *map(list, zip(*columns, strict=True)))


def _is_pixels(value: Any) -> bool:
    shaped = isinstance(value, Tensor) and (value.ndim == 3 or value.shape[3:] == (3,))
    return shaped and value.dtype == torch.uint8
