"""Passes over data during a training: in the order of the data set, with random generators as they were."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, IterableDataset, Subset

from layerprobe.errors import InputError
from layerprobe.layers.batches import is_whole


@contextmanager
def preserved_state() -> Iterator[None]:
    """Restore the random generators of Python and NumPy afterwards; `capture` restores the network itself.

    The cache of autocast is not used meanwhile: weights that it casts without gradient must not reach the
    next training step.
    """
    cache, python = torch.is_autocast_cache_enabled(), random.getstate()
    legacy = np.random.get_state()  # noqa: NPY002 (transforms of users draw from this generator)
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(cache)
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


def in_order(data: Any, rows: list[int] | None = None, *, n: int) -> Any:
    """Return data in the order of the data set, whole or some rows: a DataLoader may shuffle or drop rows.

    Parameters
    ----------
    data : as for :func:`layerprobe.capture`
    rows : list of int, optional
        Positions of the rows.
    n : int
        Number of rows of the data.

    Raises
    ------
    InputError
        If some rows are needed and the data give no access by position.
    """
    if isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset):
        whole = data.dataset
        size = data.batch_size or getattr(data.batch_sampler, "batch_size", None) or 1
        return DataLoader(
            whole if rows is None else Subset(whole, rows),
            size,
            collate_fn=data.collate_fn,
            num_workers=data.num_workers,
        )
    if rows is None:
        return data
    if is_whole(data):
        return _take(data, rows, n)
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__") or len(data) != n:  # batches
        raise InputError(
            f"a probe needs data= with access to rows by position, got {type(data).__name__}: give arrays or "
            "a Dataset, or leave out layer="
        )
    return Subset(data, rows)


def _take(value: Any, rows: list[int], n: int) -> Any:
    """Return some rows of everything in whole data that has n rows."""
    if isinstance(value, Mapping):
        return {key: _take(item, rows, n) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_take(item, rows, n) for item in value)
    if isinstance(value, list):
        return [value[row] for row in rows] if len(value) == n else [_take(item, rows, n) for item in value]
    if isinstance(value, pd.DataFrame | pd.Series):
        return value.iloc[rows]
    return value[rows] if hasattr(value, "__len__") and np.ndim(value) else value
