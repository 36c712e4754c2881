"""Passes over the rows on several processes: every one runs its batches, the first gathers the outputs.

Whole batches go round by stride, so that each is computed as by one process, to the last bit. Outputs are
sent batch by batch; only the first process ever holds those of all rows.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerprobe.errors import InputError
from layerprobe.utils.distributed import rank, receive, send_to_first, world_size

__all__ = ["own_batches", "send_outputs", "with_others"]

Batches = Iterator[tuple[Any, np.ndarray]]


def own_batches(batches: Batches) -> Batches | None:
    """Return this process's batches; None if there are too few for it to have one."""
    mine = (batch for number, batch in enumerate(batches) if number % world_size() == rank())
    first = next(mine, None)
    return None if first is None else chain([first], mine)


def send_outputs(outputs: Mapping[str, Tensor], labels: Any, positions: Any) -> None:
    """Send a batch's positions (b,) and outputs (b, d) of every layer to the first process."""
    send_to_first(torch.as_tensor(positions))
    for values in outputs.values():
        send_to_first(values.float().cpu())


def with_others(
    batches: Batches, stores: Mapping[str, Tensor], places: Callable[[np.ndarray], Tensor]
) -> Batches:
    """Give the first process its batches, and put what the others send in between into the stores.

    Parameters
    ----------
    batches : iterator of (x, positions)
        All of them.
    stores : mapping of str to Tensor (n, d)
        Of every layer, in the order that the network runs them; filled from the first batch on.
    places : callable
        From positions of rows to their places in the stores.

    Raises
    ------
    InputError
        If another process has other rows in a batch.
    """
    for number, (x, positions) in enumerate(batches):
        if (source := number % world_size()) == 0:
            yield x, positions
            continue
        theirs = receive(source, positions.shape, torch.int64).numpy()
        if not np.array_equal(theirs, positions):
            raise InputError(
                "the data come in another order in every process, so that they cannot share the batches: use "
                "shuffle=False, or a generator of the loader's own with the same seed everywhere"
            )
        for values in stores.values():
            values[places(positions)] = receive(source, (len(positions), values.shape[1]))
