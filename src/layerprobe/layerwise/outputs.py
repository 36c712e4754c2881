"""Layer outputs of a network for a data set: named, pooled, in one pass, whole or one layer at a time.

`Extractor` runs a network; `probe()`, `plan()`, the audit and the paper's experiments all use it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from layerprobe.core.checks import check_count
from layerprobe.errors import InputError, LayerError
from layerprobe.layers.batches import (
    Batch,
    Batches,
    Column,
    count_rows,
    is_whole,
    keeps_order,
    named_tensors,
    pairs_of_rows,
    read_batches,
)
from layerprobe.layers.capturing import (
    OptionalPattern,
    Pool,
    RowCollector,
    capture,
    flatten_output,
    layer_patterns,
    matches,
)
from layerprobe.layers.tracing import CALLED_LOGITS, Tracer, check_model, device_and_dtype, rows_to_compare
from layerprobe.utils.distributed import (
    rank,
    receive,
    send_to_first,
    shard,
    sum_over_processes,
    world_size,
)
from layerprobe.utils.progress import report_count
from layerprobe.utils.settings import default_settings

OUTPUT = "output"
LOGITS = "\0logits"  # name of the network's own output among collected rows; no layer can have it


class Dimensions(NamedTuple):
    """Sizes of one row."""

    layers: dict[str, int]  # number of features d of each layer, in order of execution
    output: tuple[int, ...] | None  # shape of the network's own output; None if it is not a tensor of n rows
    heads: dict[str, int]  # widths of the possible heads, see `LayerBatch`
    itemsize: int  # bytes of one number
    rows: int  # that the network was run on


@dataclass(frozen=True, eq=False)
class LayerBatch:
    """Layer outputs of one batch of b rows, on the network's device.

    Attributes
    ----------
    outputs : dict of str to Tensor (b, d)
        By the layers' names, in order of execution.
    heads : dict of str to Tensor (b, k)
        The parts of the network's own output that may be class scores, by their names in it; "" for all of
        it. If some are called logits, these only.
    labels, indices : Tensor (b,), ndarray (b,) or None
        As the data gave them.
    positions : Tensor (b,), int64
        The positions of the rows in the data.
    output_shape : tuple of int or None
        Shape of the network's own output, the batch included.
    """

    outputs: dict[str, Tensor]
    heads: dict[str, Tensor]
    labels: Column | None
    indices: Column | None
    positions: Tensor
    output_shape: tuple[int, ...] | None

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def logits(self) -> Tensor | None:
        """The first head with a score for each of at least two classes, (b, K)."""
        return next((head for head in self.heads.values() if head.shape[1] > 1), None)


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
    head : str, optional
        The only part of the network's own output to take for class scores; see `LayerBatch`.
    """

    model: nn.Module
    layers: str | Iterable[str | EllipsisType] | None = None
    pool: Pool = None
    batch_size: int = 512
    device: torch.device | str | None = None
    default_pool: str | None = None
    aliases: Mapping[str, str] | None = None
    head: str | None = None

    def __post_init__(self) -> None:
        check_model(self.model)
        check_count("batch_size", self.batch_size)
        device_and_dtype(self.model, self.device)
        if self.layers is not None:  # an iterator serves one pass only
            object.__setattr__(self, "layers", layer_patterns(self.layers))
        if self.aliases is None:
            names = getattr(self.model, "probed_layers", {}) if self.layers is None else {}
            if not isinstance(names, Mapping):
                raise LayerError(
                    f"{type(self.model).__name__}.probed_layers: expected a mapping from names in "
                    f"the results to names of modules, got {names!r:.80}"
                )
            object.__setattr__(self, "aliases", {layer: name for name, layer in names.items()})

    def of_layers(self, names: Iterable[str]) -> "Extractor":
        """Return an extractor of these layers alone, by their names in the results."""
        layer_of = {name: layer for layer, name in (self.aliases or {}).items()}
        pool = self.pool
        if isinstance(pool, Mapping):  # its patterns may match other layers only
            pool = {OptionalPattern(pattern): policy for pattern, policy in pool.items()}
        return replace(self, layers=[layer_of.get(name, name) for name in names], pool=pool)

    def run(
        self,
        data: Any,
        consume: Callable[[LayerBatch], object],
        *,
        shared: bool = False,
        total: int | None = None,
    ) -> None:
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
        total : int, optional
            The number of rows that this process runs, to report progress. Default: report nothing.

        Raises
        ------
        InputError, LayerError
            As for :func:`layerprobe.capture`.
        """
        share = _Share(data, self.batch_size, self.model) if shared else None
        patterns: Any = (list(self.aliases or {}) or [...]) if self.layers is None else self.layers
        wants_output = any(isinstance(one, str) and matches(OUTPUT, one) for one in patterns)
        own = _OwnOutput(self.model)
        seen = 0

        @default_settings()
        def take(rows: dict[str, Tensor], labels: Column | None, indices: Column | None) -> None:
            nonlocal seen
            if not rows:
                raise InputError("no layer of the network gives one row of features per sample")
            kept = slice(0) if share is not None and share.is_dummy else slice(None)
            rows = {layer: X[kept] for layer, X in rows.items()}
            size = len(next(iter(rows.values())))
            heads = {name: X[kept] for name, X in own.heads(rows).items() if self.head in (None, name)}
            heads = {name: X for name, X in heads.items() if len(X) == size}
            labels, indices = (None if one is None else one[kept] for one in (labels, indices))
            positions = torch.arange(seen, seen + size)
            if share is not None:
                positions = rank() + world_size() * positions
            seen += size
            outputs = {(self.aliases or {}).get(name, name): X for name, X in rows.items() if name != OUTPUT}
            if wants_output and OUTPUT in rows:
                outputs[OUTPUT] = rows[OUTPUT]
            consume(LayerBatch(outputs, heads, labels, indices, positions, own.shape))
            if total is not None:
                report_count("layer outputs", seen, total)

        with own.observed():
            capture(
                self.model,
                data if share is None else share.batches,
                [*patterns, OptionalPattern(OUTPUT)],
                pool=self._pool_by_layer(own.flatten),
                batch_size=self.batch_size,
                device=self.device,
                consume=take,
            )

    def dimensions(self, data: Any) -> Dimensions:
        """Return the sizes of one row, found by running the network on the first rows of the data."""
        rows = self.batch_size if pairs_of_rows(data) else 2
        first = next(read_batches(data, rows, model=self.model))
        found: list[LayerBatch] = []
        self.run(iter([replace(first, labels=None, indices=None)]), found.append)
        (batch,) = found
        layers = {layer: rows.shape[1] for layer, rows in batch.outputs.items()}
        output = None if batch.output_shape is None else batch.output_shape[1:]
        itemsize = max((rows.itemsize for rows in batch.outputs.values()), default=4)
        heads = {name: head.shape[1] for name, head in batch.heads.items()}
        return Dimensions(layers, output, heads, itemsize, len(batch) + rows_to_compare(len(batch)))

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
            rows = count_rows(data) if order is None else len(order)
            self.run(
                data,
                lambda batch: collector.add(_with_logits(batch), batch.labels, batch.indices),
                total=rows,
            )
        elif rank():
            _send_own_batches(self, data)
            return LayerOutputs({})
        else:
            batches = _receive_other_batches(data, collector)
            self.run(batches, lambda batch: collector.add(_with_logits(batch), None, batch.indices))
        captured = collector.result()
        return LayerOutputs(captured.outputs, captured.labels, captured.indices)

    def _pool_by_layer(self, flatten: Callable[[Tensor], Tensor]) -> Pool:
        """Return the pooling policies with the one of the network's own output in the first place."""
        own: dict[str, Any] = {OptionalPattern(OUTPUT): flatten}
        if isinstance(self.pool, Mapping):
            own |= self.pool
            return own if "*" in own else own | {OptionalPattern("*"): self.default_pool}
        own[OptionalPattern("input")] = self.default_pool  # pooling a layer does not pool the raw input
        return own | {OptionalPattern("*"): self.default_pool if self.pool is None else self.pool}


