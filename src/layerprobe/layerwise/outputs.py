"""Layer outputs of a network for a data set: named, pooled, in one pass, whole or one layer at a time.

`Extractor` runs a network; `probe()`, `plan()`, the audit and the paper's experiments all run theirs by it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.errors import InputError
from layerprobe.layers.batches import Column, count_rows, join, read_batches
from layerprobe.layers.capturing import OptionalPattern, RowStore, capture
from layerprobe.layers.pooling import Pool, flatten_output, matches
from layerprobe.utils.distributed import rank, receive, send_to_first, world_size

__all__ = ["OUTPUT", "Dimensions", "Extractor", "LayerBatch", "LayerOutputs", "RowCollector"]

OUTPUT = "output"


class Dimensions(NamedTuple):
    """Sizes of one row.

    Attributes
    ----------
    layers : dict of str to int
        Number of features d of each layer, in order of execution.
    output : tuple of int, or None
        Shape of the network's own output without the batch; None if it is not a tensor of n rows.
    itemsize : int
        Bytes of one number.
    rows : int
        Number of rows that the network was run on.
    """

    layers: dict[str, int]
    output: tuple[int, ...] | None
    itemsize: int
    rows: int


@dataclass(frozen=True, eq=False)
class LayerBatch:
    """Layer outputs of one batch of b rows, on the network's device.

    Attributes
    ----------
    outputs : dict of str to Tensor (b, d)
        By the layers' names, in order of execution.
    logits : Tensor (b, K) or None
        The network's own output; None unless it is one score for each of K >= 2 classes.
    labels, indices : Tensor (b,), ndarray (b,) or None
        As the data gave them.
    output_shape : tuple of int or None
        Shape of the network's own output, the batch included.
    size : int
        Number of rows b.
    """

    outputs: dict[str, Tensor]
    logits: Tensor | None
    labels: Column | None
    indices: Column | None
    output_shape: tuple[int, ...] | None
    size: int

    def __len__(self) -> int:
        return self.size


class LayerOutputs(Mapping[str, Tensor]):
    """Outputs of some layers for n rows: a mapping of layer names to CPU tensors (n, d).

    Layers come in order of execution. Outputs that are not held are captured when they are first used, one
    layer at a time, and the layer before is let go.

    Attributes
    ----------
    dimensions : dict of str to int
        Number of features d of each layer.
    """

    def __init__(
        self,
        dimensions: dict[str, int],
        held: dict[str, Tensor],
        output: Tensor | None = None,
        labels: Column | None = None,
        indices: Column | None = None,
        capture_layer: "Callable[[str], LayerOutputs] | None" = None,
    ) -> None:
        self.dimensions = dimensions
        self._held, self._capture_layer = held, capture_layer
        self._output, self._labels, self._indices = output, labels, indices
        self._complete = capture_layer is None  # whether output, labels and indices are known

    @property
    def output(self) -> Tensor | None:
        """The network's own output, (n, K); None unless it is one score for each of K >= 2 classes."""
        self._complete_columns()
        return self._output

    @property
    def labels(self) -> Column | None:
        """Labels as the data gave them, (n,), or None."""
        self._complete_columns()
        return self._labels

    @property
    def indices(self) -> Column | None:
        """Indices as the data gave them, (n,), or None."""
        self._complete_columns()
        return self._indices

    def pop(self, layer: str) -> Tensor:
        """Return the outputs of a layer, (n, d), and hold them no longer."""
        rows = self[layer]
        del self._held[layer]
        return rows

    def __getitem__(self, layer: str) -> Tensor:
        if layer not in self._held:
            if layer not in self.dimensions or self._capture_layer is None:
                raise KeyError(layer)
            self._held.clear()
            self._take(self._capture_layer(layer))
        return self._held[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.dimensions)

    def __len__(self) -> int:
        return len(self.dimensions)

    def __repr__(self) -> str:
        layers = ", ".join(f"{layer} (n, {d})" for layer, d in self.dimensions.items())
        return f"LayerOutputs({layers})"

    def _complete_columns(self) -> None:
        if not self._complete and self._capture_layer is not None:
            self._take(self._capture_layer(next(iter(self.dimensions))))

    def _take(self, captured: "LayerOutputs") -> None:
        self._held = captured._held
        self._output, self._labels, self._indices = captured.output, captured.labels, captured.indices
        self._complete = True


