"""Several sets of training labels as codes of one list of classes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerprobe.errors import InputError
from layerprobe.layers.batches import Column, keeps_order, read_batches
from layerprobe.probes.base import encode, label_array

__all__ = ["Labelling", "labels_of"]


class Labelling:
    """Names and codes of the training labels.

    Attributes
    ----------
    names : tuple of S str
        The sets'.
    classes : ndarray of shape (K,)
        Those of all sets together; empty until they are known (`learn`).
    """

    def __init__(self, train_labels: Mapping[str, Any] | None, train: Any) -> None:
        self.classes = np.empty(0, dtype=np.int64)
        self._codes: Tensor | None = None  # (S, n) of named sets, in the order of the rows
        if train_labels is None:
            self.names: tuple[str, ...] = ("given",)
            return
        if not isinstance(train_labels, Mapping):
            raise InputError(
                'train_labels must map names to labels, say {"noisy": y}, '
                f"got {type(train_labels).__name__}"
            )
        if not train_labels:
            raise InputError("train_labels is empty: name at least one set of labels, or leave it out")
        self.names = tuple(train_labels)
        self._ordered = keeps_order(train)
        sets = [_label_array(values) for values in train_labels.values()]
        self._lengths = [len(labels) for labels in sets]
        self.learn(*sets)
        longest = max(self._lengths)
        self._codes = torch.full((len(sets), longest), -1)
        for row, labels in zip(self._codes, sets, strict=True):
            row[: len(labels)] = self.code(labels)

    @property
    def known(self) -> bool:
        """Whether the classes are known."""
        return len(self.classes) > 0

    @property
    def codes(self) -> Tensor | None:
        """Codes of the named sets' rows in their order, (S, n); None where labels come with the data."""
        return self._codes

    @property
    def changed(self) -> float:
        """Share of the rows whose label is not the same in all sets, as far as is known."""
        if self._codes is None:
            return 1.0
        return float((self._codes != self._codes[0]).any(0).double().mean())

    def learn(self, *sets: np.ndarray) -> None:
        """Take in the labels of all sets: the classes are those of all of them."""
        distinct = [encode(labels)[0] for labels in sets]
        if any(one.dtype.kind != distinct[0].dtype.kind for one in distinct):
            every = np.empty(sum(map(len, distinct)), dtype=object)
            every[:] = [label for one in distinct for label in one.tolist()]
        else:
            every = np.concatenate(distinct)
        self.classes = encode(every)[0]
        self._code_of = {label: k for k, label in enumerate(self.classes.tolist())}

    def read(self, source: Any, batch_size: int) -> None:
        """Learn the classes from the labels that come with the data, without a model."""
        batches = read_batches(source, batch_size, prepare=_nothing)
        self.learn(*[labels_of(batch.labels, "training") for batch in batches])

    def code(self, labels: np.ndarray) -> Tensor:
        """Codes of labels, (n,) int64; -1 for those of no class."""
        if self.classes.dtype == object or labels.dtype.kind != self.classes.dtype.kind:
            codes = [self._code_of.get(label, -1) for label in labels.tolist()]
            return torch.tensor(codes, dtype=torch.int64)
        places = np.searchsorted(self.classes, labels).clip(max=len(self.classes) - 1)
        return torch.from_numpy(np.where(self.classes[places] == labels, places, -1))

    def of_rows(self, labels: Column | None, indices: Column | None, positions: Tensor) -> Tensor:
        """Codes of rows in every set, (S, n): by the labels or indices that came along, or by their places.

        Raises
        ------
        InputError
            If there are no labels for a row, or nobody knows which are its own.
        """
        if self._codes is None:
            return self.code(labels_of(labels, "training"))[None]
        self.check_order(indices)
        places = positions if indices is None else torch.as_tensor(np.asarray(indices))
        for name, length in zip(self.names, self._lengths, strict=True):
            if len(places) and not 0 <= int(places.min()) <= int(places.max()) < length:
                if indices is not None:
                    reason = f"but the indices go to {int(places.max())}"
                else:
                    reason = f"for at least {int(places.max()) + 1} training rows"
                raise InputError(f"train_labels[{name!r}] has {length} labels, {reason}")
        return self._codes[:, places]

    def check_order(self, indices: Column | None) -> None:
        """Refuse named labels for rows whose order is not known."""
        if self._codes is not None and indices is None and not self._ordered:
            raise InputError(
                "train_labels are in the order of the rows, but the training loader may shuffle and gives no "
                "indices; use shuffle=False, or a data set of (x, y, index)"
            )

    def check_length(self, n: int) -> None:
        """Refuse named labels without indices for another number of rows."""
        for name, length in zip(self.names, self._lengths if self._codes is not None else (), strict=False):
            if length != n:
                raise InputError(f"train_labels[{name!r}] has {length} labels for {n} training rows")


def labels_of(labels: Column | None, what: str) -> np.ndarray:
    """Give the labels that came with data as an array, or say that there are none."""
    if labels is None:
        raise InputError(f"the {what} data have no labels; give (x, y), or a loader of (x, y)")
    return _label_array(labels)


def _label_array(labels: Any) -> np.ndarray:
    """Give labels as an array, whole numbers of any size as int64: sets of both are of one kind."""
    array = label_array(labels)
    return array.astype(np.int64) if array.dtype.kind in "iu" else array


def _nothing(raw: Any) -> Tensor:
    """Stand in for inputs that no model will see."""
    while isinstance(raw, Mapping | tuple | list):
        raw = next(iter(raw.values() if isinstance(raw, Mapping) else raw))
    return torch.empty(len(raw), 1)
