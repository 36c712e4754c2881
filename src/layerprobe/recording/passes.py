"""Passes of a network in training over data, which leave everything as it was."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Subset

from layerprobe.errors import InputError
from layerprobe.layers.batches import is_whole, read_batches, row_index
from layerprobe.layerwise.outputs import OUTPUT, Extractor, LayerBatch


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


def run_network(
    model: nn.Module,
    data: Any,
    consume: Callable[[LayerBatch, Tensor], object],
    *,
    layer: str | None = None,
    inputs: Callable[[Any], Any] | None = None,
    batch_size: int = 512,
    shared: bool = True,
    named: bool = True,
) -> None:
    """Run a network over data in eval mode.

    Parameters
    ----------
    model : nn.Module
    data : as for :func:`layerprobe.capture`
    consume : callable
        Takes each batch and its logits (b, K). The indices of the batch are the positions of its rows: those
        in the data, or for an iterable of batches (x, y, index) the given ones.
    layer : str, optional
        Layer whose outputs are part of the batches; see `layer_outputs`.
    inputs : callable, optional
        From a batch of inputs as stored to inputs of the network.
    batch_size : int
        Rows of a batch cut from whole arrays.
    shared : bool
        Whether each process of a job runs a part of the rows.
    named : bool
        Whether the indices of an iterable of batches are the given ones; else they are positions, too.

    Raises
    ------
    InputError
        If the network does not return one score per class, (n, K).
    """

    def take(batch: LayerBatch) -> None:
        if batch.logits is None:
            raise InputError(
                f"expected one output for each of K classes, (n, K), got the shape {batch.output_shape}"
            )
        if len(batch):
            consume(batch, batch.logits)

    def batches() -> Iterator[tuple[Any, Any, np.ndarray]]:
        by_position = is_whole(data) or isinstance(data, DataLoader) or hasattr(data, "__getitem__")
        by_position = not named or (by_position and not isinstance(data, list))  # a list may be shuffled
        start = 0
        for batch in read_batches(data, batch_size, prepare=inputs, model=model):
            given = None if by_position else row_index(batch.indices)
            yield batch.inputs, batch.labels, np.arange(start, start + batch.size) if given is None else given
            start += batch.size

    extractor = Extractor(model, batch_size=batch_size, default_pool="compact").of_layers([layer or OUTPUT])
    extractor.run(batches(), take, shared=shared)


def layer_outputs(batch: LayerBatch, layer: str) -> Tensor:
    """Return the outputs (b, d) of a layer, float32 on the CPU.

    Parameters
    ----------
    batch : LayerBatch
    layer : str
        Name or pattern.

    Raises
    ------
    InputError
        If the pattern matches several layers.
    """
    if len(batch.outputs) != 1:
        raise InputError(
            f"expected layer= to match one layer, {layer!r} matches {', '.join(batch.outputs) or 'none'}"
        )
    return next(iter(batch.outputs.values())).float().cpu()


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
