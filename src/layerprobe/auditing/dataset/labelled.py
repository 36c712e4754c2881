"""Rows that have a place, a name, a label and a face, and can be read again and again."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from torch import Tensor

from layerprobe.auditing.dataset.fingerprints import hash_inputs, hash_texts
from layerprobe.auditing.dataset.pictures import Levels
from layerprobe.auditing.dataset.raw import faces, is_texts, preparing, readable
from layerprobe.errors import InputError
from layerprobe.layers.batches import Batch, join, keeps_order, named_tensors, read_batches
from layerprobe.probes.base import label_array

__all__ = ["Rows"]


class Rows:
    """Labelled rows that can be read again and again, as :func:`layerprobe.auditing.read_rows` returns them.

    Rows are numbered 0..n-1: in the order of the data, or in that of their indices where the data give any.
    Nothing here depends on batches or on the order in which a loader gives indexed rows.

    Attributes
    ----------
    n : int
    labels : ndarray of shape (n,)
        As they were given: whole numbers, texts, ...
    index : ndarray of shape (n,)
        Each row's name: its position, the index that the data give, or the path of its file.
    class_names : tuple of str or None
        Names of the classes 0..K-1, where labels are whole numbers and the data name them.
    """

    def __init__(
        self,
        source: Any,
        labels: Any = None,
        *,
        inputs: Callable[[Any], Any] | None = None,
        names: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
        batch_size: int = 512,
    ) -> None:
        if isinstance(source, Iterator):
            raise InputError(
                f"the data must be readable more than once, got a {type(source).__name__}, which is used up "
                "after one pass: give a list, arrays, a Dataset or a DataLoader"
            )
        self._source = source
        self._prepare = preparing(inputs)
        self._hashes: np.ndarray | None = None
        self._survey(batch_size)
        if names is not None:
            self.index = names
        self.labels = self._own_labels(self._given if labels is None else labels)
        self.class_names: tuple[str, ...] | None = None
        if class_names is not None and self.labels.dtype.kind in "iu":
            fits = 0 <= self.labels.min() <= self.labels.max() < len(class_names)
            self.class_names = tuple(map(str, class_names)) if fits else None

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"Rows(n={self.n}, {len(pd.unique(self.labels))} classes)"

    def batches(self, batch_size: int = 512) -> Iterator[tuple[Any, np.ndarray]]:
        """Read the data once more.

        Parameters
        ----------
        batch_size : int
            Rows of a batch, where the data are whole arrays or a Dataset; a loader has its own batches.

        Yields
        ------
        inputs : Tensor, tuple or dict
            As the model takes them; copies, on the device where the data are.
        positions : ndarray of shape (b,), int64
            Where in 0..n-1 these rows belong.

        Raises
        ------
        InputError
            If the data hold other rows, or other labels, than when they were first read.
        """
        for batch, positions in self._read(batch_size):
            yield batch.inputs, positions

    def example(self, i: int) -> np.ndarray | str | None:
        """Show a row to a person; see `examples`, which reads the data once for many rows."""
        return self.examples([i])[0]

    def examples(self, positions: Iterable[int]) -> list[np.ndarray | str | None]:
        """Show rows to a person.

        Parameters
        ----------
        positions : iterable of int
            In 0..n-1.

        Returns
        -------
        list
            For each row pixels (h, w) or (h, w, 3), uint8; a text; or None for what is neither. Floats of the
            shape (h, w), (1, h, w) or (3, h, w) are pixels, each channel's range over all rows as 0..255.
        """
        wanted = [int(i) for i in positions]
        if outside := [i for i in wanted if not 0 <= i < self.n]:
            raise InputError(f"expected positions of rows in 0..{self.n - 1}, got {outside[0]}")
        left, found = set(wanted), {}
        if (whole := self._whole()) is not None:
            for i in left:
                place = int(self._order[i])
                found[i] = self._levels.picture(faces(whole[place : place + 1], None)[0])
            return [found[i] for i in wanted]
        for batch, places in self._read(512) if left else ():
            shown = faces(batch.raw, batch.inputs)
            for j in np.flatnonzero(np.isin(places, list(left))):
                found[int(places[j])] = self._levels.picture(None if shown is None else shown[j])
                left.discard(int(places[j]))
            if not left:
                break
        return [found[i] for i in wanted]

    def fingerprints(self) -> np.ndarray:
        """Hash what the model is given of each row, without its label; texts before they become tokens.

        Returns
        -------
        ndarray of shape (n,), uint64
            Equal for equal rows, whatever form, batches or order they come in. One pass over the data, the
            first time.
        """
        if self._hashes is None:
            hashes = np.empty(self.n, np.uint64)
            for batch, positions in self._read(512):
                texts = readable(batch.raw)
                hashes[positions] = (
                    hash_texts(texts) if is_texts(texts) else hash_inputs(batch.inputs, batch.size)
                )
            self._hashes = hashes
        return self._hashes

    def with_labels(self, labels: Any) -> Self:
        """Return the same rows under other labels: one a row, or one an index where the data give any."""
        other = copy.copy(self)
        other.labels = self._own_labels(labels)
        return other

    def _survey(self, batch_size: int) -> None:
        """Read everything once: count, labels, indices, ranges; refuse what could not be audited."""
        labels, indices = [], []
        self.n = 0
        self._levels = Levels()
        for batch in self._batches(batch_size):
            if batch.indices is None and not keeps_order(self._source):
                raise InputError(
                    "the loader may shuffle and gives no indices, so that its rows could not be named: use "
                    "shuffle=False, or a data set of (x, y, index)"
                )
            for _, tensor in named_tensors(batch.inputs):
                # The sum tells that there is none in a tenth of the time; an infinite one is looked into.
                if tensor.is_floating_point() and tensor.sum().isnan() and tensor.isnan().any():
                    bad = tensor.isnan().reshape(len(tensor), -1).any(1).nonzero()[0] if tensor.ndim else 0
                    raise InputError(f"the data hold NaN, first in row {self.n + int(bad)}: drop or mend it")
            self._levels.update(faces(batch.raw, batch.inputs))
            labels.append(batch.labels)
            indices.append(batch.indices)
            self.n += batch.size
        if not self.n:
            raise InputError("expected at least one row, got none: the data are empty")
        given, index = join(labels), join(indices)
        self._given = None if given is None else np.asarray(given)
        self._indexed = index is not None
        self.index, self._order = np.arange(self.n), np.arange(self.n)
        if index is not None:
            self.index, self._order = _sorted(np.asarray(index))
            self._given = self._given if self._given is None else self._given[self._order]

    def _batches(self, batch_size: int) -> Iterator[Batch]:
        if batch_size < 1:
            raise InputError(f"expected a batch_size of at least 1, got {batch_size}")
        return read_batches(self._source, batch_size, prepare=self._prepare)

    def _read(self, batch_size: int) -> Iterator[tuple[Batch, np.ndarray]]:
        """Give each batch and the positions of its rows; the data must be those that were surveyed."""
        seen = 0
        for batch in self._batches(batch_size):
            positions = np.arange(seen, seen + batch.size)
            if self._indexed:
                indices = np.asarray(batch.indices)
                positions = np.searchsorted(self.index, indices).clip(max=self.n - 1)
                known = np.array_equal(self.index[positions], indices)
            else:
                known = seen + batch.size <= self.n
            if not known or not _same(self._given, batch.labels, positions):
                raise InputError(
                    "the data changed between two passes: another order, other rows or other labels. Take "
                    "out what draws at random, or give each row's index, as (x, y, index)"
                )
            seen += batch.size
            yield batch, positions
        if seen != self.n:
            raise InputError(f"the data changed between two passes: {self.n} rows in the first, now {seen}")

    def _own_labels(self, labels: Any) -> np.ndarray:
        if labels is None:
            raise InputError("the data have no labels: give them as labels=, or as (x, y)")
        try:
            column = label_array(labels)
        except ValueError as error:
            raise InputError(f"expected one label a row, (n,), got the shape {np.shape(labels)}") from error
        if self._indexed and labels is not self._given:
            if self.index.dtype.kind not in "iu" or self.index[0] < 0:
                name = self.index[0].item()
                raise InputError(f"labels= go by index, but the rows have names such as {name!r}")
            if len(column) <= self.index[-1]:
                raise InputError(f"labels= has {len(column)} labels, but the indices go to {self.index[-1]}")
            column = column[self.index]
        if len(column) != self.n:
            raise InputError(f"expected {self.n} labels, one a row, got {len(column)}")
        if (missing := pd.isna(column)).any():
            raise InputError(
                f"{missing.sum()} labels are missing (NaN or None), the first that of row "
                f"{int(missing.argmax())}: every row needs one"
            )
        return column

    def _whole(self) -> Any:
        """Return the array of all rows where it can be cut at any place, else None."""
        x = self._source[0] if isinstance(self._source, tuple) else self._source
        return x if isinstance(x, np.ndarray | Tensor) else None


def _sorted(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct indices in order, and where in the data each one's row is."""
    if index.dtype.kind not in "iuU":
        raise InputError(f"expected indices that are whole numbers or texts, got {index.dtype}")
    order = np.argsort(index, kind="stable")
    index = index[order]
    twice = np.flatnonzero(index[1:] == index[:-1])
    if len(twice):
        raise InputError(
            f"every row needs an index of its own, but {len(twice)} are repeated, the first "
            f"{index[twice[0]].item()!r}: the data give rows twice, or their indices are those of a part"
        )
    return index, order


def _same(given: np.ndarray | None, labels: Any, positions: np.ndarray) -> bool:
    if given is None or labels is None:
        return given is labels
    return np.array_equal(given[positions], np.asarray(labels), equal_nan=given.dtype.kind == "f")
