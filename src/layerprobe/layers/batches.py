"""Read data of any supported form as batches of inputs, labels and indices; the only place that parses data.

x stands for the inputs: an array or tensor, a data frame, or a list of texts. Several inputs are a tuple of
these, the positional arguments of the model, or a mapping, its keyword arguments, as a tokenizer returns it.

==============================================  =====================================================
whole data, cut into batches                    x; (x, y); (x, y, index); a mapping or data frame with y
                                                as one of `LABEL_KEYS`
rows, joined into batches                       a Dataset or a list whose items have one of these forms
batches                                         a DataLoader or another iterable of them
==============================================  =====================================================

A tuple (a, b, y) has as many inputs as the model's ``forward`` requires, or else as many as have more than
one number per row. The item after y is an index if it identifies rows (`row_index`), else it is ignored.
"""

import inspect
import os
import random
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import chain, islice
from numbers import Real
from pathlib import Path
from traceback import extract_tb
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler

from layerprobe.core.checks import require_dense
from layerprobe.errors import InputError, LayerprobeError

Column = Tensor | np.ndarray
"""One value per row: numbers as a CPU tensor (integers as int64), anything else as a NumPy array."""

LABEL_KEYS = ("labels", "label", "target", "targets", "y")
"""Keys of a mapping for its labels, the first of them that it has and the model does not require."""

INDEX_KEY = "index"
_RAGGED = "the rows of {} have different shapes: pad them, texts by tokenizer(..., padding='max_length')"
UNUSED = ("token_type_ids", "special_tokens_mask")  # of tokenizers; left out where forward does not take them


@dataclass(frozen=True)
class Batch:
    """One batch of b rows."""

    inputs: Any  # for the model: a tensor, a tuple of positional or a dict of keyword arguments
    labels: Column | None  # (b,)
    indices: Column | None  # (b,)
    size: int
    raw: Any  # the inputs as the source gave them

    def take(self, rows: np.ndarray, *, squares: bool = True) -> "Batch":
        """Return some rows.

        Parameters
        ----------
        rows : ndarray of shape (m,), int64
        squares : bool
            Whether inputs (b, b, ...) beside the main one have rows, see `Tracer.cuts_squares`.
        """
        index = torch.from_numpy(rows)
        labels, indices = (
            column[index] if isinstance(column, Tensor) else None if column is None else column[rows]
            for column in (self.labels, self.indices)
        )
        kept = () if squares else [id(x) for x in squares_of(self.inputs, self.size)]
        inputs = map_tensors(
            self.inputs, lambda _, x: x[index] if x.shape[:1] == (self.size,) and id(x) not in kept else x
        )
        return Batch(inputs, labels, indices, len(rows), self.raw)


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches that can be read several times, in the same order each time."""

    make: Callable[[], Iterator[Any]]
    rows: int  # of all batches

    def __iter__(self) -> Iterator[Any]:
        return self.make()


def forward_signature(model: Any) -> inspect.Signature | None:
    """Return the signature of a model's forward; None if it is not a Python function."""
    inner = getattr(model, "_orig_mod", model)  # of torch.compile
    try:
        signature = inspect.signature(inner.forward)
    except (AttributeError, TypeError, ValueError):
        return None
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if hasattr(inner, "module") and kinds == {
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
    }:
        return forward_signature(inner.module)  # a data-parallel wrapper
    return signature