class _OwnOutput:
    """The network's own output for the batch that runs: its shape, and its parts that may be class scores."""

    def __init__(self, model: nn.Module) -> None:
        self.model = getattr(model, "_orig_mod", model)  # of torch.compile, whose graph takes no hook
        self.shape: tuple[int, ...] | None = None
        self._parts: dict[str, Tensor] = {}

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Observe the network while the block runs."""
        is_script = isinstance(self.model, torch.jit.ScriptModule)  # which takes no hook
        hook = None if is_script else self.model.register_forward_hook(self._see)
        try:
            yield
        finally:
            if hook is not None:
                hook.remove()

    def _see(self, module: nn.Module, inputs: Any, result: Any) -> None:
        with torch.inference_mode(False), torch.no_grad():
            parts = possible_heads(result).items()
            self._parts = {name: X.to(torch.float32, copy=True) for name, X in parts}

    def flatten(self, output: Tensor) -> Tensor:
        """Flatten the output as a layer, and note its shape."""
        self.shape = tuple(output.shape)
        return flatten_output(output)

    def heads(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the possible heads; of a script the output among the layers' rows, if it is (n, k)."""
        if not self._parts and OUTPUT in rows and self.shape and len(self.shape) <= 2:
            return {"": rows[OUTPUT]}
        return self._parts


