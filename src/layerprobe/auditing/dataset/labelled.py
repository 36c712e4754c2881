"""A labelled dataset with stable ids that can be read repeatedly, and its classes."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from layerprobe.auditing.dataset.inputs import (
    ChannelRange,
    batch_content,
    display_values,
    hash_inputs,
    hash_texts,
    input_function,
    is_texts,
    map_tensors,
)
from layerprobe.errors import InputError
from layerprobe.layers.batches import Batch, join, keeps_order, named_tensors, read_batches
from layerprobe.probes.base import encode, label_array

_COMPARED = 8  # rows of the first batch whose content is compared in every pass


class LabelledDataset:
    """Labelled rows that can be read repeatedly; :func:`layerprobe.auditing.read_rows` returns them.

    Rows are numbered 0..n-1 in the order of the data, or in the order of their indices if the data have
    indices. The numbers do not depend on batches or on the order of a loader with indices.

    Parameters
    ----------
    source : arrays, Dataset, DataLoader or iterable of batches
        As for :func:`layerprobe.capture`.
    labels, inputs, batch_size
        As for :func:`layerprobe.auditing.read_rows`.
    index : ndarray of shape (n,), optional
        The rows' ids, if `source` has none.
    class_names : sequence of str, optional

    Attributes
    ----------
    n : int
        The number of rows.
    labels : ndarray of shape (n,)
        The given labels: integers, texts or other values.
    index : ndarray of shape (n,)
        The rows' ids: positions, the data's indices, or the paths of files.
    class_names : tuple of str or None
        The names of the classes 0..K-1, if the data have names and labels are such names or class indices.
    """

    def __init__(
        self,
        source: Any,
        labels: Any = None,
        *,
        inputs: Callable[[Any], Any] | None = None,
        index: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
        batch_size: int = 512,
    ) -> None:
        if isinstance(source, Iterator):
            raise InputError(
                f"the data must be readable more than once, got a {type(source).__name__}, which is used up "
                "after one pass: give a list, arrays, a Dataset or a DataLoader"
            )
        self._source = source
        self._prepare = input_function(inputs)
        self._hashes: np.ndarray | None = None
        self._first_pass(batch_size)
        self.index = escape_surrogates(self._names if index is None else index)
        self.labels = self._checked_labels(self._given if labels is None else labels)
        self.class_names: tuple[str, ...] | None = None
        if class_names is not None:
            names = escape_surrogates(np.array(list(map(str, class_names)))).tolist()
            if self.labels.dtype.kind in "iu":
                fits = 0 <= self.labels.min() <= self.labels.max() < len(names)
            else:
                fits = set(self.labels.tolist()) <= set(names)
            self.class_names = tuple(names) if fits else None

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
        left, shown = set(wanted), {}
        if (array := self._random_access()) is not None:
            for i in left:
                row = int(self._order[i])
                shown[i] = self._range.display(display_values(array[row : row + 1], None)[0])
            return [shown[i] for i in wanted]
        for batch, numbers in self._read(512) if left else ():
            values = display_values(batch.raw, batch.inputs)
            for j in np.flatnonzero(np.isin(numbers, list(left))):
                shown[int(numbers[j])] = self._range.display(None if values is None else values[j])
                left.discard(int(numbers[j]))
            if not left:
                break
        return [shown[i] for i in wanted]

    def fingerprints(self) -> np.ndarray:
        """Hash the content of each row without its label; texts are hashed before they become tokens.

        Returns
        -------
        ndarray of shape (n,), uint64
            Equal for equal rows in any form, batches and order. The first call reads the data once.
        """
        if self._hashes is None:
            hashes = np.empty(self.n, np.uint64)
            for batch, positions in self._read(512):
                texts = batch_content(batch.raw)
                hashes[positions] = (
                    hash_texts(texts) if is_texts(texts) else hash_inputs(batch.inputs, batch.size)
                )
            self._hashes = hashes
        return self._hashes

    def with_labels(self, labels: Any) -> Self:
        """Return the same rows with other labels: one per row, or one per index if the data have indices."""
        other = copy.copy(self)
        other.labels = self._checked_labels(labels)
        return other

    def _first_pass(self, batch_size: int) -> None:
        """Read rows, labels, indices and channel ranges once, and raise for data that cannot be audited."""
        labels, indices = [], []
        self.n = 0
        self._range = ChannelRange()
        for batch in self._batches(batch_size):
            if batch.indices is None and not keeps_order(self._source):
                raise InputError(
                    "the loader may shuffle and gives no indices, so its rows have no stable ids: use "
                    "shuffle=False, or a dataset of (x, y, index)"
                )
            if batch.indices is None and _may_repeat_rows(self._source):
                raise InputError(
                    "each worker of the loader may give all rows of the IterableDataset: use num_workers=0, "
                    "or a dataset of (x, y, index)"
                )
            if not self.n:
                sample = _row_hashes(batch, np.arange(min(batch.size, _COMPARED)))
            for _, tensor in named_tensors(batch.inputs):
                # The sum is ten times faster than isnan and is NaN too; inf - inf needs the second check.
                if tensor.is_floating_point() and tensor.sum().isnan() and tensor.isnan().any():
                    bad = tensor.isnan().reshape(len(tensor), -1).any(1).nonzero()[0] if tensor.ndim else 0
                    raise InputError(
                        f"the data hold NaN, first in row {self.n + int(bad)}: remove or replace such rows"
                    )
            self._range.update(display_values(batch.raw, batch.inputs))
            labels.append(batch.labels)
            indices.append(batch.indices)
            self.n += batch.size
        if not self.n:
            raise InputError("expected at least one row, got none: the data are empty")
        given, index = join(labels), join(indices)
        self._given = None if given is None else np.asarray(given)
        self._indexed = index is not None
        self._names, self._order = np.arange(self.n), np.arange(self.n)
        if index is not None:
            self._names, self._order = _sorted(np.asarray(index))
            self._given = self._given if self._given is None else self._given[self._order]
        positions = self._order.argsort()[: len(sample)]
        self._sample = dict(zip(positions.tolist(), sample.tolist(), strict=True))

    def _batches(self, batch_size: int) -> Iterator[Batch]:
        if batch_size < 1:
            raise InputError(f"expected a batch_size of at least 1, got {batch_size}")
        return read_batches(self._source, batch_size, prepare=self._prepare)

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

    def _checked_labels(self, labels: Any) -> np.ndarray:
        if labels is None:
            raise InputError("the data have no labels: give them as labels=, or as (x, y)")
        try:
            column = label_array(labels)
        except ValueError as error:
            raise InputError(
                f"expected one label per row, of shape (n,), got the shape {np.shape(labels)}"
            ) from error
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
        if (missing := pd.isna(column)).any():
            raise InputError(
                f"{missing.sum()} labels are missing (NaN or None), the first that of row "
                f"{int(missing.argmax())}: every row needs one"
            )
        return escape_surrogates(column)

    def _random_access(self) -> Any:
        """Return the array of all rows if the source is one, else None."""
        x = self._source[0] if isinstance(self._source, tuple) else self._source
        return x if isinstance(x, np.ndarray | Tensor) else None


def _sorted(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct indices in ascending order, and the place of each one's row in the data."""
    if index.dtype.kind not in "iuU":
        raise InputError(f"expected indices that are integers or texts, got {index.dtype}")
    order = np.argsort(index, kind="stable")
    index = index[order]
    repeated = np.flatnonzero(index[1:] == index[:-1])
    if len(repeated):
        raise InputError(
            f"expected one distinct index per row as the third item of (x, y, index), but {len(repeated)} "
            f"are repeated, the first {index[repeated[0]].item()!r}. If the third item is something else, "
            "leave it out; if a sampler repeats rows, use one without replacement"
        )
    return index, order