@dataclass(frozen=True)
class _Forward:
    """The arguments of a model's ``forward``, as far as its signature shows them."""

    required: tuple[str, ...] = ()
    most: int | None = None  # positional arguments
    keywords: frozenset[str] | None = None
    model: nn.Module | None = None

    @classmethod
    def of(cls, model: nn.Module | None) -> "_Forward":
        if (signature := forward_signature(model)) is None:
            return cls(model=model)
        parameters = list(signature.parameters.values())
        kinds = {parameter.kind for parameter in parameters}
        places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        names = frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        return cls(
            tuple(p.name for p in places if p.default is p.empty),
            None if inspect.Parameter.VAR_POSITIONAL in kinds else len(places),
            None if inspect.Parameter.VAR_KEYWORD in kinds else names,
            model,
        )

    def is_batch(self, shape: Sequence[int]) -> bool | None:
        """Return whether an array of this shape is a batch, or one row; None if that is not clear."""
        if len(shape) < 2:
            return False
        for module in () if self.model is None else self.model.modules():
            if isinstance(module, nn.modules.conv._ConvNd):  # None for sequences of images, and others
                spatial = len(module.kernel_size)
                return {1 + spatial: False, 2 + spatial: True}.get(len(shape))
            if isinstance(module, nn.Linear) and module.in_features in (shape[-1], np.prod(shape)):
                return shape[-1] == module.in_features
            if next(module.parameters(recurse=False), None) is not None:
                break
        return None


def read_batches(
    source: Any,
    batch_size: int,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    prepare: Callable[[Any], Any] | None = None,
    model: nn.Module | None = None,
) -> Iterator[Batch]:
    """Yield the batches of data in any form; raise if there are none, or one of another form.

    Parameters
    ----------
    source : array, tuple, mapping, data frame, Dataset or iterable
        As for :func:`layerprobe.capture`.
    batch_size : int
        Rows of a batch that is cut from whole arrays or joined from rows.
    device, dtype : optional
        Of the inputs; `dtype` of those that are floating-point. Inputs are always copied: a model whose first
        operation works in place must not write into the user's data.
    prepare : callable, optional
        From a batch's inputs as the source gives them to inputs of the model.
    model : nn.Module, optional
        Its ``forward`` shows how many inputs an item has, and their names.
    """
    forward = _Forward.of(model)
    batch = None
    for batch in _guarded(_batches(source, batch_size, forward)):
        yield _split(batch, device, dtype, prepare, forward)
    if batch is None:
        raise InputError("expected at least one batch, got none: the data is empty or an iterator is used up")


