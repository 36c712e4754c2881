"""Several sets of labels for the same rows, as class indices of one list of classes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerprobe.errors import InputError
from layerprobe.layers.batches import Column, read_batches
from layerprobe.probes.base import encode, label_array

__all__ = ["LabelSets", "class_indices", "given_labels", "read_label_sets"]


@dataclass(frozen=True, eq=False)
class LabelSets:
    """Named sets of labels for n rows.

    Attributes
    ----------
    names : tuple of S str
    classes : ndarray of shape (K,)
        Classes of all sets together, sorted if they compare.
    y : Tensor of shape (S, n), int64
        Class index of each row in each set; -1 where a set is shorter than the longest one.
    lengths : tuple of S int
        Number of labels in each set.
    """

    names: tuple[str, ...]
    classes: np.ndarray
    y: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, labels: Mapping[str, Any]) -> "LabelSets":
        """Return the sets of a mapping of names to labels.

        Parameters
        ----------
        labels : mapping of str to sequence of n labels
            Integers, strings or any other hashables.

        Raises
        ------
        InputError
            If it is no mapping, or is empty.
        """
        if not isinstance(labels, Mapping):
            raise InputError(
                f'train_labels must map names to labels, say {{"noisy": y}}, got {type(labels).__name__}'
            )
        if not labels:
            raise InputError("train_labels is empty: name at least one set of labels, or leave it out")
        sets = [_as_array(values) for values in labels.values()]
        lengths = tuple(map(len, sets))
        classes = _all_classes(sets)
        y = torch.full((len(sets), max(lengths)), -1)
        for row, values in zip(y, sets, strict=True):
            row[: len(values)] = class_indices(classes, values)
        return cls(tuple(labels), classes, y, lengths)

    @property
    def changed(self) -> float:
        """Share of the rows whose label is not the same in all sets."""
        return float((self.y != self.y[0]).any(0).double().mean())

    def take(self, rows: Tensor) -> "LabelSets":
        """Return the labels of some rows, given by their positions (m,) int64.

        Raises
        ------
        InputError
            If a set has no label for one of the rows.
        """
        for name, length in zip(self.names, self.lengths, strict=True):
            if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < length:
                raise InputError(
                    f"train_labels[{name!r}] has {length} labels for at least {int(rows.max()) + 1} rows; "
                    "give one label per training row, and indices from 0 on if there are any"
                )
        return replace(self, y=self.y[:, rows], lengths=(len(rows),) * len(self.names))

    def recode(self, given: np.ndarray) -> "LabelSets":
        """Return the class indices of other labels, (m,), as the only set."""
        return replace(self, y=class_indices(self.classes, given)[None], lengths=(len(given),))

    def values(self) -> list[np.ndarray]:
        """Return the labels themselves, S arrays (n,)."""
        return [self.classes[row.numpy()] for row in self.y]

    def require_length(self, n: int) -> None:
        """Raise an InputError unless every set has n labels."""
        for name, length in zip(self.names, self.lengths, strict=True):
            if length != n:
                raise InputError(f"train_labels[{name!r}] has {length} labels for {n} training rows")


def class_indices(classes: np.ndarray, labels: np.ndarray) -> Tensor:
    """Return the class index of each label, (n,) int64; -1 for labels of no class.

    Parameters
    ----------
    classes : ndarray of shape (K,)
        Sorted, unless its dtype is object.
    labels : ndarray of shape (n,)
    """
    if classes.dtype == object or labels.dtype.kind != classes.dtype.kind:
        index_of = {label: k for k, label in enumerate(classes.tolist())}
        return torch.tensor([index_of.get(label, -1) for label in labels.tolist()], dtype=torch.int64)
    places = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return torch.from_numpy(np.where(classes[places] == labels, places, -1))


def given_labels(labels: Column | None, split: str) -> np.ndarray:
    """Return the labels that came with the data as an array, (n,).

    Parameters
    ----------
    labels : Tensor or ndarray of shape (n,), or None
    split : str
        "training" or "test", for the error message.

    Raises
    ------
    InputError
        If there are none.
    """
    if labels is None:
        raise InputError(f"the {split} data have no labels; give (x, y), or a loader of (x, y)")
    return _as_array(labels)


def read_label_sets(source: Any, batch_size: int) -> LabelSets:
    """Read the labels that come with data, without running a model: one set called "given".

    Parameters
    ----------
    source : as for :func:`layerprobe.capture`
    batch_size : int
    """
    batches = read_batches(source, batch_size, prepare=_row_count)
    return LabelSets.of({"given": np.concatenate([given_labels(b.labels, "training") for b in batches])})


def _all_classes(sets: list[np.ndarray]) -> np.ndarray:
    distinct = [encode(labels)[0] for labels in sets]
    if any(one.dtype.kind != distinct[0].dtype.kind for one in distinct):
        every = np.empty(sum(map(len, distinct)), dtype=object)
        every[:] = [label for one in distinct for label in one.tolist()]
    else:
        every = np.concatenate(distinct)
    return encode(every)[0]


def _as_array(labels: Any) -> np.ndarray:
    """Return labels as an array, integers of any size as int64."""
    array = label_array(labels)
    return array.astype(np.int64) if array.dtype.kind in "iu" else array


def _row_count(raw: Any) -> Tensor:
    """Return a tensor of as many rows in place of a batch's inputs."""
    while isinstance(raw, Mapping | tuple | list):
        raw = next(iter(raw.values() if isinstance(raw, Mapping) else raw))
    return torch.empty(len(raw), 1)