def _may_repeat_rows(source: Any) -> bool:
    return (
        isinstance(source, DataLoader)
        and isinstance(source.dataset, IterableDataset)
        and source.num_workers > 1
    )


def _row_hashes(batch: Batch, rows: np.ndarray) -> np.ndarray:
    """Hash some rows of a batch, before ``inputs=`` if they are texts or one array."""
    content = batch_content(batch.raw)
    if is_texts(content):
        return hash_texts([content[i] for i in rows])
    values = content if isinstance(content, Tensor) else batch.inputs
    chosen = map_tensors(values, lambda _, x: x[rows] if x.shape[:1] == (batch.size,) else x)
    return hash_inputs(chosen, len(rows))


def _same(given: np.ndarray | None, labels: Any, positions: np.ndarray) -> bool:
    if given is None or labels is None:
        return given is labels
    return np.array_equal(given[positions], np.asarray(labels), equal_nan=given.dtype.kind == "f")


class Classes:
    """The classes in the order of the network's outputs.

    Attributes
    ----------
    names : ndarray of shape (K,)
        The users' labels.
    """

    def __init__(self, names: np.ndarray) -> None:
        self.names = names
        self._index = {name: k for k, name in enumerate(names.tolist())}

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_labels(
        cls, labels: np.ndarray, outputs: int | None, class_names: Sequence[Any] | None
    ) -> "Classes":
        """Return the classes of training labels.

        Parameters
        ----------
        labels : ndarray of shape (n,)
        outputs : int or None
            The network's number of outputs; None without a network.
        class_names : sequence, optional
            Names of the outputs in their order. Labels are then such names, or class indices if labels are
            integers and the names are not.

        Raises
        ------
        InputError
            If labels and outputs do not fit together, or the order of the classes is not clear.
        """
        if labels.dtype.kind == "f":
            raise InputError(
                "expected labels that are integers or names, got floating-point numbers such as "
                f"{labels[0].item()!r}: convert class numbers to integers"
            )
        labels = escape_surrogates(labels)
        if class_names is not None:
            names = escape_surrogates(label_array(list(class_names)))
            if outputs is not None and len(names) != outputs:
                raise InputError(
                    f"class_names has {len(names)} names for {outputs} outputs of the network: give one name "
                    "per output (the default are the class names of the data)"
                )
        elif labels.dtype.kind in "iu" and outputs is not None:
            names = np.arange(outputs)
        else:
            names = encode(labels)[0]
            if outputs is not None and len(names) != outputs:
                raise InputError(
                    f"the labels have {len(names)} different names and the network {outputs} outputs: give "
                    "the names of all outputs in their order by class_names="
                )
            if outputs is not None and not _has_one_order(names.tolist()):
                raise InputError(
                    f"the order of the classes {', '.join(map(repr, names.tolist()[:4]))}, ... is not clear: "
                    "give the names of the network's outputs in their order by class_names="
                )
        if len(names) < 2 or len(set(names.tolist())) < len(names):
            raise InputError(f"expected at least two different classes, got {names.tolist()[:5]}")
        return cls(names)

    def indices(self, labels: np.ndarray, what: str) -> Tensor:
        """Return the class indices of labels.

        Parameters
        ----------
        labels : ndarray of shape (n,)
        what : str
            The labels' name in messages.

        Returns
        -------
        Tensor of shape (n,), int64
            In 0..K-1.

        Raises
        ------
        InputError
            If a label is none of the classes.
        """
        if labels.dtype.kind in "iu" and self.names.dtype.kind not in "iu":
            least, most = int(labels.min()), int(labels.max())
            if least < 0 or most >= len(self):
                raise InputError(f"{what} must lie in 0..{len(self) - 1}, got {least}..{most}")
            return torch.from_numpy(labels.astype(np.int64))
        try:
            return torch.tensor([self._index[label] for label in escape_surrogates(labels).tolist()])
        except KeyError as error:
            first = ", ".join(map(repr, self.names[:5].tolist()))
            more = ", ..." if len(self) > 5 else ""
            raise InputError(
                f"{what} hold {error.args[0]!r}, which is none of the {len(self)} classes {first}{more}"
            ) from None

    def check_counts(self, y: Tensor) -> None:
        """Raise InputError if a class has fewer than two of the training rows with class indices y (n,)."""
        counts = y.bincount(minlength=len(self))
        few = (counts < 2).nonzero().squeeze(1).tolist()
        if few:
            names = ", ".join(repr(self.names.tolist()[k]) for k in few[:5])
            raise InputError(
                f"expected at least two rows of every class, got {int(counts[few[0]])} of {names}: add rows, "
                "or leave out these classes"
            )