def _with_logits(batch: LayerBatch) -> dict[str, Tensor]:
    logits = next(iter(batch.heads.values()), None) if len(batch.heads) == 1 else batch.logits
    return batch.outputs if logits is None else {**batch.outputs, LOGITS: logits}


# The network's own predictions --------------------------------------------------------------------------

IN_CLASSES = 0.5  # share of the rows for which a head that is wider than the classes must predict a class
GOLDEN_RATIO = 0.6180339887498949
MUTUAL = 0.8  # share of the classes that must be matched both ways by another order
LEAST_GAIN = 0.05  # least gain in agreement with the labels by another order of the classes
STANDARD_ERRORS = 5  # least gain in units of its standard error


def possible_heads(result: Any) -> dict[str, Tensor]:
    """Return the parts of a network's own output that may be class scores, (b, k), by name.

    Parts are found by the names of a mapping, dataclass or named tuple, by position in a tuple, and as the
    attribute `logits` of any other object. Parts called logits exclude all others.
    """
    if isinstance(getattr(result, "logits", None), Tensor) and not isinstance(result, Mapping):
        result = {"logits": result.logits}
    named = named_tensors(result)
    named = named[1:] if len(named) > 1 else named  # the first is listed again by its name
    heads = {
        name: tensor.reshape(len(tensor), -1)  # (b,) becomes (b, 1)
        for name, tensor in named
        if tensor.ndim in (1, 2) and tensor.is_floating_point() and tensor.layout is torch.strided
    }
    called = {name: head for name, head in heads.items() if CALLED_LOGITS.search(name)}
    return called or heads


def class_scores(head: Tensor, probability: bool | None = None) -> Tensor:
    """Return the scores of a head with a column per class; a single logit z is [0, z] of two classes.

    A single column within [0, 1] in all rows holds probabilities p, whose logit is log(p / (1 - p)).

    Parameters
    ----------
    head : Tensor (n, k)
    probability : bool, optional
        Whether a single column holds probabilities. By default all rows decide.
    """
    if head.shape[1] != 1:
        return head
    if probability is None:
        probability = bool(((head >= 0) & (head <= 1)).all())
    z = head.logit(eps=1e-7) if probability else head
    return torch.cat([torch.zeros_like(z), z], 1)


def head_predictions(heads: Mapping[str, Tensor]) -> dict[str, tuple[int, Tensor]]:
    """Return the width of each head and its prediction per row, (b,); of one column the column itself.

    The prediction of a row with NaN is -1.
    """
    return {
        name: (X.shape[1], (X.argmax(1).where(~X.isnan().any(1), -1) if X.shape[1] > 1 else X[:, 0]).cpu())
        for name, X in heads.items()
    }