@dataclass(frozen=True, eq=False)
class Extractor:
    """Runs a network over data and gives its layers' outputs by name.

    Attributes
    ----------
    model : nn.Module
        Left as it was.
    layers : str, iterable of str or None
        Names or glob patterns as for :func:`layerprobe.capture`. None: the model's ``probed_layers``, a
        mapping of names to layers, if it has one; else capture's default.
    pool : str, callable, mapping or None
        As for :func:`layerprobe.capture`.
    batch_size : int
        Rows of a batch cut from whole arrays.
    device : torch.device, str or None
        For a model without parameters.
    default_pool : str or None
        Policy of the layers for which `pool` gives none; the network's own output is always flattened.
    aliases : mapping of str to str, optional
        Layers that have another name in the results. Default: those of ``probed_layers``.
    """

    model: nn.Module
    layers: str | Iterable[str | EllipsisType] | None = None
    pool: Pool = None
    batch_size: int = 512
    device: torch.device | str | None = None
    default_pool: str | None = None
    aliases: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.layers, Iterable) and not isinstance(self.layers, str):
            object.__setattr__(self, "layers", tuple(self.layers))  # an iterator serves one pass only
        if self.aliases is None:
            names = getattr(self.model, "probed_layers", {}) if self.layers is None else {}
            object.__setattr__(self, "aliases", {layer: name for name, layer in names.items()})

    def of_layers(self, names: Iterable[str]) -> "Extractor":
        """Return an extractor of these layers alone, by their names in the results."""
        layer_of = {name: layer for layer, name in (self.aliases or {}).items()}
        pool = self.pool
        if isinstance(pool, Mapping):  # its patterns may match other layers only
            pool = {OptionalPattern(pattern): policy for pattern, policy in pool.items()}
        return replace(self, layers=[layer_of.get(name, name) for name in names], pool=pool)

    def run(self, data: Any, consume: Callable[[LayerBatch], object]) -> None:
        """Make one pass over data and call `consume` after each batch.

        Parameters
        ----------
        data : arrays, Dataset, DataLoader or iterable of batches
            As for :func:`layerprobe.capture`.
        consume : callable
            Takes a `LayerBatch`.

        Raises
        ------
        InputError, LayerError
            As for :func:`layerprobe.capture`.
        """
        patterns = self._patterns()
        wants_output = any(isinstance(one, str) and matches(OUTPUT, one) for one in patterns)
        shape: tuple[int, ...] | None = None

        def flatten(output: Tensor) -> Tensor:
            nonlocal shape
            shape = tuple(output.shape)
            return flatten_output(output)

        aliases = self.aliases or {}

        def take(captured: dict[str, Tensor], labels: Column | None, indices: Column | None) -> None:
            logits = captured.get(OUTPUT) if shape and len(shape) == 2 and shape[1] > 1 else None
            if not captured:
                raise InputError("no layer of the network has outputs of one row of features per sample")
            size = len(next(iter(captured.values())))
            if not wants_output:
                captured = {layer: rows for layer, rows in captured.items() if layer != OUTPUT}
            outputs = {aliases.get(layer, layer): rows for layer, rows in captured.items()}
            consume(LayerBatch(outputs, logits, labels, indices, shape, size))

        capture(
            self.model,
            data,
            [*patterns, OptionalPattern(OUTPUT)],
            pool=self._pool_by_layer(flatten),
            batch_size=self.batch_size,
            device=self.device,
            consume=take,
        )

    def dimensions(self, data: Any) -> Dimensions:
        """Return the sizes of one row, found by running the network on the first rows of the data."""
        first = next(read_batches(data, 2))
        found: list[LayerBatch] = []
        self.run(iter([(first.inputs, None)]), found.append)
        (batch,) = found
        layers = {layer: rows.shape[1] for layer, rows in batch.outputs.items()}
        itemsize = max((rows.itemsize for rows in batch.outputs.values()), default=4)
        output = None if batch.output_shape is None else batch.output_shape[1:]
        return Dimensions(layers, output, itemsize, len(batch))

    def extract(
        self,
        data: Any,
        *,
        order: np.ndarray | None = None,
        memory: float | None = None,
        gather: bool = False,
    ) -> LayerOutputs:
        """Return the outputs of all layers for all rows, float32 on the CPU.

        Parameters
        ----------
        data : arrays, Dataset, DataLoader or iterable of batches
            As for :func:`layerprobe.capture`.
        order : ndarray of shape (n,), int64, optional
            Row i of the result is the row of index ``order[i]``; the batches must give indices 0..n-1.
            Default: the order of the batches.
        memory : float, optional
            Bytes of outputs to hold at a time. If all layers take more, each is captured in a pass of its
            own when it is used; `data` must then be readable more than once. Default: hold all.
        gather : bool
            All processes of the job call this with the same data, an iterable of batches (x, y, index), and
            `order`. Each runs every world_size-th batch; the first returns the outputs of all rows, the
            others an empty mapping. Needs `order`.

        Returns
        -------
        LayerOutputs

        Raises
        ------
        InputError
            If `order` is given and the batches lack indices or rows, or the processes read different rows.
        """
        if memory is not None and (rows := count_rows(data)) is not None:
            found = self.dimensions(data)
            if found.itemsize * rows * sum(found.layers.values()) > memory:
                return LayerOutputs(
                    found.layers,
                    {},
                    capture_layer=lambda layer: self.of_layers([layer]).extract(data, order=order),
                )
        if gather and order is None:
            raise InputError("gather=True needs order=, the order of the rows in the result")
        collector = RowCollector(count_rows(data), order, dtype=torch.float32)
        if not gather or world_size() == 1:
            self.run(data, collector.add)
        elif rank():
            _send_own_batches(self, data)
            return LayerOutputs({}, {})
        else:
            self.run(_with_other_processes(data, collector), collector.add)
        return collector.result()

    def _patterns(self) -> Sequence[str | EllipsisType]:
        if self.layers is None:
            return list(self.aliases or {}) or [...]
        if isinstance(self.layers, str) or not isinstance(self.layers, Iterable):
            return [self.layers]
        return list(self.layers)

    def _pool_by_layer(self, flatten: Callable[[Tensor], Tensor]) -> Pool:
        """Return the pooling policies with the one of the network's own output in the first place."""
        own: dict[str, Any] = {OptionalPattern(OUTPUT): flatten}
        if isinstance(self.pool, Mapping):
            own |= self.pool
            return own if "*" in own else own | {OptionalPattern("*"): self.default_pool}
        return own | {OptionalPattern("*"): self.default_pool if self.pool is None else self.pool}


