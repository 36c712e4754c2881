"""plan(): bytes and operations of probing, counted before anything is allocated."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from types import EllipsisType
from typing import Any

import torch
from torch import nn

from layerprobe.core.checks import check_count, check_number, check_strength
from layerprobe.core.linalg import SecondMoment
from layerprobe.core.moments import ClassMoments
from layerprobe.core.statistics import LayerSums
from layerprobe.errors import InputError
from layerprobe.layers.batches import count_rows
from layerprobe.layers.capturing import Pool
from layerprobe.layers.listing import aligned
from layerprobe.layerwise.classes import read_label_sets
from layerprobe.layerwise.engine import SCORED_ROWS, reads_of
from layerprobe.layerwise.outputs import Extractor
from layerprobe.probes import Probes, named_probes
from layerprobe.utils.memory_limit import SHARE, as_bytes, free_memory, readable, require_memory
from layerprobe.utils.settings import default_settings

# A float64 eigendecomposition of (m, m) takes as long as this many m^3 operations of a float32 product:
# 14, 10 and 6 were measured for m = 500, 784 and 2048 (docs/performance.md).
EIGH_OPERATIONS = 10
FLOAT64_OPERATIONS = 2  # operations in float64 take as long as this many in float32


@dataclass(frozen=True)
class LayerPlan:
    """Bytes and operations of one layer.

    Attributes
    ----------
    name : str
    dim : int
        Number of features d.
    outputs, sums, bases, working : int
        Bytes: of the layer's outputs for the training rows, if they are held; of sums over batches with
        their buffers; of the fitted probes; of one fit, or of adding one batch, while it runs. Upper bounds
        for classes of at most `ProbePlan.largest` rows.
    moments, decompositions, scores : float
        Operations, in units of one in float32.
    """

    name: str
    dim: int
    outputs: int
    sums: int
    bases: int
    working: int
    moments: float
    decompositions: float
    scores: float

    @property
    def flops(self) -> float:
        """All operations."""
        return self.moments + self.decompositions + self.scores


@dataclass(frozen=True, repr=False)
class ProbePlan:
    """Bytes and operations of probing; prints as a table.

    Attributes
    ----------
    dims : mapping of str to int
        Number of features d of each layer.
    rows, test_rows, classes, label_sets : int
    reads : frozenset of str
        Input of the probes: the sums "moments", "means" and "scatter", or "rows".
    forward : float or None
        Operations of the network's forward pass per row; None without a network.
    changed : float
        Share of the rows whose label is not the same in all sets.
    components : int or None
        Expected components per class; None for as many as possible.
    itemsize : int
        Bytes of one number.
    largest : int or None
        Rows of the largest class; None for twice the mean.
    """

    dims: Mapping[str, int]
    rows: int
    test_rows: int
    classes: int
    label_sets: int
    reads: frozenset[str]
    forward: float | None = None
    changed: float = 1.0
    components: int | None = None
    itemsize: int = 4
    largest: int | None = None

    @cached_property
    def layers(self) -> tuple[LayerPlan, ...]:
        """The layers in order of execution."""
        return tuple(self._layer(name, d) for name, d in self.dims.items())

    @property
    def held(self) -> int:
        """Peak bytes if the training outputs of all layers are held: one forward pass over them."""
        bases = most = 0
        in_float64 = 8 * min(self.rows, SCORED_ROWS) if self.reads & {"means", "scatter"} else 0
        for layer in self.layers:
            most = max(most, bases + layer.sums + max(layer.working, in_float64 * layer.dim))
            bases += layer.bases
        return sum(layer.outputs for layer in self.layers) + max(most, bases)

    @property
    def streamed(self) -> int | None:
        """Peak bytes if sums replace outputs: two forward passes; None if a probe needs rows."""
        if "rows" in self.reads:
            return None
        sums, bases = sum(layer.sums for layer in self.layers), 0
        most = sums + max((layer.working for layer in self.layers), default=0)  # while a batch is added
        for layer in self.layers:
            most = max(most, sums + bases + layer.working)
            sums, bases = sums - layer.sums, bases + layer.bases
        return max(most, bases)

    @property
    def layer_by_layer(self) -> int:
        """Peak bytes if the training outputs of one layer are held at a time: one forward pass per layer."""
        alone = [replace(self, dims={name: d}).held for name, d in self.dims.items()]
        bases = [layer.bases for layer in self.layers]
        return max(one + sum(bases) - own for one, own in zip(alone, bases, strict=True))

    @property
    def least(self) -> int:
        """Peak bytes of the cheapest way that is possible for these probes."""
        return min(self.held, self.layer_by_layer if self.streamed is None else self.streamed)

    @property
    def passes(self) -> int:
        """Forward passes over the training rows, in the way that takes less memory."""
        if self.held <= self.least:
            return 1
        return len(self.dims) if self.streamed is None else 2

    def flops(self, passes: int = 1) -> float:
        """Return all operations: `passes` forward passes over the training rows, one over the test rows."""
        own = sum(layer.flops for layer in self.layers)
        return own + (self.forward or 0) * (passes * self.rows + self.test_rows)

    def hours(self, flops_per_second: float, passes: int = 1) -> float:
        """Return the hours of all operations.

        Parameters
        ----------
        flops_per_second : float
            Operations in float32 per second.
        passes : int
            Forward passes over the training rows.
        """
        check_number("flops_per_second", flops_per_second, above=0)
        return self.flops(passes) / flops_per_second / 3600

    def summary(self) -> dict[str, Any]:
        """Return everything as plain numbers."""
        return {
            **{name: getattr(self, name) for name in ("rows", "test_rows", "classes", "label_sets")},
            "layers": [asdict(layer) for layer in self.layers],
            "held": self.held,
            "streamed": self.streamed,
            "forward": self.forward,
            "flops": self.flops(self.passes),
        }

    def require(self, memory: int | float | str | None = None) -> None:
        """Raise an InputError if neither way fits into the memory.

        Parameters
        ----------
        memory : int or str, optional
            Bytes, or text such as "8GiB". Default: 80 % of the free memory.
        """
        limit = int(SHARE * free_memory()) if memory is None else as_bytes(memory)
        if self.least <= limit:
            return
        widest = max(self.layers, key=lambda layer: layer.dim)
        fits = [name for name, d in self.dims.items() if replace(self, dims={name: d}).least <= limit]
        advice = [f"pool {widest.name!r}, of {widest.dim:,} features, by pool="]
        if 0 < len(fits) < len(self.dims):
            advice.append(f"choose fewer layers by layers=; each of {', '.join(map(repr, fits))} fits alone")
        if "rows" in self.reads:
            advice.append(
                "leave out the probes that need rows: all but masc (below a variance of 1), velpic, ncm, "
                "lda, ridge and shrinkage_lda"
            )
        require_memory(self.least, "probing would", "; or ".join(advice), memory)

    def _layer(self, name: str, d: int) -> LayerPlan:
        n, K, S, itemsize = self.rows, self.classes, self.label_sets, self.itemsize
        # Groups of rows, and the number of ClassMoments that hold as many: rows with equal labels share one.
        parts = [(n - self.changed * n, 1), (self.changed * n, S)] if S > 1 else [(n, 1)]
        m = min(max(1, n // K), d)
        sums, bases, working, moments, decompositions, widths = 8.0 * S * K, 0, 0, 0.0, 0.0, 0.0
        if "moments" in self.reads:
            waiting = ClassMoments.buffer_rows(K, d, n)
            buffer = waiting * (itemsize * d + 8)
            sums += sum(
                times * (ClassMoments.most_bytes(K, d, math.ceil(part), itemsize) + buffer)
                for part, times in parts
            )
            bases = 2 * itemsize * d * min(n, K * d)  # once more side by side, for scoring
            # eigenvectors, their workspace and the matrix in float64; then the bases side by side
            workers = min(K, torch.get_num_threads())
            most = min(n, d, -(-2 * n // K) if self.largest is None else self.largest)  # of one class
            fit = workers * 8 * (5 * most * most + 2 * most * d) + bases + 2 * itemsize * d * most
            working = max(fit, workers * SecondMoment.most_working(waiting, d, itemsize))
            added = sum(part * times for part, times in parts)
            gram = FLOAT64_OPERATIONS * n * m * d * S
            moments += added * d * (d + 1) if m == d else gram
            r = min(m, self.components or m)
            width = min(r, d - r) if m == d else r
            width = width if self.components or m < d else d // 2
            back = 0 if m == d else FLOAT64_OPERATIONS * 2 * m * r * d
            decompositions += S * K * (EIGH_OPERATIONS * m**3 + back)
            widths += S * K * width
        if self.reads & {"means", "scatter"}:
            sums += 8 * S * K * d
            working = max(working, 2 * 8 * min(n, LayerSums.BLOCK) * d)  # a block in float64, and centred
            bases += 3 * itemsize * K * d
            widths += S * K
        if "scatter" in self.reads:
            sums += SecondMoment.bytes_for(d)
            working += 8 * 12 * d * d
            bases += 8 * d * d
            moments += FLOAT64_OPERATIONS * n * d * (d + 1)
            decompositions += S * EIGH_OPERATIONS * d**3
        scores = 2 * (n + self.test_rows) * d * widths
        return LayerPlan(
            name, d, itemsize * n * d, int(sums), S * bases, working, moments, decompositions, scores
        )

    def __repr__(self) -> str:
        head = ["layer", "d", "outputs", "sums", "fitted", "moments", "decompositions", "scores"]
        cells = [head] + [
            [
                layer.name,
                f"{layer.dim:,}",
                *map(readable, (layer.outputs, layer.sums, layer.bases)),
                *(f"{flops:.1e}" for flops in (layer.moments, layer.decompositions, layer.scores)),
            ]
            for layer in self.layers
        ]
        forward = "" if self.forward is None else f", forward {self.forward:.1e} per row"
        hours = self.hours(1e11, self.passes)
        time = f"{hours:.2g} hours" if hours >= 0.1 else f"{3600 * hours:.2g} seconds"
        return "\n".join(
            [
                f"Plan: {self.rows:,} training and {self.test_rows:,} test rows, {self.classes:,} classes, "
                f"{self.label_sets} set(s) of labels",
                *aligned(cells, range(1, len(head))),
                f"memory at most: {readable(self.held)} with outputs held"
                + (
                    f", {readable(self.layer_by_layer)} with a pass per layer instead"
                    if self.streamed is None
                    else f", {readable(self.streamed)} with two passes instead"
                )
                + f"; {readable(free_memory())} free here",
                f"operations: {self.flops(self.passes):.2e}{forward}; {time} at 1e11 per second",
            ]
        )


@default_settings()
def plan(
    model: nn.Module | Mapping[str, int],
    train: Any = None,
    *,
    rows: int | None = None,
    test_rows: int = 0,
    classes: int | None = None,
    label_sets: int = 1,
    changed: float = 1.0,
    variances: Sequence[float] | None = None,
    components: int | None = None,
    probes: Probes = "masc",
    layers: str | Iterable[str | EllipsisType] | None = None,
    pool: Pool = None,
    device: torch.device | str | None = None,
    memory: int | float | str | None = None,
) -> ProbePlan:
    """Count the bytes and operations that :func:`layerprobe.probe` would take; nothing is allocated.

    Parameters
    ----------
    model : nn.Module, or mapping of str to int
        A network, run over two of the training rows; or the number of features d of each layer.
    train : optional
        Training data as for :func:`layerprobe.probe`, for a network.
    rows, classes : int, optional
        n and K. By default those of `train`; without `classes`, the labels of a loader are read once.
    test_rows : int
    label_sets : int
        Sets of training labels.
    changed : float
        Share of the rows whose label is not the same in all sets.
    variances : sequence of float, optional
        As for :func:`layerprobe.probe`: all of them share one fit and one projection.
    components : int, optional
        Components that a class is expected to need, default as many as it can have.
    probes, layers, pool, device
        As for :func:`layerprobe.probe`.
    memory : int or str, optional
        A limit, bytes or text such as "8GiB".

    Returns
    -------
    ProbePlan

    Raises
    ------
    InputError
        For numbers that no data can have, or if the memory limit would be exceeded.

    Notes
    -----
    Bytes are upper bounds for the probes that need only sums over rows; of the others only the outputs that
    they read are counted. Where the labels are not known, classes have at most twice n / K rows. The data and
    the network's own memory are not counted. Operations are those of K classes of n / K rows. float64
    operations count twice, an eigendecomposition of m x m as 10 m^3: as many operations of a product take as
    long.

    Examples
    --------
    >>> found = plan({"penultimate": 2048}, rows=1_280_000, classes=1000)
    >>> round(found.layers[0].sums / 2**30)
    14
    """
    forward, itemsize, largest = None, 4, None
    if isinstance(model, nn.Module):
        from torch.utils.flop_counter import FlopCounterMode  # slow to import

        with FlopCounterMode(display=False) as counter:
            found = Extractor(model, layers, pool, device=device, default_pool="compact").dimensions(train)
        dims, itemsize = found.layers, found.itemsize
        forward = counter.get_total_flops() / found.rows
        rows = count_rows(train) if rows is None else rows
        if classes is None and not isinstance(train, Iterator):  # an iterator would be used up
            labels = read_label_sets(train, rows or found.rows, model)
            classes, largest = len(labels.classes), labels.largest
            rows = labels.lengths[0] if rows is None else rows
    elif not isinstance(model, Mapping):
        raise InputError(f"expected a network or the number of features of each layer, got {model!r:.80}")
    elif train is not None or layers is not None or pool is not None:
        raise InputError(
            "train=, layers= and pool= are for a network; here the layers are named with their sizes"
        )
    else:
        dims = dict(model)
    if not rows or not classes or not dims:
        raise InputError(
            f"expected at least one layer, row and class, got {len(dims)} layers, rows={rows} and "
            f"classes={classes}; give rows= and classes= where the data do not"
        )
    counts = {f"the number of features of {name!r}": dim for name, dim in dims.items()}
    for name, count in (counts | {"rows": rows, "classes": classes, "label_sets": label_sets}).items():
        check_count(name, count)
    check_count("test_rows", test_rows, 0)
    check_number("changed", changed, least=0, most=1)
    if components is not None:
        check_strength(None, components)
        if components > max(dims.values()):
            raise InputError(
                f"components must be at most the number of features, {max(dims.values())}, got {components}."
            )
    reads = reads_of(named_probes(probes, variances).values())
    planned = ProbePlan(
        dims, rows, test_rows, classes, label_sets, reads, forward, changed, components, itemsize, largest
    )
    if memory is not None:
        planned.require(memory)
    return planned
