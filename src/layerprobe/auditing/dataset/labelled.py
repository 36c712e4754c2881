"""A labelled dataset with stable ids that can be read repeatedly, and its classes.

`read_rows` takes data in any form: `layers.batches` parses data in memory, and `readers` reads files, folders
and Hugging Face datasets.
"""

import copy
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from layerprobe.errors import InputError
from layerprobe.layers.batches import (
    LABEL_KEYS,
    Batch,
    as_tensor,
    check_same_index,
    count_rows,
    is_texts,
    join,
    keeps_order,
    map_tensors,
    named_tensors,
    pairs_of_rows,
    read_batches,
    row_index,
    row_names,
    scaled_pixels,
)
from layerprobe.layers.tracing import takes_bytes
from layerprobe.layerwise.classes import class_order, escape_surrogates, fitting_names, label_column

MOST_NUMBERS = 2**28  # of rows that are compared; a gigabyte
_COMPARED = 64  # rows per batch whose content is compared in every pass
_SHOWN = 5  # shared rows in a message


def read_rows(
    data: Any,
    labels: Any = None,
    *,
    inputs: Callable[[Any], Any] | None = None,
    batch_size: int = 512,
    model: nn.Module | None = None,
    **columns: Any,
) -> "LabelledDataset":
    """Read any supported dataset.

    The data are read once by this call, and a few rows twice. Texts and the images of files and of Hugging
    Face datasets are then held in memory, images at h w or 3 h w bytes each; a Dataset or a DataLoader is
    read again in every pass.

    Parameters
    ----------
    data
        * data in memory, a Dataset or a DataLoader, as for :func:`layerprobe.capture`, that can be read
          repeatedly and in a fixed order, or with an index per row; x may be a list of texts;
        * the path of a folder with one subfolder of images per class, whose names are the labels; of a .csv
          file with the columns path, text or numbers, and label (paths are relative to the file); of an
          .npz file with the arrays x and y; of a folder that ``save_to_disk`` wrote;
        * one split of a Hugging Face dataset of images, texts or numbers;
        * a `LabelledDataset`, which stays unchanged.
    labels : sequence of n labels, optional
        They replace the labels of the data: in the order of the rows or, if the data have indices, the label
        of row i is ``labels[index[i]]``. Categories of pandas keep their order as classes, and enumerations
        that of their definition. ``...``: the rows need no labels, and every label is 0.
    inputs : callable, optional
        Converts a batch's content to the model's inputs, a tensor, tuple or dict. The content is a list of
        texts, pixels (b, h, w) or (b, h, w, 3) as a uint8 tensor, or else the data's own x. The function must
        treat each row by itself and be deterministic. Texts need it. Without it, uint8 pixels of 0, 1 or 3
        channels become (b, 1 or 3, h, w) float32 in [0, 1]; in arrays only where `model` does not run on
        them as they are. All else stays unchanged.
    batch_size : int
        Rows per batch in the first pass.
    model : nn.Module, optional
        Its ``forward`` shows how many inputs an item has, and their names.
    **columns
        For files and Hugging Face datasets: ``path_column``, ``text_column``, ``label_column``, the names of
        columns that have other names or are not clear, and ``resize``, one or two integers: resize image
        files to this (height, width); without it all must have one size.

    Returns
    -------
    LabelledDataset

    Raises
    ------
    InputError
        If rows have no stable ids (a loader that may shuffle without indices), the data can be read only
        once, change from pass to pass, are empty or hold NaN, lengths differ, labels are missing, or `inputs`
        is missing for texts or returns another number of rows.
    DataError
        If files are missing or cannot be read.
    """
    options = {name: value for name, value in columns.items() if value is not None}
    if unknown := options.keys() - {"path_column", "text_column", "label_column", "resize"}:
        raise InputError(f"read_rows has no argument {unknown.pop()!r}")
    common: dict[str, Any] = {"inputs": inputs, "batch_size": batch_size, "model": model}
    if isinstance(data, str | os.PathLike) or hasattr(data, "features") or _has_splits(data):
        from layerprobe.auditing.dataset.readers import read_raw

        raw = read_raw(data, options)
        source = raw.content if labels is not None or raw.labels is None else (raw.content, raw.labels)
        names = raw.class_names
        return LabelledDataset(source, labels, index=raw.ids, class_names=names, images=raw.images, **common)
    if options:
        raise InputError(f"{next(iter(options))} does not apply to data of the type {type(data).__name__}")
    if not isinstance(data, LabelledDataset):
        names = getattr(getattr(data, "dataset", data), "classes", None)
        return LabelledDataset(data, labels, index=row_names(data), class_names=names, **common)
    if inputs is not None:
        raise InputError("this dataset was read before: give inputs= to the first call of read_rows")
    return data if labels is None or labels is ... else data.with_labels(labels)


