"""Which eigenvectors are multiplied with the points, in few large matrix products.

The eigenvectors of all classes, and of several label sets, stand side by side, so that one product projects
a chunk of points on all of them: one eigenvector a row, one point a column, so that sums of squares add up
whole rows. The ranks to score at cut a class's d eigenvectors into segments, whose squares sum up to |x|^2:
the longest is left out, |U^T x|^2 = |x|^2 - |V^T x|^2 with V the other ones. That is less work, and exact
where nothing is left. Features that no basis touches, those which were zero on every training row, are left
out of the product and stay in |x|^2.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Plan", "Product", "Request", "Step", "plan_products"]

CHUNK = 1024  # query rows at a time: their projections stay in cache
GPU_CHUNK = 2**27  # projections at a time on a GPU, which large products suit
WIDTH = 8192  # columns of one product at most, so that K = 100 classes do not need gigabytes
DEAD_SHARE = 1 / 16  # of the features, from which on leaving them out is worth a copy of the others


class Request(NamedTuple):
    """One label set's subspaces and the ranks to score them at."""

    columns: Tensor  # (d, sum of widths), the classes' eigenvectors side by side
    widths: Sequence[int]  # K, eigenvectors of each class; d of them where all are there
    counts: Sequence[int]  # K, training rows of each class
    stages: Sequence[Sequence[int]]  # S choices of K ranks


class Step(NamedTuple):
    """A step of a class's running sum of squares: over rows [start, stop), then written to the slots."""

    start: int
    stop: int
    slots: tuple[int, ...]  # rows of the table of all scores


class Term(NamedTuple):
    """One class's share of a product."""

    direct: list[Step]  # sums upwards from the first eigenvector
    left_over: list[Step]  # sums downwards from the last one, to be taken from |x|^2


class Product(NamedTuple):
    """One matrix product: the eigenvectors of several classes, and what each class takes from it."""

    matrix: Tensor  # (width, d or d_alive), one eigenvector a row; a view where they are neighbours
    terms: list[Term]


class Plan(NamedTuple):
    """All products, and where their results stand."""

    products: list[Product]
    alive: Tensor | None  # the features that take part, where some do not
    shapes: list[tuple[int, int]]  # (S, K) of each request
    left_over: Tensor  # (slots, 1), 1 where a slot's sum is to be taken from |x|^2, else 0
    absent: Tensor  # slots of classes without rows

    @property
    def num_slots(self) -> int:
        """Rows of the table of all scores."""
        return len(self.left_over)

    @property
    def chunk(self) -> int:
        """Rows to score at a time."""
        width = max((len(product.matrix) for product in self.products), default=1)
        return CHUNK if self.left_over.device.type == "cpu" else max(CHUNK, GPU_CHUNK // max(width, 1))


def plan_products(requests: Sequence[Request]) -> Plan:
    """Choose eigenvectors and route for each class, and bring them together into few products.

    Parameters
    ----------
    requests : sequence of Request
        On the same d features.
    """
    alive = _alive_features(requests)
    groups: list[tuple[list[Tensor], list[Term]]] = []  # parts of the matrix, terms
    used, slot = 0, 0
    for columns, widths, counts, stages in requests:
        start = 0
        for k, width in enumerate(widths):
            block, start = columns.T[start : start + width], start + width
            if not counts[k]:
                continue
            slots = [slot + s * len(widths) + k for s in range(len(stages))]
            chosen, term = _plan_class(block, [stage[k] for stage in stages], slots, alive)
            needed = sum(len(index) for index in chosen)
            if not groups or used + needed > WIDTH:
                groups.append(([], []))
                used = 0
            parts, terms = groups[-1]
            terms.append(_shift(term, used))
            parts += [_select(block, index, alive) for index in chosen if len(index)]
            used += needed
        slot += len(stages) * len(widths)
    first = requests[0].columns
    length = len(first) if alive is None else len(alive)
    left_over, absent = first.new_zeros(slot, 1), torch.ones(slot, dtype=torch.bool)
    for term in (term for _, terms in groups for term in terms):
        for step in term.left_over:
            left_over[list(step.slots)] = 1
        for step in (*term.direct, *term.left_over):
            absent[list(step.slots)] = False
    return Plan(
        [Product(_join(parts, first.new_empty(0, length)), terms) for parts, terms in groups],
        alive,
        [(len(request.stages), len(request.widths)) for request in requests],
        left_over,
        absent.nonzero().squeeze(1).to(first.device),
    )


def _alive_features(requests: Sequence[Request]) -> Tensor | None:
    """Features that some basis touches, (d_alive,); None where that is hardly fewer than all."""
    d = len(requests[0].columns)
    alive = torch.zeros(d, dtype=torch.bool, device=requests[0].columns.device)
    for columns, widths, _, stages in requests:
        for k, block in enumerate(columns.T.split(list(widths))):
            alive |= (block[: max(stage[k] for stage in stages)] != 0).any(0)
    n_dead = d - int(alive.sum())
    return alive.nonzero().squeeze(1) if n_dead > 0 and n_dead >= DEAD_SHARE * d else None


def _plan_class(
    block: Tensor, ranks: Sequence[int], slots: Sequence[int], alive: Tensor | None
) -> tuple[list[Tensor], Term]:
    """Choose the eigenvectors of a class, (width, d), that are multiplied: those below and above a gap."""
    width, d = block.shape
    matters = torch.ones(width, dtype=torch.bool)
    if alive is not None and width == d:  # eigenvectors that are features which take no part
        matters = (block[:, alive] != 0).any(1).cpu()
    before = [0, *matters.cumsum(0).tolist()]  # how many of the first r eigenvectors matter
    cuts = sorted(set(ranks))
    gap = (cuts[-1], width)  # what is beyond the last rank is not needed
    if width == d:
        gap = max(pairwise([0, *cuts, d]), key=lambda segment: before[segment[1]] - before[segment[0]])
    low, high = gap
    index = matters.nonzero().squeeze(1)
    chosen = [index[: before[low]]]
    if width == d:
        chosen.append(index[before[high] :])

    def slots_of(rank: int) -> tuple[int, ...]:
        return tuple(slot for slot, r in zip(slots, ranks, strict=True) if r == rank)

    up = [rank for rank in cuts if rank <= low]
    direct = [Step(before[a], before[b], slots_of(b)) for a, b in pairwise([0, *up])]
    down = [rank for rank in reversed(cuts) if rank > low]
    skipped = before[high] - before[low]
    left_over = [Step(before[a] - skipped, before[b] - skipped, slots_of(a)) for b, a in pairwise([d, *down])]
    return chosen, Term(direct, left_over)


def _shift(term: Term, by: int) -> Term:
    return Term(*([Step(s.start + by, s.stop + by, s.slots) for s in steps] for steps in term))


def _select(block: Tensor, index: Tensor, alive: Tensor | None) -> Tensor:
    """Eigenvectors of a block at an ascending index, and of these the live features."""
    first, last = int(index[0]), int(index[-1]) + 1
    part = block[first:last] if last - first == len(index) else block[index.to(block.device)]
    return part if alive is None else part.index_select(1, alive)


def _join(parts: Sequence[Tensor], none: Tensor) -> Tensor:
    """Put blocks below each other; a view where they already are."""
    if not parts:
        return none
    first = parts[0]
    offset = first.storage_offset()
    for part in parts:
        neighbours = (
            part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
            and part.stride() == first.stride()
            and part.storage_offset() == offset
        )
        if not neighbours:
            return torch.cat(list(parts))
        offset += len(part) * part.stride(0)
    return first.as_strided((sum(map(len, parts)), first.shape[1]), first.stride())