def escape_surrogates(values: np.ndarray) -> np.ndarray:
    r"""Return an array whose texts can be encoded as UTF-8.

    Python reads the bytes of a file name that are not UTF-8 as lone surrogates, which tables of pyarrow and
    CSV files refuse. They are written as escapes, "\udce9" in six characters. Other values stay unchanged.
    """
    if values.dtype.kind == "U":
        characters = np.ascontiguousarray(values).view(np.uint32)
        if not ((characters >= 0xD800) & (characters <= 0xDFFF)).any():
            return values
        return np.array([_escaped(value) for value in values.tolist()])
    if values.dtype != object:
        return values
    result = values.copy()
    for i, value in enumerate(values):
        result[i] = _escaped(value) if isinstance(value, str) else value
    return result


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _has_one_order(names: list[Any]) -> bool:
    """Return whether sorted names are in the only plausible order of the outputs."""
    if all(isinstance(name, str) and name.isdecimal() for name in names):
        return names == sorted(names, key=int)
    try:
        return names == sorted(names)
    except TypeError:  # values without an order, which `encode` keeps in order of appearance
        return False


_SHOWN = 5


def check_disjoint(rows: LabelledDataset, held_out: LabelledDataset, what: str = "holdout") -> None:
    """Raise if held-out rows are among the training rows.

    Rows are compared by their fingerprints, so labels, order and form do not matter, and a copy of a row
    under another id is found as well.

    Parameters
    ----------
    rows : LabelledDataset
        The network's training rows.
    held_out : LabelledDataset
    what : str
        The name of the argument that gave `held_out`.

    Raises
    ------
    InputError
        If rows are shared; the message has their number and the ids of the first ones.
    """
    shared = np.flatnonzero(np.isin(held_out.fingerprints(), rows.fingerprints()))
    if not len(shared):
        return
    names = ", ".join(map(str, held_out.index[shared[:_SHOWN]]))
    raise InputError(
        f"{len(shared)} of the {held_out.n} rows of {what}= are among the training rows, so the network has "
        f"seen their labels: {names}{', ...' if len(shared) > _SHOWN else ''} (indices in {what}). "
        "Remove them, or train a network without them"
    )