class HeadCounts:
    """Counts of a network's predictions per class, for every possible head and set of labels.

    `counts` has for each head a Tensor (S, 2, k, K + 1), int64: two halves of the rows by prediction and
    class; the last class stands for unknown ones, and for outputs of NaN. The halves depend on the number of
    the row only, and not periodically, as labels may do.

    Parameters
    ----------
    num_sets, num_classes : int
        Numbers S of sets of labels, and K of outputs that have classes.
    """

    def __init__(self, num_sets: int, num_classes: int) -> None:
        self.num_sets, self.num_classes = num_sets, num_classes
        self.counts: dict[str, Tensor] = {}
        self._outside: dict[str, Tensor] = {}  # rows of single columns that are no probabilities
        self._seen = 0

    def add(self, predictions: Mapping[str, tuple[int, Tensor]], y: Tensor) -> None:
        """Add rows.

        Parameters
        ----------
        predictions : mapping of str to (int, Tensor (b,))
            As :func:`head_predictions` returns them.
        y : Tensor (S, b), int64
            The output of the class of each row, in 0..K-1; -1 for unknown classes.
        """
        y = torch.where(y < 0, self.num_classes, y)
        parity = ((self._seen + torch.arange(y.shape[1])) * GOLDEN_RATIO % 1 < 0.5).long()
        self._seen += y.shape[1]
        for name, (k, predicted) in predictions.items():
            if k > 1:
                self._count(name, k, predicted, y, parity)
                continue
            outside = ((predicted < 0) | (predicted > 1)).sum()
            self._outside[name] = self._outside.get(name, torch.tensor(0)) + outside
            for threshold in (0.0, 0.5):
                above = (predicted > threshold).long().where(~predicted.isnan(), -1)
                self._count(f"{name} > {threshold}", 2, above, y, parity)

    def _count(self, name: str, k: int, predicted: Tensor, y: Tensor, parity: Tensor) -> None:
        sets = torch.arange(self.num_sets)[:, None].expand_as(y)
        counts = self.counts.setdefault(name, y.new_zeros(self.num_sets, 2, k, self.num_classes + 1))
        y = torch.where(predicted < 0, self.num_classes, y)
        cells = sets, parity.expand_as(y), predicted.clamp(min=0).expand_as(y), y
        counts.index_put_(cells, torch.ones_like(y), accumulate=True)

    def sum_over_processes(self) -> None:
        """Add the counts of the other processes of the job."""
        for counts in (self.counts, self._outside):
            for name in counts:
                counts[name] = sum_over_processes(counts[name])

    def choose(self, outputs: np.ndarray, width: int | None = None) -> str | None:
        """Return the name of the head, or None: a part with an output per class, not an embedding.

        Parts with exactly as many outputs as classes come before wider ones, and parts that agree more
        often with the labels before others. A wider part must predict a class for half of the rows.

        Parameters
        ----------
        outputs : ndarray of shape (K,), int64
            The output of each class, which is also its number in the counts.
        width : int, optional
            The number of outputs, if it is known; then no other part is a head.
        """
        needed = int(outputs.max()) + 1
        usable = {}
        for name, counts in self.counts.items():
            column, _, threshold = name.partition(" > ")
            is_probability = threshold and not self._outside[column]
            if counts.shape[2] >= needed and (not threshold or is_probability == (threshold == "0.5")):
                usable[name] = counts.sum((0, 1))[:, outputs]  # (k, K)
        exact = {name: counts for name, counts in usable.items() if len(counts) == (width or needed)}
        wider = {
            name: counts
            for name, counts in usable.items()
            if width is None
            and (CALLED_LOGITS.search(name) or counts[outputs].sum() >= IN_CLASSES * counts.sum())
        }
        return max(exact or wider, key=lambda name: int(usable[name][outputs].trace()), default=None)

    def other_order(
        self, name: str, outputs: np.ndarray, names: Sequence[Any], every: Sequence[Any] | None = None
    ) -> str | None:
        """Return a message if the head agrees much better with the labels in another order of the classes.

        The best assignment of classes to any outputs of the head for one half of the rows (Hungarian method;
        Crouse, 2016) is compared with the given one on the other half. For most classes the assigned
        output must also be the most frequent prediction for the class, and the class the most frequent one of
        this prediction. Untrained networks rarely satisfy this.

        Parameters
        ----------
        name : str
            A head.
        outputs : ndarray of shape (K,), int64
            As for `choose`.
        names : sequence of K labels
            The classes in this order.
        every : sequence of k names, optional
            Of all outputs of the head. Default: their numbers, as texts if `names` are texts.
        """
        from scipy.optimize import linear_sum_assignment

        K, k = len(outputs), self.counts[name].shape[2]
        first, second = self.counts[name].sum(0)[:, :, outputs].double().numpy().transpose(0, 2, 1)  # (K, k)
        classes, both, keep = np.arange(K), first + second, np.zeros((K, k))
        keep[classes, outputs] = 1e-6  # a tie keeps the given order
        n = max(second.sum(), 1)
        order = linear_sum_assignment(first + keep, maximize=True)[1]  # the output of each class
        gained, lost = (second[classes, o][order != outputs].sum() for o in (order, outputs))
        agreement, frequent = second[classes, order].sum() / n, second.sum(1).max() / n
        least = max(LEAST_GAIN, STANDARD_ERRORS * math.sqrt(gained + lost) / n)
        mutual = (both.argmax(1) == order) & (both[:, order].argmax(0) == classes)
        if (gained - lost) / n <= least or agreement <= frequent + LEAST_GAIN or mutual.mean() < MUTUAL:
            return None
        order = linear_sum_assignment(both + keep, maximize=True)[1]
        before, after = (both[classes, o].sum() / both.sum() for o in (outputs, order))
        by_output = dict(zip(order.tolist(), names, strict=True))
        if every is None:
            every = [str(i) if isinstance(names[0], str) else i for i in range(k)]
        taken = set(names)
        by_output |= {i: every[i] for i in range(k) if i not in by_output and every[i] not in taken}
        spare = iter([one for one in every if one not in taken | set(by_output.values())])
        line = [by_output[i] if i in by_output else next(spare) for i in range(k)]
        return (
            f"the predictions agree with {before:.0%} of the given labels if the classes of the outputs are "
            f"{', '.join(map(str, names[:5]))}{', ...' * (K > 5)}, but with {after:.0%} in another order. If "
            f"that is the order of the outputs, give class_names={line!r}; class_names= in the first order "
            "keeps it"
        )


