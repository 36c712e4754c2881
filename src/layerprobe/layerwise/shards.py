"""Which rows of the data are this process's, where several share a job."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from layerprobe.errors import InputError
from layerprobe.layers.batches import count_rows, is_whole, keeps_order
from layerprobe.utils.distributed import rank, shard, world_size

__all__ = ["Shard", "own_positions", "rows_in"]


def rows_in(source: Any) -> int | None:
    """Count the rows of data in any form, or return None where only reading them would tell."""
    if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
        return len(source)  # type: ignore[arg-type]
    return count_rows(source)


def own_positions(start: int, n: int) -> Tensor:
    """Places of this process's rows start to start + n among the rows of all, (n,) int64."""
    return rank() + world_size() * torch.arange(start, start + n)


class Shard:
    """The rows of this process, by stride and without padding: all processes' are the rows, once each.

    Attributes
    ----------
    batches
        What :func:`layerprobe.capture` takes: the source itself in a job of one process.
    is_dummy : bool
        Whether there is no row for this process. It then gets one of another's, to see what the layers are;
        it does not count.
    """

    def __init__(self, source: Any, batch_size: int) -> None:
        self.is_dummy = False
        self.seen = 0
        self.batches = source if world_size() == 1 else self._own(source, batch_size)

    def positions(self, n: int) -> Tensor:
        """Places of the next n rows of this process among the rows of all, (n,) int64."""
        start, self.seen = self.seen, self.seen + n
        return own_positions(start, n)

    def _own(self, source: Any, batch_size: int) -> Any:
        if is_whole(source):
            n = count_rows(source) or 0
            self.is_dummy = not len(shard(n))
            return _take(source, slice(0, 1) if self.is_dummy else slice(rank(), None, world_size()), n)
        if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
            mine = list(shard(len(source)))  # type: ignore[arg-type]
            self.is_dummy = not mine
            return DataLoader(Subset(source, mine or [0]), batch_size=batch_size)
        return self._own_of_batches(source)

    def _own_of_batches(self, source: Any) -> Iterator[Any]:
        start, given = 0, False
        first = None
        for batch in source:
            n, index = _size_and_index(batch)
            if index is None and not keeps_order(source):
                raise InputError(
                    "the loader may shuffle, differently in each process of this job, and gives no indices; "
                    "use shuffle=False, or a data set of (x, y, index)"
                )
            places = np.arange(start, start + n) if index is None else index
            mine = np.flatnonzero(places % world_size() == rank())
            first = batch if first is None else first
            start += n
            if len(mine):
                given = True
                yield _take(batch, mine, n)
        if not given and first is not None:
            self.is_dummy = True
            yield _take(first, slice(0, 1), _size_and_index(first)[0])


def _size_and_index(batch: Any) -> tuple[int, np.ndarray | None]:
    if isinstance(batch, Mapping):
        index = batch.get("index")
        values = list(batch.values())
    else:
        values = list(batch) if isinstance(batch, tuple | list) else [batch]
        index = values[2] if len(values) == 3 else None
    value: Any = values[0]
    while isinstance(value, Mapping | tuple | list):
        value = next(iter(value.values() if isinstance(value, Mapping) else value))
    return len(value), None if index is None else np.asarray(index)


def _take(value: Any, rows: Any, n: int) -> Any:
    """Take rows of everything in a nested value that runs along the n rows."""
    if isinstance(value, Mapping):
        return {key: _take(item, rows, n) for key, item in value.items()}
    if isinstance(value, list) and len(value) == n and not hasattr(value[0], "__len__"):
        return np.asarray(value)[rows]
    if isinstance(value, tuple | list):
        return type(value)(_take(item, rows, n) for item in value)
    if isinstance(value, Tensor):
        return value[torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows]
    return np.asarray(value)[rows] if hasattr(value, "__array__") and np.ndim(value) else value