def rows_to_show(data: Any, names: np.ndarray) -> "LabelledDataset | None":
    """Return the rows behind given features or predictions, to show and to compare them; None without data.

    Parameters
    ----------
    data : optional
        As for :func:`read_rows`; labels are not needed. A frame with columns that are no numbers becomes
        texts, one line per column.
    names : ndarray (n,)
        Names of the expected rows.

    Raises
    ------
    InputError
        If the number of rows or, where both have names, their order differs.
    """
    if data is None:
        return None
    n, own_names = len(names), row_names(data)
    if isinstance(data, pd.DataFrame) and not all(map(pd.api.types.is_numeric_dtype, data.dtypes)):
        texts = pd.Series("", index=data.index, dtype=object)
        for name in data:
            texts += f"{name}: " + data[name].astype(str) + "\n"
        data = texts.str.removesuffix("\n").tolist()
    count = None if isinstance(data, str | os.PathLike) else count_rows(data)
    rows = data
    if count in (None, n) and not isinstance(data, LabelledDataset):
        rows = read_rows(data, ..., inputs=without_model)
    if (got := rows.n if isinstance(rows, LabelledDataset) else count) != n:
        raise InputError(f"expected data= with the {n} rows of the audit, got {got} rows")
    own_names = (rows.index if own_names is None else own_names).astype(str)
    given = names.astype(str)
    if (own_names != given).any() and (names != np.arange(n)).any() and set(own_names) == set(given):
        i = int((own_names != given).argmax())
        raise InputError(
            f"data= has the rows of the audit in another order: its row {i} is {str(own_names[i])!r}, that "
            f"of the audit is {str(given[i])!r}. Give both in one order"
        )
    return rows


def numbers_of_rows(rows: "LabelledDataset") -> Tensor | None:
    """Return rows of numbers or pixels as features (n, d) float32; None for others, or for too many."""
    X: Tensor | None = None
    for inputs, positions in rows.batches():
        content = inputs.flatten(1) if isinstance(inputs, Tensor) and inputs.ndim > 1 else None
        if content is None or content.is_complex() or rows.n * content.shape[1] > MOST_NUMBERS:
            return None
        X = torch.empty(rows.n, content.shape[1]) if X is None else X
        X[torch.from_numpy(positions)] = content.float().cpu()
    return X


def without_model(content: Any) -> Any:
    """Return a batch's content without a model; texts become zeros, since they are shown as they are."""
    return torch.zeros(len(content)) if is_texts(content) else content


def _has_splits(data: Any) -> bool:
    return isinstance(data, Mapping) and any(hasattr(split, "features") for split in data.values())