def _send_own_batches(extractor: Extractor, data: Any) -> None:
    """Run every world_size-th batch and send its indices and outputs to the first process."""
    own = (batch for number, batch in enumerate(data) if number % world_size() == rank())
    first = next(own, None)
    if first is None:
        return

    def send(batch: LayerBatch) -> None:
        send_to_first(torch.as_tensor(np.asarray(batch.indices)))
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

    A process without a row `is_dummy`: it runs one row of another process, to find the layers.
    """

    def __init__(self, source: Any, batch_size: int, model: nn.Module) -> None:
        self.is_dummy, self._model = False, model
        if (
            is_whole(source)
            or (rows := count_rows(source)) is None
            or isinstance(source, DataLoader | Batches)
        ):
            self.batches: Any = self._of_batches(source, read_batches(source, batch_size, model=model))
            return
        own = shard(rows)
        self.is_dummy = not own
        self.batches = Subset(source, own or [0])

    def _of_batches(self, source: Any, batches: Iterator[Batch]) -> Iterator[Batch]:
        start, first, given, squares = 0, None, False, True
        for batch in batches:
            indices = None if batch.indices is None else np.asarray(batch.indices)
            if (indices is None or indices.dtype.kind not in "iu") and not keeps_order(source):
                raise InputError(
                    "the loader may shuffle, differently in each process of this job, and gives no indices; "
                    "use shuffle=False, or a data set of (x, y, index)"
                )
            in_order = keeps_order(source) or indices is None
            positions = np.arange(start, start + batch.size) if in_order else indices
            own = np.flatnonzero(np.asarray(positions) % world_size() == rank())
            start += batch.size
            if first is None:
                squares = Tracer(self._model).cuts_squares(batch)
                first = batch.take(np.arange(1), squares=squares)
            if len(own):
                given = True
                yield batch.take(own, squares=squares)
        if not given and first is not None:
            self.is_dummy = True
            yield first