_LOGITS = "\0logits"  # no layer can have this name


class RowCollector:
    """Collects the outputs of all batches in one CPU tensor (n, d) per layer.

    Parameters
    ----------
    rows : int or None
        Number of rows n, if it is known.
    order : ndarray of shape (n,), int64, optional
        As for :meth:`Extractor.extract`.
    dtype : torch.dtype, optional
        Of the result. Default: as the batches have it.
    """

    def __init__(
        self, rows: int | None, order: np.ndarray | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.rows, self.dtype = rows, dtype
        self.positions = None if order is None else torch.from_numpy(np.argsort(order))
        self.placed: dict[str, Tensor] = {}  # with an order, the network's own output among them
        self.stores: dict[str, RowStore] = {}
        self.columns: tuple[list, list] = ([], [])
        self.count = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the rows so far."""
        return sum(store.nbytes for store in self.stores.values())

    @property
    def has_indices(self) -> bool:
        """Whether a batch came with indices."""
        return any(column is not None for column in self.columns[1])

    def add(self, batch: LayerBatch) -> None:
        """Add the rows of a batch."""
        values = dict(batch.outputs)
        if batch.logits is not None:
            values[_LOGITS] = batch.logits
        if self.dtype is not None:
            values = {name: rows.to(self.dtype) for name, rows in values.items()}
        self.count += len(batch)
        if self.positions is not None:
            if batch.indices is None:
                raise InputError("expected the index of each row, to place the rows in the given order")
            self.place(torch.as_tensor(np.asarray(batch.indices)), values)
            return
        for column, given in zip(self.columns, (batch.labels, batch.indices), strict=True):
            column.append(given)
        for name, rows in values.items():
            if name not in self.stores:
                self.stores[name] = RowStore(name, self.rows)
            self.stores[name].append(rows)

    def place(self, indices: Tensor, values: Mapping[str, Tensor]) -> None:
        """Write the rows of these indices to their places."""
        assert self.positions is not None
        places = self.positions[indices]
        for name, rows in values.items():
            if name not in self.placed:
                self.placed[name] = torch.empty(len(self.positions), rows.shape[1], dtype=rows.dtype)
            self.placed[name][places] = rows.cpu()

    def result(self) -> LayerOutputs:
        """Return all rows."""
        if self.positions is not None and self.count != len(self.positions):
            raise InputError(f"expected {len(self.positions)} rows as in the given order, got {self.count}")
        held = self.placed or {name: store.result() for name, store in self.stores.items()}
        output = held.pop(_LOGITS, None)
        labels, indices = (join(column) if column else None for column in self.columns)
        return LayerOutputs({name: held[name].shape[1] for name in held}, held, output, labels, indices)


def _send_own_batches(extractor: Extractor, data: Any) -> None:
    """Run every world_size-th batch and send its indices and outputs to the first process."""
    own = (batch for number, batch in enumerate(data) if number % world_size() == rank())
    first = next(own, None)
    if first is None:
        return

    def batches() -> Iterator[Any]:
        yield first
        yield from own

    def send(batch: LayerBatch) -> None:
        send_to_first(torch.as_tensor(np.asarray(batch.indices)))
        for rows in [*batch.outputs.values(), batch.logits]:
            if rows is not None:
                send_to_first(rows.float().cpu())

    extractor.run(batches(), send)


def _with_other_processes(data: Any, collector: RowCollector) -> Iterator[Any]:
    """Yield the first process's batches and collect the outputs that the other processes send in between."""
    for number, batch in enumerate(data):
        if (source := number % world_size()) == 0:
            yield batch
            continue
        indices = np.asarray(batch[2])
        theirs = receive(source, indices.shape, torch.int64)
        if not np.array_equal(theirs.numpy(), indices):
            raise InputError(
                "the processes of the job read the data in different orders, so that they cannot share the "
                "batches: use shuffle=False, or a generator with the same seed in the loader of each process"
            )
        shapes = {name: rows.shape[1] for name, rows in collector.placed.items()}
        values = {name: receive(source, (len(indices), d)) for name, d in shapes.items()}
        collector.place(theirs, values)
        collector.count += len(indices)