def _guarded(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield batches; an error of the user's data set, sampler or collate function names their line."""
    try:
        yield from batches
    except (LayerprobeError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"the data cannot be read: {_described(error)}") from error


def _described(error: Exception) -> str:
    """Return an error in one line with the last line of code outside of the installed packages."""
    places = [(frame.filename, frame.lineno, frame.name) for frame in extract_tb(error.__traceback__)]
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = f"{type(error).__name__}: {' '.join(lines)[:300]}" if lines else type(error).__name__
    if "Original Traceback" in str(error):  # of a worker process of a DataLoader
        places, said = re.findall(r'File "(.+)", line (\d+), in (\S+)', str(error)), lines[-1]
    own = [place for place in places if not place[0].startswith((*_INSTALLED, "<"))]
    if not own:
        return said
    file, line, name = own[-1]
    return f"{said} ({os.path.relpath(file) if os.path.isabs(file) else file}, line {line}, in {name})"


_INSTALLED = (*sysconfig.get_paths().values(), str(Path(__file__).parents[1]), torch.__path__[0])


def is_whole(source: Any) -> bool:
    """Return whether the source is whole data: x, a tuple that starts with x, or a mapping."""
    if isinstance(source, tuple):
        several = [item for item in source[1:] if isinstance(item, tuple | Mapping)]  # a tuple of batches
        return bool(source) and not several and (is_whole(source[0]) or isinstance(source[0], list))
    if isinstance(source, Mapping):
        return not any(map(_is_hub, source.values()))
    return _is_array(source) or is_texts(source) or _is_numbers(source)


def count_rows(source: Any) -> int | None:
    """Return the number of rows of `source`, or None if it is not known without reading the source."""
    if is_whole(source):
        return _length(_as_columns(source))
    if isinstance(source, Batches):
        return source.rows
    if isinstance(source, DataLoader):
        if type(source.batch_sampler) is not BatchSampler:
            return None
        try:
            rows = len(source.batch_sampler.sampler)  # type: ignore[arg-type]
        except TypeError:  # a sampler without length, as for an IterableDataset
            return None
        return rows - rows % source.batch_sampler.batch_size if source.drop_last else rows
    if not isinstance(source, list | IterableDataset) and hasattr(source, "__getitem__"):
        return len(source) if hasattr(source, "__len__") else None
    return None


def keeps_order(source: Any) -> bool:
    """Return whether rows come in the order of the data: False for a loader that may shuffle."""
    if not isinstance(source, DataLoader) or isinstance(source.dataset, IterableDataset):
        return True
    batches = source.batch_sampler
    if batches is not None and type(batches) is not BatchSampler:
        return False
    return isinstance(source.sampler if batches is None else batches.sampler, SequentialSampler)


FEW = 8  # rows of a data set that are read twice


def require_repeatable(source: Any, what: str) -> None:
    """Raise if the first rows of a data set differ when they are read again, as with random augmentation.

    Parameters
    ----------
    source : Dataset, DataLoader or other data
    what : str
        Name of the data, for the message.
    """
    dataset = source.dataset if isinstance(source, DataLoader) else source
    listed = isinstance(dataset, Dataset) and not isinstance(dataset, IterableDataset)
    if not listed or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        return
    states: tuple[Any, Any] = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng([]):
            same = all(_is_equal(dataset[i], dataset[i]) for i in range(min(len(dataset), FEW)))
    except Exception:  # rows may need other keys; the pass over the data raises any other error again
        return
    finally:
        np.random.set_state(states[0])  # noqa: NPY002
        random.setstate(states[1])
    if not same:
        raise InputError(
            f"the content of the {what} changes when it is read again: remove random operations such as "
            "augmentation"
        )


def _is_equal(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return all(_is_equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    if isinstance(one, Tensor) and one.layout is torch.strided and not one.is_quantized:
        return one.shape == other.shape and bool(((one == other) | (one != one)).all())
    if isinstance(one, np.ndarray) or _is_image(one):
        one, other = np.asarray(one), np.asarray(other)
        return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    return one == other or one != one if isinstance(one, str | int | float) else True


def _label_key(columns: Iterable[Any]) -> Any:
    """Return the name of the labels among keys of a mapping or columns of a frame, or None."""
    return next((key for key in LABEL_KEYS if key in columns), None)


def row_index(indices: Column | None) -> np.ndarray | None:
    """Return the third items of (x, y, index) if they identify rows: distinct whole numbers or texts."""
    values = None if indices is None else np.asarray(indices)
    if values is None or values.dtype.kind not in "iuU" or len(np.unique(values)) < len(values):
        return None
    return values


def read_index(source: Any, batch_size: int, model: nn.Module | None = None) -> np.ndarray | None:
    """Return the index of all rows, (n,), without running a model; None where `row_index` finds none.

    Parameters
    ----------
    source, batch_size, model
        As for :func:`read_batches`.
    """
    batches = read_batches(source, batch_size, prepare=row_count, model=model)
    return row_index(join([batch.indices for batch in batches]))


def row_count(raw: Any) -> Tensor:
    """Return a tensor of as many rows in place of a batch's inputs."""
    while isinstance(raw, Mapping | tuple | list) and not _is_numbers(raw) and not is_texts(raw):
        raw = next(iter(raw.values() if isinstance(raw, Mapping) else raw))
    return torch.empty(len(raw), 1)


def row_names(source: Any) -> np.ndarray | None:
    """Return the index of a data frame or series as the rows' names; None without a distinct one."""
    x = source[0] if isinstance(source, tuple) and source else source
    index = getattr(x, "index", None)
    if not isinstance(index, pd.Index) or isinstance(index, pd.RangeIndex) or not index.is_unique:
        return None
    if isinstance(index, pd.MultiIndex):
        return np.array([str(name) for name in index])
    return index.to_numpy() if index.dtype.kind in "iu" else index.astype(str).to_numpy(dtype=str)


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


def scaled_pixels(pixels: Tensor) -> Tensor:
    """Return uint8 pixels with 0, 1 or 3 channels as floats in [0, 1], channels first; others unchanged."""
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[3:] in ((1,), (3,)):
        pixels = pixels.permute(0, 3, 1, 2)
    elif pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        return pixels
    return pixels.to(torch.float32, memory_format=torch.contiguous_format) / 255


def with_pixels_scaled(batch: Batch) -> Batch:
    """Return a batch of uint8 pixels by `scaled_pixels`, or the batch itself if it holds others."""
    x = batch.inputs[0] if isinstance(batch.inputs, tuple) and len(batch.inputs) == 1 else batch.inputs
    if not isinstance(x, Tensor) or x.dtype is not torch.uint8 or (scaled := scaled_pixels(x)) is x:
        return batch
    return replace(batch, inputs=scaled)


def squares_of(inputs: Any, size: int) -> list[Tensor]:
    """Return the inputs (b, b, ...) beside the main one, which may have rows or be shared by all rows.

    Parameters
    ----------
    inputs : Tensor, tuple or mapping
    size : int
        Number of rows b.
    """
    named = named_tensors(inputs)
    return [x for _, x in named[1:] if x.shape[:2] == (size, size) and x is not named[0][1]]


def pairs_of_rows(source: Any) -> str | None:
    """Return why whole data cannot be cut into batches: an input has a number per pair of rows.

    The adjacency matrix of a graph is such an input, (n, n), beside features (n, d) of its nodes.
    """
    x = source[0] if isinstance(source, tuple) and source else source
    if not isinstance(x, tuple | Mapping) or not is_whole(source):
        return None
    # Lists may hold rows of different lengths; they have no pairs of rows.
    main, *others = [tuple(getattr(leaf, "shape", (len(leaf),))) for leaf in _columns(x)] or [()]
    n = main[0] if main else 0
    square = next((shape for shape in others if n > 2 and shape[:2] == (n, n) != main[:2]), None)
    if square is None:
        return None
    return (
        f"one of the inputs has the shape {square} for {n} rows, as a matrix of pairs of rows, which cannot "
        f"be cut into batches. For capture and probe, give all rows as one batch, batch_size={n}; audit "
        "their outputs by audit_features"
    )


def map_tensors(value: Any, change: Callable[[str, Tensor], Any], name: str = "") -> Any:
    """Return a copy of nested tuples and mappings with every tensor replaced.

    Parameters
    ----------
    value : Tensor, tuple, list, mapping or any other object, which stays unchanged
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


def as_tensor(array: np.ndarray) -> Tensor:
    """Return a copy of an array of any byte order as a tensor."""
    return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))


def is_texts(value: Any) -> bool:
    """Return whether this is a list of texts; a list of tensors is one input of several parts."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(text, str) for text in value)


# Forms of data ------------------------------------------------------------------------------------------


def _is_array(value: Any) -> bool:
    """Return whether this is an array; InputError for tensors that are not dense."""
    if isinstance(value, Tensor):
        require_dense(value, "each array")
        return True
    return hasattr(value, "__array__") and not _is_image(value)


def _is_image(value: Any) -> bool:
    return hasattr(value, "convert") and hasattr(value, "mode")  # of Pillow


def _is_hub(value: Any) -> bool:
    return isinstance(getattr(value, "features", None), Mapping)  # of Hugging Face


def _is_numbers(value: Any) -> bool:
    """Return whether this is a list of numbers, possibly nested."""
    if not isinstance(value, list):
        return False
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, int | float | np.generic)


def _is_nested(value: Any) -> bool:
    return isinstance(value, tuple | Mapping)


def _is_scalar(value: Any) -> bool:
    """Return whether this can be the label of one row."""
    return value is not None and not _is_nested(value) and _ndim(value) == 0


def _batches(source: Any, batch_size: int, forward: _Forward) -> Iterator[Any]:
    """Yield the batches of a source as it gives them."""
    if is_whole(source):
        yield from _cut(source, batch_size)
        return
    if isinstance(source, Mapping):
        raise InputError(f"expected one split of the data, got all of {', '.join(source)}: choose one")
    if not isinstance(source, DataLoader | Batches) and hasattr(source, "__len__"):
        if isinstance(source, list | tuple):
            if source and _are_rows(source, forward):
                yield from _joined(source, batch_size)
            else:
                yield from source
            return
        if hasattr(source, "__getitem__") and not isinstance(source, str | IterableDataset):
            # by its length, since many datasets raise no IndexError at the end
            yield from _joined((source[i] for i in range(len(source))), batch_size)
            return
    if isinstance(source, Dataset) or _is_hub(source):
        yield from _joined(iter(source), batch_size)
        return
    if not isinstance(source, Iterable) or isinstance(source, str):
        raise InputError(
            "expected arrays (x, y), a Dataset, a DataLoader or an iterable of batches, got "
            f"{type(source).__name__}"
        )
    items = iter(_without_workers(source))
    first = next(items, None)
    if first is None:
        return
    joined = isinstance(source, DataLoader) and source.batch_size is not None
    chained = chain([first], items)
    yield from chained if joined or not _is_row(first, forward) else _joined(chained, batch_size)


def _without_workers(source: Any) -> Any:
    """Return a loader of an IterableDataset that reads in this process: each worker may read all rows."""
    if not isinstance(source, DataLoader) or not isinstance(source.dataset, IterableDataset):
        return source
    return DataLoader(
        source.dataset, source.batch_size, collate_fn=source.collate_fn, drop_last=source.drop_last
    )


def _are_rows(items: Sequence[Any], forward: _Forward) -> bool:
    """Return whether a list holds rows and not batches."""
    if len(items) == 2 and all(map(_is_array, items)):
        x, y = map(np.shape, items)
        if len(x) > 1 and y == x[:1]:
            raise InputError(
                "a list is taken for batches or rows, this one looks like data: give the tuple (x, y)"
            )
    shapes = [tuple(np.shape(item)) for item in items if _is_array(item)]
    if len(items) < 2 or len(shapes) < len(items) or len(shapes[0]) < 2:
        return _is_row(items[0], forward)
    if len({shape[1:] for shape in shapes}) == 1 < len({shape[0] for shape in shapes}):
        return False
    if (is_batch := forward.is_batch(shapes[0])) is None:
        raise InputError(
            f"a list of {len(items)} arrays of the shape {shapes[0]} may hold rows or batches: join rows by "
            "torch.stack(list), or batches by torch.cat(list)"
        )
    return not is_batch


def _is_row(item: Any, forward: _Forward) -> bool:
    """Return whether an item of a list or iterable is one row; a batch has one label per row."""
    if isinstance(item, Batch):
        return False
    if isinstance(item, Mapping):
        if (key := _label_key(item)) is not None:
            return _is_scalar(item[key])
        return all(_ndim(value) < 2 for value in item.values() if _is_array(value) or _is_numbers(value))
    if isinstance(item, tuple | list) and not _is_numbers(item):
        given = [part for part in item if part is not None]
        if len(given) < 2:
            return bool(given) and _is_row(given[0], forward)
        x, second = given[:2]
        labelled = _ndim(x) > 1 and _ndim(second) == 1 and len(x) == len(second)
        return _is_scalar(second) or (_is_scalar(given[-1]) and not labelled)
    if isinstance(item, str) or _is_image(item):
        return True
    shape = np.shape(item) if _is_array(item) or _is_numbers(item) else ()
    return len(shape) == 1 or (len(shape) > 1 and forward.is_batch(shape) is False)


def _ndim(value: Any) -> int:
    if isinstance(value, list):
        return 1 + (_ndim(value[0]) if value else 0)
    return getattr(value, "ndim", 0)


# Whole data to batches ----------------------------------------------------------------------------------


def _cut(source: Any, batch_size: int) -> Iterator[Any]:
    whole = _as_columns(source)
    n = _length(whole)
    if n > batch_size and (reason := pairs_of_rows(source)):
        raise InputError(reason)
    for start in range(0, n, batch_size):
        yield _slice(whole, slice(start, start + batch_size))


def _slice(whole: Any, rows: slice) -> Any:
    return _map(whole, lambda item: item[rows] if _is_column(item) else item)


def _as_columns(source: Any) -> Any:
    """Return whole data with frames and lists as arrays; texts stay lists."""
    if isinstance(source, pd.DataFrame) and (key := _label_key(source)) is not None:
        source = source.drop(columns=key), source[key].array
    if isinstance(source, tuple):
        check_same_index(source)
        x, rest = source[0], source[1:]
        if isinstance(x, list) and not _is_numbers(x) and not is_texts(x):
            rows = len(rest) > 0 and rest[0] is not None and len(x) == len(rest[0])
            source = _join_rows(x) if rows or _is_image(x[0]) else tuple(x), *rest
    return _map(source, _array)


def _map(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested tuples and mappings with every item replaced."""
    if isinstance(value, Mapping):
        return {key: _map(item, change) for key, item in value.items()}
    return tuple(_map(item, change) for item in value) if isinstance(value, tuple) else change(value)


def _is_column(value: Any) -> bool:
    """Return whether this has rows, and is no flag or None."""
    return isinstance(value, list) or (_is_array(value) and np.ndim(value) > 0)


def _columns(value: Any) -> list[Any]:
    found: list[Any] = []
    _map(value, lambda item: found.append(item) if _is_column(item) else None)
    return found


def _array(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        return _frame(value)
    if isinstance(value, Tensor) or is_texts(value) or not (isinstance(value, list) or _is_array(value)):
        return value
    try:
        return np.asarray(value)
    except ValueError as error:  # lists of different lengths
        raise InputError(_RAGGED.format("the data")) from error


def _frame(frame: pd.DataFrame) -> np.ndarray:
    """Return the numbers (n, d) of a data frame, or the texts (n,) of its only column."""
    columns = {name: column for name, column in frame.items() if not pd.api.types.is_numeric_dtype(column)}
    if len(frame.columns) == 1 and columns:
        return frame.iloc[:, 0].to_numpy(object)
    if columns:
        name, column = next(iter(columns.items()))
        raise InputError(
            f"expected a data frame of numbers, but the column {name!r} holds {column.dtype} values: encode "
            f"or leave out {', '.join(map(repr, list(columns)[:5]))}; labels are columns named "
            f"{', '.join(LABEL_KEYS)}"
        )
    if (missing := frame.isna()).any(axis=None):
        bad = missing.any(axis=1).to_numpy()
        raise InputError(
            f"the data frame has missing values in {bad.sum()} rows, first in row {bad.argmax()}"
        )
    dtype = np.result_type(*(getattr(dtype, "numpy_dtype", dtype) for dtype in frame.dtypes))
    return frame.to_numpy(dtype if dtype.kind == "f" else np.float64)


def check_same_index(parts: tuple) -> None:
    """Raise an InputError if parts, x and y of pandas, have the same index in different orders."""
    indices = [part.index for part in parts if isinstance(part, pd.DataFrame | pd.Series)]
    for other in indices[1:]:
        one = indices[0]
        if len(one) == len(other) and not one.equals(other) and one.is_unique and set(one) == set(other):
            raise InputError(
                "frames have the same index in different orders: give y.loc[x.index], or y.to_numpy() if "
                "their rows are in one order"
            )


def _length(whole: Any) -> int:
    """Return the number of rows of all columns; values without rows (flags, None) are left out."""
    items = whole if isinstance(whole, tuple) else (whole,)
    named = whole if isinstance(whole, Mapping) else dict(enumerate(items))
    lengths = {str(key): len(column) for key, item in named.items() for column in _columns(item)}
    if len(set(lengths.values())) != 1:
        raise InputError(f"expected arrays of one and the same length, got the lengths {lengths}")
    return next(iter(lengths.values()))


# Rows to batches ----------------------------------------------------------------------------------------


def _joined(rows: Iterable[Any], batch_size: int) -> Iterator[Any]:
    rows = iter(rows)
    while part := list(islice(rows, batch_size)):
        yield _join_rows(part)


def _join_rows(rows: list[Any], name: str = "x") -> Any:
    """Join rows to a batch: numbers and arrays to an array, texts and other objects to a list."""
    first = rows[0]
    if isinstance(first, Mapping):
        return {key: _join_rows([row[key] for row in rows], key) for key in first}
    if isinstance(first, tuple) or (isinstance(first, list) and not _is_numbers(first)):
        columns = zip(*rows, strict=True)
        return tuple(_join_rows(list(column), f"item {i}") for i, column in enumerate(columns))
    if all(map(_is_image, rows)):
        grey = all(row.mode in ("1", "L") for row in rows)
        rows = [np.array(row.convert("L" if grey else "RGB")) for row in rows]
    elif not all(isinstance(row, int | float) or _is_array(row) or _is_numbers(row) for row in rows):
        return rows
    elif len({tuple(np.shape(row)) for row in rows if isinstance(row, Tensor)}) > 1:
        raise InputError(_RAGGED.format(name))
    if isinstance(first, Tensor) and all(isinstance(row, Tensor) for row in rows):
        return torch.stack(rows)
    return _array([row.tolist() if isinstance(row, Tensor) else row for row in rows])


# Batches ------------------------------------------------------------------------------------------------


def _split(
    batch: Any,
    device: torch.device | None,
    dtype: torch.dtype | None,
    prepare: Callable[[Any], Any] | None,
    forward: _Forward,
) -> Batch:
    if isinstance(batch, Batch):
        return replace(batch, inputs=_to_model(_for_forward(batch.inputs, forward), device, dtype))
    if isinstance(batch, pd.DataFrame):
        batch = _as_columns(batch)
    if isinstance(batch, Mapping):
        free = {key: item for key, item in batch.items() if key not in forward.required}
        key = _label_key(free)
        raw: Any = {
            name: _rejoined(item)
            for name, item in batch.items()
            if name not in free or name not in (key, INDEX_KEY)
        }
        labels, indices = free.get(key), free.get(INDEX_KEY)
    elif _is_array(batch) or is_texts(batch) or _is_numbers(batch):
        raw, labels, indices = batch, None, None
    elif isinstance(batch, tuple | list) and batch:
        raw, labels, indices = _divide(tuple(batch), forward)
    else:
        raise _unknown(batch)
    inputs = _to_model(_for_forward(raw if prepare is None else prepare(raw), forward), device, dtype)
    tensors = named_tensors(inputs)
    if not tensors or not tensors[0][1].ndim:
        raise InputError(f"expected an array of n rows as input, got {type(inputs).__name__}: {inputs!r:.80}")
    size = len(tensors[0][1])
    return Batch(inputs, _column(labels, size, "labels"), _index(indices, size), size, raw)


def _divide(items: tuple, forward: _Forward) -> tuple[Any, Any, Any]:
    """Return the inputs, labels and candidate for the index of a tuple."""
    count, required = 1, len(forward.required)
    if _is_array(items[0]) and len(items) > 1:
        several = [_ndim(item) > 1 or (_is_nested(item) and not is_texts(item)) for item in items]
        leading = several[1:].index(False) + 1 if not all(several[1:]) else len(items)
        count = min(leading, len(items) - 1, len(items) if forward.most is None else max(forward.most, 1))
        if required > 1 and (len(items) > required or leading >= required):
            count = required
    x, rest = items[0] if count == 1 else items[:count], items[count:]
    if len(rest) > 2:
        raise _unknown(items)
    labels, indices = (*rest, None, None)[:2]
    return x, labels, indices


def _unknown(batch: Any) -> InputError:
    count = f" of {len(batch)} items" if isinstance(batch, tuple | list) else ""
    return InputError(
        f"expected a batch x, (x, y), (x, y, index) or a dict, got a {type(batch).__name__}{count}; "
        "several inputs go into a dict (as keyword arguments) or into a tuple in the place of x"
    )


def _for_forward(inputs: Any, forward: _Forward) -> Any:
    """Return keyword arguments without those that forward does not take and that are no inputs.

    They are texts, single numbers per row, and the columns `UNUSED` of tokenizers. A single input under
    another name becomes a positional argument.
    """
    if not isinstance(inputs, Mapping) or forward.keywords is None:
        return inputs
    unknown = {key for key in inputs if key not in forward.keywords}
    extra = {key for key in unknown if key in UNUSED or _ndim(inputs[key]) < 2}
    kept = {key: item for key, item in inputs.items() if key not in extra}
    if len(kept) == 1 and kept.keys() <= unknown and len(forward.required) < 2:
        return next(iter(kept.values()))
    return kept or inputs


def inputs_of_forward(model: nn.Module, inputs: Any) -> Any:
    """Return the inputs of a batch without those keyword arguments that the model's forward does not take.

    Parameters
    ----------
    model : nn.Module
    inputs : Tensor, tuple or dict
    """
    return _for_forward(inputs, _Forward.of(model))


def _to_model(value: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_model(item, device, dtype) for key, item in value.items()}
    if isinstance(value, tuple | list) and not _is_numbers(value):
        return tuple(_to_model(item, device, dtype) for item in value)
    if not _is_array(value) and not _is_numbers(value):
        return value
    if not isinstance(value, Tensor):
        array = np.asarray(_array(value))
        if array.dtype == object and all(isinstance(number, Real) for number in array.ravel()):
            array = array.astype(np.float64)
        try:
            value = as_tensor(array)
        except TypeError as error:
            raise InputError(
                f"expected an input of numbers, got an array that torch refuses: {error}"
            ) from error
    target = dtype if dtype is not None and value.is_floating_point() else value.dtype
    return value.detach().to(device=device, dtype=target, copy=True)


def _rejoined(value: Any) -> Any:
    """Return (b, d) for d tensors (b,), into which torch's collation splits rows that are lists."""
    is_split = isinstance(value, list) and value and all(isinstance(v, Tensor) and v.ndim == 1 for v in value)
    return torch.stack(value, 1) if is_split and len({len(v) for v in value}) == 1 else value


def _column(values: Any, size: int, what: str) -> Column | None:
    if values is None:
        return None
    array = values.detach().cpu() if isinstance(values, Tensor) else np.asarray(_array(values))
    if isinstance(array, np.ndarray) and array.dtype.kind in "biuf":
        array = as_tensor(array)
    if isinstance(array, Tensor) and not array.is_floating_point() and array.dtype is not torch.bool:
        array = array.long()
    if not array.ndim or len(array) != size:
        raise InputError(f"expected {size} {what} for a batch of {size}, got the shape {tuple(array.shape)}")
    return array


def _index(values: Any, size: int) -> Column | None:
    """Return the item after the labels if it may be an index: whole numbers or texts."""
    column = None if _is_nested(values) and not is_texts(values) else _column(values, size, "indices")
    is_index = column is not None and column.ndim == 1 and np.asarray(column[:1]).dtype.kind in "iuU"
    return column if is_index else None


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):  # among them the ModelOutput of transformers
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}")
    elif hasattr(value, "_asdict"):  # a named tuple
        yield from _leaves(value._asdict(), name)
    elif isinstance(value, tuple | list):
        for place, item in enumerate(value):
            yield from _leaves(item, f"{name}.{place}")
    elif is_dataclass(value):
        for field in fields(value):
            yield from _leaves(getattr(value, field.name), f"{name}.{field.name}")
    elif not isinstance(value, type | nn.Module):  # an object's public attributes
        for key, item in {**vars(type(value)), **getattr(value, "__dict__", {})}.items():
            if not key.startswith("_") and isinstance(item, Tensor | Mapping | tuple | list):
                yield from _leaves(item, f"{name}.{key}")
