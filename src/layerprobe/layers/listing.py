"""list_layers(): a table of the layers of a model."""

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from layerprobe.layers.batches import read_batches
from layerprobe.layers.capturing import Selection
from layerprobe.layers.tracing import Tracer, device_and_dtype, unchanged
from layerprobe.utils.settings import default_settings

_MOST_ROWS = 512


@dataclass(frozen=True)
class LayerRow:
    """One layer that `capture` can take.

    Attributes
    ----------
    name : str
        Name of the layer, as in the argument `layers`.
    kind : str
        The module's class, a function such as ``"F.relu"``, or ``"input"``.
    shape : tuple of int
        The shape of one row, without the batch.
    dimension : int
        d, the number of features when flattened.
    is_head : bool
        Whether the layer is the Linear that makes the network's output, or else the output. Of several such
        layers it is the one whose output is called logits, or else none.
    is_default : bool
        Whether ``capture(..., layers=None)`` takes it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dimension: int
    is_head: bool
    is_default: bool


def aligned(cells: Sequence[Sequence[str]], right: Container[int]) -> list[str]:
    """Return the lines of a table of texts.

    Parameters
    ----------
    cells : sequence of rows of str
    right : container of int
        Columns that are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    sides = [">" if i in right else "<" for i in range(len(widths))]
    lines = ("  ".join(map("{:{}{}}".format, row, sides, widths)) for row in cells)
    return [line.rstrip() for line in lines]


class LayerList(tuple[LayerRow, ...]):
    """The layers of a model in order of execution: a tuple of `LayerRow` that prints as a table."""

    __slots__ = ()

    @property
    def names(self) -> list[str]:
        """The names of all layers."""
        return [row.name for row in self]

    @property
    def head(self) -> str | None:
        """The name of the head; None if no layer is known to be it."""
        return next((row.name for row in self if row.is_head), None)

    def __repr__(self) -> str:
        cells = [("name", "kind", "shape", "dimension", "")]
        for row in self:
            marks = [mark for mark, holds in (("default", row.is_default), ("head", row.is_head)) if holds]
            shape = " x ".join(map(str, row.shape))
            cells.append((row.name, row.kind, shape, str(row.dimension), ", ".join(marks)))
        return "\n".join(aligned(cells, {3}))


@default_settings()
def list_layers(model: nn.Module, batch: Any, *, device: torch.device | str | None = None) -> LayerList:
    """List the layers whose outputs `capture` can take, found in one forward pass.

    Parameters
    ----------
    model : nn.Module
        Run in eval mode and left as it was.
    batch : array, tuple, dict or DataLoader
        Anything that `capture` takes; the first batch of it, at most 512 rows of whole arrays, is used.
    device : torch.device or str, optional
        Where the batch goes; the model's own device by default.

    Returns
    -------
    LayerList
        Frozen rows in order of execution: name, kind, shape, dimension, and marks for the head and for the
        layers that `capture` takes by default. Outputs whose first dimension is not the batch, and outputs
        that are not floating-point numbers, are left out.

    Raises
    ------
    InputError
        If the model cannot be called with such a batch.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> list_layers(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 8))
    name    kind        shape  dimension
    input   input       8              8  default
    0       Linear      4              4
    1       ReLU        4              4  default
    2       Linear      2              2  head
    output  Sequential  2              2
    """
    tracer = Tracer(model)
    target, dtype = device_and_dtype(model, device)
    with unchanged(model):
        first = next(read_batches(batch, _MOST_ROWS, target, dtype, model=model))
        trace = tracer.run(first, lambda site, tensor: None)
    default = Selection(None).settle(trace, 1)
    return LayerList(
        LayerRow(
            name=site.name,
            kind=site.kind,
            shape=site.shape,
            dimension=math.prod(site.shape),
            is_head=site.name == trace.head,
            is_default=site.name in default,
        )
        for site in trace.sites
        if site.obstacle is None
    )