class LabelledDataset:
    """Labelled rows that can be read repeatedly; :func:`layerprobe.auditing.read_rows` returns them.

    Rows are numbered 0..n-1 in the order of the data, or in the order of their indices if the data have
    indices. The numbers do not depend on batches or on the order of a loader with indices.

    Parameters
    ----------
    source, labels, inputs, batch_size, model
        As for :func:`layerprobe.auditing.read_rows`.
    index : ndarray of shape (n,), optional
        The rows' ids, if `source` has no indices.
    class_names : sequence, optional
        Names of the classes in their order.
    images : bool
        Whether uint8 pixels are decoded images, which become floats for every model.

    Attributes
    ----------
    n : int
        The number of rows.
    labels : ndarray of shape (n,)
        The given labels: integers, texts or other values.
    index : ndarray of shape (n,)
        The rows' ids: positions, the data's indices, the index of pandas, or the paths of files.
    class_names : tuple or None
        The names of the classes 0..K-1, if the data have names and labels are such names or class indices.
    """

    def __init__(
        self,
        source: Any,
        labels: Any = None,
        *,
        inputs: Callable[[Any], Any] | None = None,
        index: np.ndarray | None = None,
        class_names: Sequence[Any] | None = None,
        batch_size: int = 512,
        model: nn.Module | None = None,
        images: bool = False,
    ) -> None:
        if isinstance(source, Iterator):
            raise InputError(
                f"the data must be readable more than once, got a {type(source).__name__}, which is used up "
                "after one pass: give a list, arrays, a Dataset or a DataLoader"
            )
        check_same_index((*source, labels) if isinstance(source, tuple) else (source, labels))
        self._source = source
        self._prepare = _input_function(inputs, None if images else model)
        self._model = model if inputs is None else None
        self._class_names = class_names
        self._first_pass(batch_size)
        self.index = escape_surrogates(self._names if self._indexed or index is None else index)
        self.labels = np.zeros(self.n, np.int64)
        self.class_names: tuple[Any, ...] | None = None
        if labels is not ...:
            self._set_labels(self._given if labels is None else labels)
        next(self._read(_COMPARED))  # a second time: random operations change rows

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"LabelledDataset(n={self.n}, {len(pd.unique(self.labels))} classes)"

    def batches(self, batch_size: int = 512) -> Iterator[tuple[Any, np.ndarray]]:
        """Read the data once.

        Parameters
        ----------
        batch_size : int
            Rows per batch of arrays and of a Dataset; a loader has batches of its own.

        Yields
        ------
        inputs : Tensor, tuple or dict
            The model's inputs, copied, on the data's device.
        positions : ndarray of shape (b,), int64
            The numbers of these rows, in 0..n-1.

        Raises
        ------
        InputError
            If rows or labels differ from those of the first pass.
        """
        for batch, positions in self._read(batch_size):
            yield batch.inputs, positions

    def example(self, i: int) -> np.ndarray | str | None:
        """Return one row for display; `examples` reads the data once for many rows."""
        return self.examples([i])[0]

    def examples(self, positions: Iterable[int]) -> list[np.ndarray | str | None]:
        """Return rows for display.

        Parameters
        ----------
        positions : iterable of int
            In 0..n-1.

        Returns
        -------
        list
            For each row uint8 pixels (h, w) or (h, w, 3), a text, or None. Floats of shape (h, w), (1, h, w)
            or (3, h, w) are displayed as pixels: each channel's range over all rows becomes 0..255.
        """
        wanted = [int(i) for i in positions]
        if outside := [i for i in wanted if not 0 <= i < self.n]:
            raise InputError(f"expected positions of rows in 0..{self.n - 1}, got {outside[0]}")
        found: dict[int, Any] = {}
        x = self._source[0] if isinstance(self._source, tuple) else self._source
        if isinstance(x, np.ndarray | Tensor):
            for i in wanted:
                row = int(self._order[i])
                found[i] = _displayed(x[row : row + 1], None)[0]
        else:
            for batch, numbers in self._read(512) if wanted else ():
                values = _displayed(batch.raw, batch.inputs)
                for j in np.flatnonzero(np.isin(numbers, wanted)):
                    found[int(numbers[j])] = None if values is None else values[j]
                if len(found) == len(set(wanted)):
                    break
        return [_pixels(found[i], *self._range) for i in wanted]

    @cached_property
    def _range(self) -> tuple[Tensor, Tensor]:
        """The smallest and largest value of each channel over all rows, if they are floating-point images."""
        low, high = torch.tensor(torch.inf), torch.tensor(-torch.inf)
        for batch, _ in self._read(512):
            values = _displayed(batch.raw, batch.inputs)
            if not (isinstance(values, Tensor) and len(values) and _is_float_image(values[0])):
                break
            planes = values if values.ndim == 4 else values[:, None]
            low = torch.minimum(low, planes.amin((0, 2, 3)).cpu())
            high = torch.maximum(high, planes.amax((0, 2, 3)).cpu())
        return low, high

    @property
    def columns(self) -> list[str] | None:
        """The names of the columns of a data frame without its labels, or None."""
        frame = self._source[0] if isinstance(self._source, tuple) else self._source
        if not isinstance(frame, pd.DataFrame):
            return None
        key = None if isinstance(self._source, tuple) else next((k for k in LABEL_KEYS if k in frame), None)
        return [str(name) for name in frame.columns if key is None or name != key]

    def fingerprints(self) -> np.ndarray:
        """Return the hash of the content of each row without its label, (n,) uint64.

        Hashes are equal for equal rows in any form, batches and order. Texts are hashed before they become
        tokens.
        """
        return self._hashes

    def origins(self) -> list[Any]:
        """Return the place of each row in the torch Dataset or image folder below; empty without one."""
        dataset: Any = self._source.dataset if isinstance(self._source, DataLoader) else self._source
        items: Sequence[int] | None = None
        while isinstance(dataset, Subset):
            items = dataset.indices if items is None else [dataset.indices[i] for i in items]
            dataset = dataset.dataset
        if not isinstance(dataset, Dataset) or isinstance(dataset, IterableDataset) or self._indexed:
            return []
        items = range(self.n) if items is None else items
        files = getattr(dataset, "samples", None)  # of ImageFolder
        if isinstance(files, list) and files and isinstance(files[0], tuple):
            return [files[i][0] for i in items]
        return [(id(dataset), int(i)) for i in items]

    def with_labels(self, labels: Any) -> Self:
        """Return the same rows with other labels: one per row, or one per index if the data have indices."""
        other = copy.copy(self)
        other._set_labels(labels)
        return other

    def _first_pass(self, batch_size: int) -> None:
        """Read rows, labels and indices once, and raise for data that cannot be audited."""
        if reason := pairs_of_rows(self._source):
            raise InputError(reason)
        labels, indices, hashes, samples = [], [], [], []
        self.n = 0
        for batch in self._batches(batch_size):
            if batch.indices is None:
                self._require_order("gives no indices")
            for _, tensor in named_tensors(batch.inputs):
                # The sum is ten times faster than isnan and is NaN too; inf - inf needs the second check.
                if tensor.is_floating_point() and tensor.sum().isnan() and tensor.isnan().any():
                    bad = tensor.isnan().reshape(len(tensor), -1).any(1).nonzero()[0] if tensor.ndim else 0
                    raise InputError(
                        f"the data hold NaN, first in row {self.n + int(bad)}: remove or replace such rows"
                    )
            content = _batch_content(batch.raw)
            of_texts = is_texts(content)  # before they become tokens
            hashes.append(_hash_texts(content) if of_texts else hash_inputs(batch.inputs, batch.size))
            samples.append((self.n, _row_hashes(batch, np.arange(min(batch.size, _COMPARED)))))
            labels.append(batch.labels)
            indices.append(batch.indices)
            self.n += batch.size
        if not self.n:
            raise InputError("expected at least one row, got none: the data are empty")
        given, index = join(labels), row_index(join(indices))
        self._indexed = index is not None
        if index is None:
            self._require_order("its third item is no index, since it repeats values")
        self._order = np.arange(self.n) if index is None else np.argsort(index, kind="stable")
        self._names = self._order if index is None else index[self._order]
        self._given = None if given is None else np.asarray(given)[self._order]
        self._hashes = np.concatenate(hashes)[self._order]
        places = self._order.argsort()
        self._sample = {
            int(places[start + i]): one for start, sample in samples for i, one in enumerate(sample.tolist())
        }

    def _require_order(self, reason: str) -> None:
        if not keeps_order(self._source):
            raise InputError(
                f"the loader may shuffle and {reason}, so its rows have no stable ids: use shuffle=False, or "
                "a dataset of (x, y, index)"
            )

    def _batches(self, batch_size: int) -> Iterator[Batch]:
        if batch_size < 1:
            raise InputError(f"expected a batch_size of at least 1, got {batch_size}")
        return read_batches(self._source, batch_size, prepare=self._prepare, model=self._model)

    def _read(self, batch_size: int) -> Iterator[tuple[Batch, np.ndarray]]:
        """Yield each batch and the numbers of its rows; raise if the data differ from the first pass."""
        seen = 0
        for batch in self._batches(batch_size):
            positions = np.arange(seen, seen + batch.size)
            if self._indexed:
                indices = np.asarray(batch.indices)
                positions = np.searchsorted(self._names, indices).clip(max=self.n - 1)
                known = np.array_equal(self._names[positions], indices)
            else:
                known = seen + batch.size <= self.n
            if not known or not _same(self._given, batch.labels, positions):
                raise InputError(
                    "the data changed between two passes: another order, other rows or other labels. Remove "
                    "random operations, or give each row's index, as (x, y, index)"
                )
            compared = np.flatnonzero(np.isin(positions, list(self._sample)))
            expected = [self._sample[i] for i in positions[compared].tolist()]
            if len(compared) and _row_hashes(batch, compared).tolist() != expected:
                raise InputError(
                    "the content of the data changed between two passes: remove random operations such as "
                    "augmentation; transforms that keep the label can be given as views="
                )
            seen += batch.size
            yield batch, positions
        if seen != self.n:
            raise InputError(
                f"the data changed between two passes: expected {self.n} rows as in the first, got {seen}"
            )

    def _set_labels(self, labels: Any) -> None:
        if labels is None:
            raise InputError("the data have no labels: give them as labels=, or as (x, y)")
        own = self._source[1] if isinstance(self._source, tuple) and len(self._source) > 1 else None
        order = class_order(own) if labels is self._given and own is not None else class_order(labels)
        column = label_column(labels)
        if self._indexed and labels is not self._given:
            if self._names.dtype.kind not in "iu" or self._names[0] < 0:
                name = self._names[0].item()
                raise InputError(
                    f"labels= are taken by index, but the rows have ids such as {name!r}: give the labels "
                    "with the data"
                )
            if len(column) <= self._names[-1]:
                raise InputError(f"labels= has {len(column)} labels, but the indices go to {self._names[-1]}")
            column = column[self._names]
        if len(column) != self.n:
            raise InputError(f"expected {self.n} labels, one per row, got {len(column)}")
        self.labels = column
        self.class_names = fitting_names(column, self._class_names if order is None else order)


