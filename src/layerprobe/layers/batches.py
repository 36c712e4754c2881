"""Read data of any supported form as batches of inputs, labels and indices."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler

from layerprobe.errors import InputError

Column = Tensor | np.ndarray
"""One value per row: numbers as a CPU tensor (integers as int64), anything else as a NumPy array."""


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes
    ----------
    inputs
        For the model: a tensor, a tuple of positional or a dict of keyword arguments.
    labels, indices : Tensor (b,), ndarray (b,) or None
    size : int
        Number of rows b.
    raw
        The inputs as the source gave them.
    """

    inputs: Any
    labels: Column | None
    indices: Column | None
    size: int
    raw: Any


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches that can be read several times, in the same order each time.

    Attributes
    ----------
    make : callable
        Without arguments; returns an iterator of batches.
    rows : int
        Number of rows of all batches.
    """

    make: Callable[[], Iterator[Any]]
    rows: int

    def __iter__(self) -> Iterator[Any]:
        return self.make()


def read_batches(
    source: Any,
    batch_size: int,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    prepare: Callable[[Any], Any] | None = None,
) -> Iterator[Batch]:
    """Yield the batches of whole arrays, of a Dataset, or of an iterable of batches.

    Parameters
    ----------
    source : array, tuple of arrays, mapping, Dataset or iterable
        As for :func:`layerprobe.capture`.
    batch_size : int
        Rows of a batch cut from whole arrays or a Dataset.
    device : torch.device, optional
        Where the inputs go. They are always copied: a model whose first operation works in place must not
        write into the user's data.
    dtype : torch.dtype, optional
        Of floating-point inputs.
    prepare : callable, optional
        From a batch's inputs as the source gives them to inputs of the model.

    Yields
    ------
    Batch

    Raises
    ------
    InputError
        If the source has no batches, or one of another form.
    """
    if is_whole(source):
        source = _cut(source, batch_size)
    elif isinstance(source, Dataset):
        source = DataLoader(source, batch_size=batch_size)
    if isinstance(source, list) and len(source) == 2 and all(map(_is_array, source)):
        x, y = map(np.shape, source)
        if len(x) > 1 and y == x[:1]:
            raise InputError("a list is taken for batches, this one looks like data: give the tuple (x, y)")
    if not isinstance(source, Iterable):
        raise InputError(
            f"expected arrays (x, y), a DataLoader or an iterable of batches, got {type(source).__name__}"
        )
    batch = None
    for batch in source:
        yield _split(batch, device, dtype, prepare)
    if batch is None:
        raise InputError("expected at least one batch, got none: the data is empty or an iterator is used up")


def count_rows(source: Any) -> int | None:
    """Return the number of rows of `source`, or None where only reading it would show it."""
    if is_whole(source):
        return len(next(iter(_columns(source).values())))
    if isinstance(source, Batches):
        return source.rows
    if isinstance(source, DataLoader) and type(source.batch_sampler) is BatchSampler:
        try:
            rows = len(source.batch_sampler.sampler)  # type: ignore[arg-type]
        except TypeError:  # a sampler without length, as for an IterableDataset
            return None
        return rows - rows % source.batch_sampler.batch_size if source.drop_last else rows
    return None


def keeps_order(source: Any) -> bool:
    """Return whether rows come in the order of the data: False for a loader that may shuffle."""
    if not isinstance(source, DataLoader) or isinstance(source.dataset, IterableDataset):
        return True
    batches = source.batch_sampler
    if batches is not None and type(batches) is not BatchSampler:
        return False
    return isinstance(source.sampler if batches is None else batches.sampler, SequentialSampler)


def named_tensors(value: Any) -> list[tuple[str, Tensor]]:
    """Return the tensors of a value by name: ``""`` for the main one and, if nested, ``".key"`` for each."""
    if isinstance(value, Tensor):
        return [("", value)]
    leaves = list(_leaves(value, ""))
    candidates = [tensor for _, tensor in leaves if tensor.ndim]
    if not candidates:
        return leaves
    floating = [tensor for tensor in candidates if tensor.is_floating_point()]
    main = dict(leaves).get(".logits", (floating or candidates)[0])
    return [("", main), *leaves]


def join(columns: list[Column | None]) -> Column | None:
    """Concatenate the labels (or indices) of all batches; None if no batch has any."""
    given = [column for column in columns if column is not None]
    if not given:
        return None
    if len(given) < len(columns):
        raise InputError("expected labels (and indices) with every batch or with none, got them with some")
    if all(isinstance(column, Tensor) for column in given):
        return torch.cat(given)  # type: ignore[arg-type]
    return np.concatenate([np.asarray(column) for column in given])


def is_whole(source: Any) -> bool:
    """Return whether the source is whole data: an array, a tuple that starts with one, or a mapping."""
    first = source[0] if isinstance(source, tuple) and source else source
    return _is_array(first) or isinstance(source, Mapping)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) or hasattr(value, "__array__")


def _items(whole: Any) -> dict[Any, Any]:
    if isinstance(whole, Mapping):
        return dict(whole)
    return dict(enumerate(whole if isinstance(whole, tuple) else (whole,)))


def _columns(whole: Any) -> dict[Any, Any]:
    """Return the items of whole data that have one value per row; other items (flags, None) are left out."""
    columns = {
        key: item if isinstance(item, Tensor | list) else np.asarray(item)
        for key, item in _items(whole).items()
        if isinstance(item, list) or _is_array(item)
    }
    lengths = {str(key): len(column) for key, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"expected arrays of one and the same length, got the lengths {lengths}")
    return columns


def _cut(whole: Any, batch_size: int) -> Iterator[Any]:
    columns = _columns(whole)
    for start in range(0, len(next(iter(columns.values()))), batch_size):
        part = {key: column[start : start + batch_size] for key, column in columns.items()}
        items = {**_items(whole), **part}
        yield items if isinstance(whole, Mapping) else tuple(items.values())


def _split(
    batch: Any,
    device: torch.device | None,
    dtype: torch.dtype | None,
    prepare: Callable[[Any], Any] | None,
) -> Batch:
    if isinstance(batch, Mapping):
        labels, indices = batch.get("labels", batch.get("label")), batch.get("index")
        raw: Any = {key: item for key, item in batch.items() if key not in ("labels", "label", "index")}
    elif _is_array(batch):
        raw, labels, indices = batch, None, None
    elif isinstance(batch, tuple | list) and 1 <= len(batch) <= 3:
        raw, labels, indices = (*batch, None, None)[:3]
    else:
        count = f" of {len(batch)} items" if isinstance(batch, tuple | list) else ""
        raise InputError(
            f"expected a batch x, (x, y), (x, y, index) or a dict, got a {type(batch).__name__}{count}; "
            "several inputs go into a dict (as keyword arguments) or into a tuple in the place of x"
        )
    inputs = _to_model(raw if prepare is None else prepare(raw), device, dtype)
    tensors = named_tensors(inputs)
    if not tensors or not tensors[0][1].ndim:
        raise InputError(f"expected an array of n rows as input, got {type(inputs).__name__}: {inputs!r:.80}")
    size = len(tensors[0][1])
    return Batch(inputs, _column(labels, size, "labels"), _column(indices, size, "indices"), size, raw)


def _to_model(value: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_model(item, device, dtype) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_to_model(item, device, dtype) for item in value)
    if not _is_array(value):
        return value
    if not isinstance(value, Tensor):
        try:
            value = torch.tensor(np.asarray(value))
        except TypeError as error:
            raise InputError(
                f"expected an input of numbers, got an array that torch refuses: {error}"
            ) from error
    target = dtype if dtype is not None and value.is_floating_point() else value.dtype
    return value.detach().to(device=device, dtype=target, copy=True)


def _column(values: Any, size: int, what: str) -> Column | None:
    if values is None:
        return None
    array = values.detach().cpu() if isinstance(values, Tensor) else np.asarray(values)
    if isinstance(array, np.ndarray) and array.dtype.kind in "biuf":
        array = torch.tensor(array)
    if isinstance(array, Tensor) and not array.is_floating_point():
        array = array.long()
    if not array.ndim or len(array) != size:
        raise InputError(f"expected {size} {what} for a batch of {size}, got the shape {tuple(array.shape)}")
    return array


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):  # among them the ModelOutput of transformers
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}")
    elif isinstance(value, tuple | list):
        for place, item in enumerate(value):
            yield from _leaves(item, f"{name}.{place}")
    elif is_dataclass(value):
        for field in fields(value):
            yield from _leaves(getattr(value, field.name), f"{name}.{field.name}")
