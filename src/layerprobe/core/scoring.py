"""Squared cosines and angles of many points to all subspaces, in few large matrix products.

The eigenvectors of all classes, and of several label sets, stand side by side, so that one product projects
a chunk of points on all of them: one eigenvector a row, one point a column, so that sums of squares add up
whole rows. The ranks to score at cut a class's d eigenvectors into segments, whose
squares sum up to |x|^2: the longest is left out, |U^T x|^2 = |x|^2 - |V^T x|^2 with V the other ones. That
is less work, and exact where nothing is left. Features that no basis touches, those which were zero on every
training row, are left out of the product and stay in |x|^2.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from layerprobe.core.checks import check_finite
from layerprobe.core.precision import full_precision
from layerprobe.core.threads import parallel

__all__ = ["Plan", "Request", "angles", "codes_by_stage", "plan_products", "staged_squared_cosines"]

CHUNK = 1024  # query rows at a time: their projections stay in cache
GPU_CHUNK = 2**27  # projections at a time on a GPU, which large products suit
WIDTH = 8192  # columns of one product at most, so that K = 100 classes do not need gigabytes
CLOSE = 1e-5  # squared cosines of float32 products may be wrong by nearly this; then float64 decides
DEAD_SHARE = 1 / 16  # of the features, from which on leaving them out is worth a copy of the others
# Squared norms outside these are computed again on rescaled rows: squares would overflow or vanish.
SAFE_SQUARES = {torch.float32: (1e-25, 1e30), torch.float64: (1e-250, 1e250)}
LARGEST_SHIFT = {torch.float32: 126, torch.float64: 1022}  # powers of two that are normal numbers


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


@full_precision()
def staged_squared_cosines(X: Tensor, plan: Plan) -> list[Tensor]:
    """Squared cosines of the rows of X, (n, d), for each request (S, n, K): at each stage, to each class."""
    return _over_rows(_cosines, X, plan)


@full_precision()
def codes_by_stage(X: Tensor, plan: Plan) -> list[Tensor]:
    """Class of the largest squared cosine for the rows of X, (n, d): for each request (S, n) int64.

    The first of equals wins. Rows of float32 whose two best are closer than 1e-5 are scored again in
    float64.
    """
    return _over_rows(_codes, X, plan)


def _over_rows(score: Callable[[Tensor, Plan], list[Tensor]], X: Tensor, plan: Plan) -> list[Tensor]:
    """Score whole chunks of rows side by side, one thread each: several in one product await each other."""
    chunks, workers = -(-len(X) // plan.chunk), torch.get_num_threads()
    if X.device.type != "cpu" or min(chunks, workers) < 2:
        return score(X, plan)
    parts = X.split(-(-chunks // workers) * plan.chunk)
    found = parallel(lambda part: score(part, plan), parts)
    return [torch.cat(tables, 1) for tables in zip(*found, strict=True)]


def _cosines(X: Tensor, plan: Plan) -> list[Tensor]:
    scores = X.new_empty(plan.num_slots, len(X))
    start = 0
    for part in _score(X, plan):
        scores[:, start : start + part.shape[1]] = part
        start += part.shape[1]
    return [table.transpose(1, 2).contiguous() for table in _tables(scores, plan)]


def _codes(X: Tensor, plan: Plan) -> list[Tensor]:
    codes = [torch.empty(S, len(X), dtype=torch.int64, device=X.device) for S, _ in plan.shapes]
    doubtful = [torch.zeros(S, len(X), dtype=torch.bool, device=X.device) for S, _ in plan.shapes]
    start = 0
    for part in _score(X, plan):
        stop = start + part.shape[1]
        for i, table in enumerate(_tables(part, plan)):
            best, codes[i][:, start:stop] = table.max(1)
            if X.dtype == torch.float32:
                doubtful[i][:, start:stop] = (table > best[:, None] - CLOSE).sum(1) > 1
        start = stop
    rows = torch.stack([table.any(0) for table in doubtful]).any(0).nonzero().squeeze(1)
    precise = _in_float64(plan) if len(rows) else plan
    for chunk in rows.split(plan.chunk):
        for part in _score(X[chunk].double(), precise):
            for i, table in enumerate(_tables(part, plan)):
                again = table.max(1).indices
                codes[i][:, chunk] = torch.where(doubtful[i][:, chunk], again, codes[i][:, chunk])
    return codes


def _in_float64(plan: Plan) -> Plan:
    products = [Product(product.matrix.double(), product.terms) for product in plan.products]
    return plan._replace(products=products, left_over=plan.left_over.double())


def _tables(scores: Tensor, plan: Plan) -> list[Tensor]:
    """Give views (S, K, c) of the scores of all slots, (slots, c), one a request."""
    parts = scores.split([S * K for S, K in plan.shapes])
    return [part.view(S, K, -1) for part, (S, K) in zip(parts, plan.shapes, strict=True)]


def _score(X: Tensor, plan: Plan) -> Iterator[Tensor]:
    """Score chunk after chunk, (slots, c); -inf for classes without rows."""
    for rows in X.split(plan.chunk) if len(X) else ():
        x, squared_norms = rescale(rows)
        whole = squared_norms
        if plan.alive is not None:
            x = x.index_select(1, plan.alive)
            whole = x.square().sum(1)
        scores = x.new_empty(plan.num_slots, len(x))
        for matrix, terms in plan.products:
            squares = (matrix @ x.T).square_()  # (width, c)
            for term in terms:
                _add_up(term.direct, squares, scores)
                _add_up(term.left_over, squares, scores)
        # |x|^2 - |V^T x|^2 for all slots that hold what is left over, at once
        scores.mul_(1 - 2 * plan.left_over).add_(plan.left_over * whole).clamp_(min=0)
        scores /= torch.where(squared_norms > 0, squared_norms, 1)  # 0 / 1: a zero row has no angle
        scores[plan.absent] = -torch.inf
        yield scores.clamp_(max=1)


def _add_up(steps: Sequence[Step], squares: Tensor, scores: Tensor) -> None:
    """Write running sums of squares to their slots."""
    before: int | None = None
    for start, stop, slots in steps:
        total = scores[slots[0]]
        torch.sum(squares[start:stop], 0, out=total)
        if before is not None:
            total += scores[before]
        before = slots[0]
        for slot in slots[1:]:
            scores[slot] = total


@full_precision()
def angles(X: Tensor, bases: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """Angles (n, K) in radians by atan2(residual, projection): acos loses the small ones in float32."""
    out = X.new_full((len(X), len(bases)), torch.inf)
    for start in range(0, len(X), CHUNK):
        x, squared_norms = rescale(X[start : start + CHUNK])
        for k, U in enumerate(bases):
            if not counts[k]:
                continue
            p = x @ U  # (c, r_k)
            full = U.shape[0] == U.shape[1]
            residual = torch.zeros_like(squared_norms) if full else (x - p @ U.T).norm(dim=1)
            angle = torch.atan2(residual, p.norm(dim=1))
            out[start : start + CHUNK, k] = torch.where(squared_norms > 0, angle, torch.pi / 2)
    return out


def rescale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Give the rows and their squared norms, scaled by powers of two where squares would leave the range.

    Angles do not change, and rows that are safe as they are stay bit for bit what they were.
    """
    squared_norms = x.square().sum(1)
    low, high = SAFE_SQUARES[x.dtype]
    unsafe = ~((squared_norms > low) & (squared_norms < high))
    if unsafe.any():
        check_finite(x)
        shift = LARGEST_SHIFT[x.dtype]
        exponent = torch.frexp(x.abs().amax(1, keepdim=True)).exponent.clamp(-shift, shift)
        x = torch.where(unsafe[:, None], torch.ldexp(x, -exponent), x)
        squared_norms = x.square().sum(1)
    return x, squared_norms