def _pixels(value: Any, low: Tensor, high: Tensor) -> np.ndarray | str | None:
    """Return one row as uint8 pixels (h, w) or (h, w, 3), as a text, or None if it is neither.

    Rows of floats are images where their shape is (h, w), (1, h, w) or (3, h, w). Their values may be scaled
    or normalised: each channel's range over all rows is mapped to 0..255.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, Tensor):
        return None
    value = value.detach().cpu()
    if _is_float_image(value):
        planes = value if value.ndim == 3 else value[None]
        low, high = (limit.to(value.dtype).reshape(-1, 1, 1) for limit in (low, high))
        levels = 255 * (planes - low) / (high - low).clamp(min=torch.finfo(value.dtype).tiny)
        pixels = levels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    elif value.dtype == torch.uint8 and value.ndim in (2, 3):
        is_last = value.ndim == 2 or value.shape[2] in (1, 3)
        pixels = value if is_last else value.permute(1, 2, 0)
    else:
        return None
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    is_picture = pixels.ndim == 2 or pixels.shape[2] == 3
    return np.ascontiguousarray(pixels.numpy()) if is_picture else None


def _is_float_image(value: Tensor) -> bool:
    """Return whether a row of floats has the shape (h, w), (1, h, w) or (3, h, w)."""
    shaped = value.ndim == 2 or (value.ndim == 3 and value.shape[0] in (1, 3))
    return value.is_floating_point() and shaped and min(value.shape[-2:]) > 1


def _row_hashes(batch: Batch, rows: np.ndarray) -> np.ndarray:
    """Hash some rows of a batch, before ``inputs=`` if they are texts or one array."""
    content = _batch_content(batch.raw)
    if is_texts(content):
        return _hash_texts([content[i] for i in rows])
    values = content if isinstance(content, Tensor) else batch.inputs
    chosen = map_tensors(values, lambda _, x: x[rows] if x.shape[:1] == (batch.size,) else x)
    return hash_inputs(chosen, len(rows))


def _displayed(raw: Any, inputs: Any) -> Any:
    """Return the values of a batch that can be displayed: texts, a tensor (b, ...) or None."""
    content = _batch_content(raw)
    if isinstance(content, Tensor) or is_texts(content):
        return content
    tensors = named_tensors(inputs)
    return tensors[0][1] if tensors else None


def _same(given: np.ndarray | None, labels: Any, positions: np.ndarray) -> bool:
    if given is None or labels is None:
        return given is labels
    expected, got = given[positions], np.asarray(labels)
    if expected.dtype == object:  # NA equals NA
        return pd.Series(expected, dtype=object).equals(pd.Series(got, dtype=object))
    return np.array_equal(expected, got, equal_nan=expected.dtype.kind == "f")


def _batch_content(raw: Any) -> Any:
    """Return texts as a list, an array of numbers as a tensor, and anything else unchanged."""
    if isinstance(raw, Tensor | Mapping):
        return raw
    if isinstance(raw, list | tuple):
        return list(raw) if is_texts(raw) else raw
    array = np.asarray(raw)
    if array.dtype.kind not in "OUT":
        return as_tensor(array)
    values = array.tolist()
    texts = [isinstance(value, str) for value in values]
    if any(texts) and not all(texts):
        raise InputError(
            f"expected texts only, got {values[texts.index(False)]!r} among them: fill or remove it"
        )
    return values if any(texts) else raw


def _input_function(
    inputs: Callable[[Any], Any] | None, model: nn.Module | None = None
) -> Callable[[Any], Any]:
    """Return the function from a batch's content to the model's inputs: the user's one, or pixels to floats.

    Without a function of the user, uint8 pixels (b, h, w), (b, h, w, 3) or (b, 1 or 3, h, w) become float32
    (b, 1 or 3, h, w) in [0, 1]. If `model` runs on the first batch of pixels, they stay as they are.
    """
    as_they_are: list[bool] = []

    def prepare(raw: Any) -> Any:
        content = _batch_content(raw)
        if inputs is None:
            if is_texts(content):
                raise InputError(
                    "the data are texts, but a model takes numbers: give inputs=, a function from a list of "
                    "texts to the model's inputs, for example "
                    "inputs=lambda texts: tokenizer(texts, padding=True, return_tensors='pt')"
                )
            is_pixels = isinstance(content, Tensor) and content.dtype == torch.uint8
            if is_pixels and not as_they_are:
                as_they_are.append(model is not None and takes_bytes(model, content))
            return scaled_pixels(content) if is_pixels and not as_they_are[0] else raw
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


def dummy_input(inputs: Any, size: int) -> Any:
    """Return ones in the form of a batch of inputs, with at most two rows.

    It takes no memory and is enough to see the shapes of a network's layers. Ones are valid tokens, and a
    mask of ones keeps all of them.

    Parameters
    ----------
    inputs : Tensor, tuple or dict
    size : int
        The batch's number of rows.
    """

    def ones(name: str, tensor: Tensor) -> Tensor:
        rows = tensor[:2] if tensor.shape[:1] == (size,) else tensor
        return torch.ones((), dtype=tensor.dtype).expand(rows.shape)

    return map_tensors(inputs, ones)


def hash_network(model: nn.Module) -> str:
    """Return the SHA-256 of a network's weights and buffers in their order, without names and device."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        if isinstance(tensor, Tensor):
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_inputs(inputs: Any, size: int) -> np.ndarray:
    """Hash the rows of a model's input, (size,) uint64.

    The hash depends on values only: floats are converted to float32 and integers to int64, and shapes are
    ignored, so an array and a loader of the same rows agree. Tokens that ``attention_mask`` excludes are
    ignored, since padding depends on the batch.

    Parameters
    ----------
    inputs : Tensor, or tuple or dict of them
        Tensors with `size` rows are hashed in the order of their names.
    size : int
    """
    named = dict(named_tensors(inputs))
    if len(named) > 1:
        del named[""]  # the main tensor, listed a second time under its own name
    mask = named.get(".attention_mask")
    kept = None if mask is None else mask.cpu().numpy() != 0  # (size, t)
    columns = [_numbers(tensor) for _, tensor in sorted(named.items()) if tensor.shape[:1] == (size,)]

    def row(column: np.ndarray, i: int) -> bytes:
        if kept is not None and column.shape[:2] == kept.shape:
            return column[i][kept[i]].tobytes()
        return column[i].tobytes()

    digests = (_digest(*(row(column, i) for column in columns)) for i in range(size))
    return np.fromiter(digests, np.uint64, size)


