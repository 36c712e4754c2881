"""What layers of given sizes take, in bytes and operations: the counting behind `plan()`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from layerprobe.core.checks import check_number
from layerprobe.core.fitting import WIDE
from layerprobe.core.moments import ClassMoments
from layerprobe.core.second_moment import SecondMoment
from layerprobe.core.statistics import LayerSums
from layerprobe.probes.base import MomentProbe
from layerprobe.utils.memory_limit import SHARE, as_bytes, free_memory, readable, require_memory

__all__ = ["LayerPlan", "Plan", "plan_of", "reads_of"]

# What a float64 eigendecomposition takes, in the operations of a float32 product that takes as long: 14, 10
# and 6 m^3 were measured for m = 500, 784 and 2048 (docs/performance.md).
EIGH = 10
SCORED = 8192  # rows of outputs that are held are scored at a time
DOUBLE = 2  # operations in float64 take as long as so many in float32


@dataclass(frozen=True)
class LayerPlan:
    """What one layer takes.

    Attributes
    ----------
    name : str
    dim : int
        Number of features d.
    outputs, sums, bases, working : int
        Bytes: of the layer's outputs for the training rows, where they are held; of sums over batches with
        their buffers; of what was fitted; of one fit, or of one batch that is added, while it runs. Never
        exceeded, whatever the labels are.
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
class Plan:
    """What probing takes; prints as a table.

    Attributes
    ----------
    layers : tuple of LayerPlan
    rows, test_rows, classes, label_sets : int
    reads : frozenset of str
        What the probes need: sums ("moments", "means", "scatter"), or "rows".
    forward : float or None
        Operations of the network's forward pass over one row; None without a network.
    changed, components, itemsize
        As they were given to :func:`plan_of`.
    """

    layers: tuple[LayerPlan, ...]
    rows: int
    test_rows: int
    classes: int
    label_sets: int
    reads: frozenset[str]
    forward: float | None = None
    changed: float = 1.0
    components: int | None = None
    itemsize: int = 4

    @property
    def held(self) -> int:
        """Peak bytes where the training outputs of all layers are held: one forward pass over them."""
        bases = 0
        most = 0
        in_float64 = 8 * min(self.rows, SCORED) if self.reads & {"means", "scatter"} else 0
        for layer in self.layers:
            most = max(most, bases + layer.sums + max(layer.working, in_float64 * layer.dim))
            bases += layer.bases
        return sum(layer.outputs for layer in self.layers) + max(most, bases)

    @property
    def streamed(self) -> int | None:
        """Peak bytes where sums take the place of outputs: two forward passes; None if rows are needed."""
        if "rows" in self.reads:
            return None
        sums, bases = sum(layer.sums for layer in self.layers), 0
        most = sums + max((layer.working for layer in self.layers), default=0)  # while a batch is added
        for layer in self.layers:
            most = max(most, sums + bases + layer.working)
            sums, bases = sums - layer.sums, bases + layer.bases
        return max(most, bases)

    @property
    def least(self) -> int:
        """Peak bytes of the cheaper of the two ways."""
        return self.held if self.streamed is None else min(self.held, self.streamed)

    @property
    def passes(self) -> int:
        """Forward passes over the training rows of the way that takes less memory."""
        return 1 if self.streamed is None or self.held <= self.streamed else 2

    def flops(self, passes: int = 1) -> float:
        """All operations, with so many forward passes over the training rows and one over the test rows."""
        own = sum(layer.flops for layer in self.layers)
        return own + (self.forward or 0) * (passes * self.rows + self.test_rows)

    def hours(self, flops_per_second: float, passes: int = 1) -> float:
        """Hours of all operations at a rate of float32 operations a second."""
        check_number("flops_per_second", flops_per_second, above=0)
        return self.flops(passes) / flops_per_second / 3600

    def summary(self) -> dict[str, Any]:
        """Give all of it as plain numbers."""
        return {
            **{name: getattr(self, name) for name in ("rows", "test_rows", "classes", "label_sets")},
            "layers": [asdict(layer) for layer in self.layers],
            "held": self.held,
            "streamed": self.streamed,
            "forward": self.forward,
            "flops": self.flops(self.passes),
        }

    def require(self, memory: int | float | str | None = None) -> None:
        """Raise an InputError that names the alternatives where neither way fits into the budget.

        Parameters
        ----------
        memory : int or str, optional
            Bytes, or text such as "8GiB". Default: 80 % of what is free.
        """
        budget = int(SHARE * free_memory()) if memory is None else as_bytes(memory)
        if self.least > budget:
            require_memory(self.least, "probing would", self.alternatives(budget), memory)

    def alternatives(self, budget: int) -> str:
        """Say what would fit into so many bytes."""
        found = []
        widest = max(self.layers, key=lambda layer: layer.dim)
        for dim in (2**power for power in range(int(math.log2(widest.dim)), 3, -1)):
            if dim < widest.dim and self._with({widest.name: dim}).least <= budget:
                found.append(f"pool {widest.name!r} from {widest.dim:,} to {dim:,} features by pool=")
                break
        fitting: list[LayerPlan] = []
        for layer in sorted(self.layers, key=lambda layer: layer.dim):
            if self._of([*fitting, layer]).least <= budget:
                fitting.append(layer)
        if 0 < len(fitting) < len(self.layers):
            found.append(f"probe fewer layers by layers=, {', '.join(repr(one.name) for one in fitting)} fit")
        if "rows" in self.reads:
            found.append(
                "leave out the probes that need rows: all but masc (below a variance of 1), velpic, ncm, "
                "lda, ridge and shrinkage_lda"
            )
        else:
            groups = next(
                (g for g in range(2, self.classes + 1) if self._of(self.layers, g).least <= budget), None
            )
            if groups:
                found.append(
                    f"gather the classes in {groups} groups, one pass over the data each: a ClassMoments of "
                    f"{math.ceil(self.classes / groups)} class(es) fed by capture(..., consume=)"
                )
            a_direction = sum(2 * 4 * self.classes * self.label_sets * layer.dim for layer in self.layers)
            if kept := min(budget // 2 // a_direction, widest.dim, self.rows // self.classes) // 2:
                found.append(
                    f"keep few directions a class, ClassMoments(..., directions={kept}): no second moment "
                    "then lacks more than the variance that its `lost` tells, in any direction"
                )
        return "; or ".join(found) or "nothing smaller would fit into so little"

    def _with(self, dims: Mapping[str, int]) -> "Plan":
        return self._again({layer.name: dims.get(layer.name, layer.dim) for layer in self.layers})

    def _of(self, layers: Sequence[LayerPlan], groups: int = 1) -> "Plan":
        return self._again({layer.name: layer.dim for layer in layers}, groups)

    def _again(self, dims: Mapping[str, int], groups: int = 1) -> "Plan":
        return plan_of(
            dims,
            math.ceil(self.rows / groups),
            self.test_rows,
            math.ceil(self.classes / groups),
            self.label_sets,
            self.reads,
            self.forward,
            changed=self.changed,
            components=self.components,
            itemsize=self.itemsize,
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
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells
        ]
        forward = "" if self.forward is None else f", forward {self.forward:.1e} a row"
        time = _time(self.hours(1e11, self.passes))
        return "\n".join(
            [
                f"Plan: {self.rows:,} training and {self.test_rows:,} test rows, {self.classes:,} classes, "
                f"{self.label_sets} set(s) of labels",
                *lines,
                f"memory at most: {readable(self.held)} with outputs held"
                + ("" if self.streamed is None else f", {readable(self.streamed)} with two passes instead")
                + f"; {readable(free_memory())} free here",
                f"operations: {self.flops(self.passes):.2e}{forward}; {time} at 1e11 a second",
            ]
        )


def _time(hours: float) -> str:
    return f"{hours:.2g} hours" if hours >= 0.1 else f"{3600 * hours:.2g} seconds"


def reads_of(probes: Iterable[Any]) -> frozenset[str]:
    """Name what all these probes need to be fitted, sums or rows."""
    kinds = [
        probe.reads if isinstance(probe, MomentProbe) and probe.streams else {"rows"} for probe in probes
    ]
    return frozenset().union(*kinds)


def plan_of(
    dims: Mapping[str, int],
    rows: int,
    test_rows: int,
    classes: int,
    label_sets: int,
    reads: frozenset[str],
    forward: float | None = None,
    *,
    changed: float = 1.0,
    components: int | None = None,
    itemsize: int = 4,
) -> Plan:
    """Count for layers of these dimensions, numbers of `itemsize` bytes; the rest as for :func:`plan`."""
    n, K, S = rows, classes, label_sets
    parts = [(n - changed * n, 1)] if S > 1 else []  # rows, and how many ClassMoments hold as many
    parts.append((changed * n, S) if S > 1 else (n, 1))
    found = []
    for name, d in dims.items():
        m = min(max(1, n // K), d)
        sums, working, moments, decompositions = 0.0, 0.0, 0.0, 0.0
        widths = 0.0
        sums += 8 * S * K
        if "moments" in reads:
            waiting = ClassMoments.buffer_rows(K, d, n)
            buffer = waiting * (itemsize * d + 8)
            sums += sum(times * (ClassMoments.most_bytes(K, d, math.ceil(part), itemsize) + buffer)
                        for part, times in parts)  # fmt: skip
            bases = 2 * itemsize * d * min(n, K * d)  # once more where they stand side by side for scoring
            # eigenvectors, their workspace and the matrix in float64; then the bases put side by side
            workers = min(K, torch.get_num_threads())
            most = min(n, d)  # of the rows may be of one class
            fit = workers * 8 * (5 * most * most + 2 * most * d) + bases + 2 * itemsize * d * d
            working += max(fit, workers * SecondMoment.most_working(waiting, d, itemsize))
            added = sum(part * times for part, times in parts)
            moments += added * d * (d + 1) if m == d else (1 if d >= WIDE else DOUBLE) * n * m * d * S
            r = min(m, components or m)
            width = min(r, d - r) if m == d else r
            width = width if components or m < d else d // 2
            decompositions += S * K * (EIGH * m**3 + (0 if m == d else DOUBLE * 2 * m * r * d))
            widths += S * K * width
        else:
            bases = 0
        if reads & {"means", "scatter"}:
            sums += 8 * S * K * d
            # A block in float64, and the same about the mean.
            working = max(working, 2 * 8 * min(n, LayerSums.BLOCK) * d)
            bases += 3 * itemsize * K * d
            widths += S * K
        if "scatter" in reads:
            sums += 4 * d * (d + 1)
            working += 8 * 12 * d * d
            bases += 8 * d * d
            moments += DOUBLE * n * d * (d + 1)
            decompositions += S * EIGH * d**3
        scores = 2 * (n + test_rows) * d * widths
        found.append(
            LayerPlan(
                name,
                d,
                itemsize * n * d,
                int(sums),
                int(S * bases),
                int(working),
                moments,
                decompositions,
                scores,
            )
        )
    return Plan(tuple(found), n, test_rows, K, S, reads, forward, changed, components, itemsize)
