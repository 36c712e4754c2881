"""Squared cosines and angles of many points to all subspaces, and the classes of the largest."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from layerprobe.core.checks import check_finite
from layerprobe.core.products import CHUNK, Plan, Product, Step
from layerprobe.utils.precision import full_precision
from layerprobe.utils.threads import parallel

__all__ = ["angles", "codes_by_stage", "staged_squared_cosines"]

CLOSE = 1e-5  # squared cosines of float32 products may be wrong by nearly this; then float64 decides
# Squared norms outside these are computed again on rescaled rows: squares would overflow or vanish.
SAFE_SQUARES = {torch.float32: (1e-25, 1e30), torch.float64: (1e-250, 1e250)}
LARGEST_SHIFT = {torch.float32: 126, torch.float64: 1022}  # powers of two that are normal numbers


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
