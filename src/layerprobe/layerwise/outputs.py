"""Layer outputs of a network for a data set: named, pooled, in one pass, whole or one layer at a time.

`Extractor` runs a network; `probe()`, `plan()`, the audit and the paper's experiments all use it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from layerprobe.errors import InputError
from layerprobe.layers.batches import Column, count_rows, is_whole, keeps_order, read_batches
from layerprobe.layers.capturing import OptionalPattern, Pool, RowCollector, capture, flatten_output, matches
from layerprobe.utils.distributed import rank, receive, send_to_first, shard, world_size
from layerprobe.utils.settings import default_settings

OUTPUT = "output"
LOGITS = "\0logits"  # name of the network's own output among collected rows; no layer can have it


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
    positions : Tensor (b,), int64
        The indices, or else the positions of the rows in the data.
    output_shape : tuple of int or None
        Shape of the network's own output, the batch included.
    """

    outputs: dict[str, Tensor]
    logits: Tensor | None
    labels: Column | None
    indices: Column | None
    positions: Tensor
    output_shape: tuple[int, ...] | None

    def __len__(self) -> int:
        return len(self.positions)


class LayerOutputs(Mapping[str, Tensor]):
    """Outputs of some layers for n rows: a mapping of layer names to float32 CPU tensors (n, d).

    Layers come in order of execution. A layer that is not held is captured when it is used, in a pass of its
    own, and takes the place of the one before.

    Attributes
    ----------
    dimensions : dict of str to int
        Number of features d of each layer.
    output : Tensor (n, K) or None
        The network's own output; None unless it is one score for each of K >= 2 classes.
    labels, indices : Tensor (n,), ndarray (n,) or None
        As the data gave them.
    """

    def __init__(
        self,
        rows: dict[str, Tensor],
        labels: Column | None = None,
        indices: Column | None = None,
        dimensions: dict[str, int] | None = None,
        capture_layer: Callable[[str], Tensor] | None = None,
    ) -> None:
        self._held = dict(rows)
        self.output = self._held.pop(LOGITS, None)
        self.labels, self.indices = labels, indices
        self.dimensions = {layer: X.shape[1] for layer, X in self._held.items()}
        if dimensions is not None:
            self.dimensions = dimensions
        self._capture_layer = capture_layer

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
            self._held[layer] = self._capture_layer(layer)
        return self._held[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.dimensions)

    def __len__(self) -> int:
        return len(self.dimensions)

    def __repr__(self) -> str:
        return f"LayerOutputs({', '.join(f'{layer} (n, {d})' for layer, d in self.dimensions.items())})"


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

    def run(self, data: Any, consume: Callable[[LayerBatch], object], *, shared: bool = False) -> None:
        """Make one pass over data and call `consume` after each batch.

        Parameters
        ----------
        data : arrays, Dataset, DataLoader or iterable of batches
            As for :func:`layerprobe.capture`.
        consume : callable
            Takes a `LayerBatch`.
        shared : bool
            In a job of several processes, all call this with the same data, and each runs every
            world_size-th row. A process without any row gets one batch of no rows.

        Raises
        ------
        InputError, LayerError
            As for :func:`layerprobe.capture`.
        """
        share = _Share(data, self.batch_size) if shared and world_size() > 1 else None
        patterns, aliases = self._patterns(), self.aliases or {}
        wants_output = any(isinstance(one, str) and matches(OUTPUT, one) for one in patterns)
        shape: tuple[int, ...] | None = None
        seen = 0

        def flatten(output: Tensor) -> Tensor:
            nonlocal shape
            shape = tuple(output.shape)
            return flatten_output(output)

        @default_settings()
        def take(rows: dict[str, Tensor], labels: Column | None, indices: Column | None) -> None:
            nonlocal seen
            if not rows:
                raise InputError("no layer of the network gives one row of features per sample")
            if share is not None and share.is_dummy:
                rows = {layer: X[:0] for layer, X in rows.items()}
                labels, indices = (None if column is None else column[:0] for column in (labels, indices))
            size = len(next(iter(rows.values())))
            positions = torch.arange(seen, seen + size)
            if share is not None:
                positions = rank() + world_size() * positions
            if indices is not None:
                positions = torch.as_tensor(np.asarray(indices))
            seen += size
            outputs = {aliases.get(name, name): X for name, X in rows.items() if name != OUTPUT}
            logits = rows.get(OUTPUT) if shape and len(shape) == 2 and shape[1] > 1 else None
            if wants_output and OUTPUT in rows:
                outputs[OUTPUT] = rows[OUTPUT]
            consume(LayerBatch(outputs, logits, labels, indices, positions, shape))

        capture(
            self.model,
            data if share is None else share.batches,
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
        output = None if batch.output_shape is None else batch.output_shape[1:]
        itemsize = max((rows.itemsize for rows in batch.outputs.values()), default=4)
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
        if gather and order is None:
            raise InputError("gather=True needs order=, the order of the rows in the result")
        if memory is not None and (rows := count_rows(data)) is not None:
            layers = self.dimensions(data).layers
            if 4 * rows * sum(layers.values()) > memory:
                own = self.of_layers([OptionalPattern(OUTPUT)]).extract(data, order=order)
                return LayerOutputs(
                    {} if own.output is None else {LOGITS: own.output},
                    own.labels,
                    own.indices,
                    layers,
                    lambda layer: self.of_layers([layer]).extract(data, order=order)[layer],
                )
        collector = RowCollector(count_rows(data), order, torch.float32)
        if not gather or world_size() == 1:
            self.run(data, lambda batch: collector.add(_with_logits(batch), batch.labels, batch.indices))
        elif rank():
            _send_own_batches(self, data)
            return LayerOutputs({})
        else:
            batches = _receive_other_batches(data, collector)
            self.run(batches, lambda batch: collector.add(_with_logits(batch), None, batch.indices))
        captured = collector.result()
        return LayerOutputs(captured.outputs, captured.labels, captured.indices)

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


def rows_in(source: Any) -> int | None:
    """Return the number of rows of data in any form, or None where only reading them would show it."""
    if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
        return len(source)  # type: ignore[arg-type]
    return count_rows(source)


def _with_logits(batch: LayerBatch) -> dict[str, Tensor]:
    return batch.outputs if batch.logits is None else {**batch.outputs, LOGITS: batch.logits}


def _send_own_batches(extractor: Extractor, data: Any) -> None:
    """Run every world_size-th batch and send its indices and outputs to the first process."""
    own = (batch for number, batch in enumerate(data) if number % world_size() == rank())
    first = next(own, None)
    if first is None:
        return

    def send(batch: LayerBatch) -> None:
        send_to_first(batch.positions)
        for rows in _with_logits(batch).values():
            send_to_first(rows.float().cpu())

    extractor.run(chain([first], own), send)


def _receive_other_batches(data: Any, collector: RowCollector) -> Iterator[Any]:
    """Yield the first process's batches and collect the outputs that the other processes send in between."""
    for number, batch in enumerate(data):
        if (source := number % world_size()) == 0:
            yield batch
            continue
        indices = receive(source, (len(batch[2]),), torch.int64)
        if not np.array_equal(indices.numpy(), np.asarray(batch[2])):
            raise InputError(
                "the processes of the job read the data in different orders, so that they cannot share the "
                "batches: use shuffle=False, or a generator with the same seed in the loader of each process"
            )
        rows = {name: receive(source, (len(indices), d)) for name, d in collector.dimensions.items()}
        collector.add(rows, None, indices)


class _Share:
    """Every world_size-th row of the data, for one process of a job, without padding.

    Attributes
    ----------
    batches
        What :func:`layerprobe.capture` takes.
    is_dummy : bool
        Whether the process has no row. It then gets one that only shows what the layers are.
    """

    def __init__(self, source: Any, batch_size: int) -> None:
        self.is_dummy = False
        if not is_whole(source) and (not isinstance(source, Dataset) or isinstance(source, IterableDataset)):
            self.batches: Any = self._of_batches(source)
            return
        n = rows_in(source) or 0
        own = shard(n)
        self.is_dummy = not own
        if is_whole(source):
            self.batches = _take(
                source, slice(0, 1) if self.is_dummy else slice(rank(), None, world_size()), n
            )
        else:
            self.batches = DataLoader(Subset(source, own or [0]), batch_size=batch_size)

    def _of_batches(self, source: Any) -> Iterator[Any]:
        start, first, given = 0, None, False
        for batch in source:
            n, indices = _size_and_indices(batch)
            if indices is None and not keeps_order(source):
                raise InputError(
                    "the loader may shuffle, differently in each process of this job, and gives no indices; "
                    "use shuffle=False, or a data set of (x, y, index)"
                )
            positions = np.arange(start, start + n) if indices is None else indices
            own = np.flatnonzero(positions % world_size() == rank())
            first = batch if first is None else first
            start += n
            if len(own):
                given = True
                yield _take(batch, own, n)
        if not given and first is not None:
            self.is_dummy = True
            yield _take(first, slice(0, 1), _size_and_indices(first)[0])


def _size_and_indices(batch: Any) -> tuple[int, np.ndarray | None]:
    if isinstance(batch, Mapping):
        indices, value = batch.get("index"), next(iter(batch.values()))
    else:
        values = list(batch) if isinstance(batch, tuple | list) else [batch]
        indices, value = values[2] if len(values) == 3 else None, values[0]
    while isinstance(value, Mapping | tuple | list):
        value = next(iter(value.values() if isinstance(value, Mapping) else value))
    return len(value), None if indices is None else np.asarray(indices)


def _take(value: Any, rows: Any, n: int) -> Any:
    """Return some of the n rows of everything in a nested value that has n rows."""
    if isinstance(value, Mapping):
        return {key: _take(item, rows, n) for key, item in value.items()}
    if isinstance(value, list) and len(value) == n and not hasattr(value[0], "__len__"):
        return np.asarray(value)[rows]
    if isinstance(value, tuple | list):
        return type(value)(_take(item, rows, n) for item in value)
    if isinstance(value, Tensor):
        return value[torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows]
    return np.asarray(value)[rows] if hasattr(value, "__array__") and np.ndim(value) else value