def _numbers(tensor: Tensor) -> np.ndarray:
    wide = torch.float32 if tensor.is_floating_point() else torch.int64
    return tensor.detach().cpu().to(wide).numpy() + 0  # -0.0 becomes 0.0


def _hash_texts(texts: Sequence[str]) -> np.ndarray:
    encoded = (text.encode("utf-8", "surrogatepass") for text in texts)
    return np.fromiter(map(_digest, encoded), np.uint64, len(texts))


def _digest(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha256(b"".join(parts)).digest()[:8], "little")


def check_disjoint(rows: LabelledDataset, held_out: LabelledDataset, what: str = "holdout") -> None:
    """Raise if held-out rows are among the training rows.

    Rows are compared by their fingerprints, so labels, order and form do not matter, and a copy of a row
    under another id is found as well; and items of one torch Dataset or image folder, whose content
    transforms may change, by their place in it.

    Parameters
    ----------
    rows, held_out : LabelledDataset
    what : str
        The name of the argument that gave `held_out`.
    """
    is_shared = np.isin(held_out.fingerprints(), rows.fingerprints())
    trained = set(rows.origins())
    is_shared |= np.array([origin in trained for origin in held_out.origins()] or False)
    shared = np.flatnonzero(is_shared)
    if not len(shared):
        return
    names = ", ".join(map(str, held_out.index[shared[:_SHOWN]]))
    raise InputError(
        f"{len(shared)} of the {held_out.n} rows of {what}= are among the training rows, so the network has "
        f"seen their labels: {names}{', ...' if len(shared) > _SHOWN else ''} (indices in {what}). "
        "Remove them, or train a network without them"
    )
