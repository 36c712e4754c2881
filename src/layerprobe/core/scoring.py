"""Squared cosines and angles of many points to all subspaces, in few large matrix products.

The eigenvectors of all classes stand side by side, so that one product projects a chunk of rows on all of
them. A class that fills more than half of the space is scored by what is left over,
|U^T x|^2 = |x|^2 - |V^T x|^2 with V the other eigenvectors: less work, and exact where nothing is left.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from layerprobe.core.checks import check_finite

__all__ = ["Product", "angles", "plan_products", "staged_squared_cosines"]

CHUNK = 1024  # query rows at a time: their projections stay in cache
WIDTH = 8192  # columns of one product at most, so that K = 100 classes do not need gigabytes
# Squared norms outside these are computed again on rescaled rows: squares would overflow or vanish.
SAFE_SQUARES = {torch.float32: (1e-25, 1e30), torch.float64: (1e-250, 1e250)}
LARGEST_SHIFT = {torch.float32: 126, torch.float64: 1022}  # powers of two that are normal numbers


class Term(NamedTuple):
    """One class's share of a product."""

    k: int
    column: int  # where its eigenvector number `low` stands in the product
    low: int
    stop: int  # one past its last eigenvector there
    ranks: tuple[int, ...]  # one a stage
    complement: bool


class Product(NamedTuple):
    """One matrix product: the columns of several classes, and what each class takes from it."""

    matrix: Tensor  # (d, width), a view where the columns are neighbours
    terms: list[Term]


def plan_products(
    columns: Tensor, widths: Sequence[int], counts: Sequence[int], stages: Sequence[Sequence[int]]
) -> list[Product]:
    """Choose columns and route for each class, and bring them together into few products.

    Parameters
    ----------
    columns : Tensor of shape (d, sum of widths)
        The classes' eigenvectors side by side.
    widths, counts : sequences of K int
        Eigenvectors of each class (d of them where the complement can be used), and its training rows.
    stages : sequence of S sequences of K int
        The ranks to score at.
    """
    groups: list[tuple[list[list[int]], list[Term]]] = []  # spans of columns, terms
    start, used = 0, 0
    for k, width in enumerate(widths):
        ranks = tuple(stage[k] for stage in stages)
        lowest, highest = min(ranks), max(ranks)
        complement = width == len(columns) and len(columns) - lowest < highest
        low, stop = (lowest, width) if complement else (0, highest)
        first, last = start + low, start + stop
        start += width
        if not counts[k]:
            continue
        if not groups or used + last - first > WIDTH:
            groups.append(([], []))
            used = 0
        spans, terms = groups[-1]
        terms.append(Term(k, used, low, stop, ranks, complement))
        used += last - first
        if spans and spans[-1][1] == first:
            spans[-1][1] = last
        else:
            spans.append([first, last])
    parts = [([columns[:, a:b] for a, b in spans], terms) for spans, terms in groups]
    return [Product(part[0] if len(part) == 1 else torch.cat(part, dim=1), terms) for part, terms in parts]


def staged_squared_cosines(
    X: Tensor, products: Sequence[Product], num_stages: int, num_classes: int
) -> Tensor:
    """Squared cosines (S, n, K) of the rows of X, (n, d), to each class at each stage's ranks."""
    scores = X.new_full((num_stages, num_classes, len(X)), -torch.inf)
    for start in range(0, len(X), CHUNK):
        x, squared_norms = rescale(X[start : start + CHUNK])
        part = scores[:, :, start : start + CHUNK]
        for matrix, terms in products:
            squares = (x @ matrix).square_()
            for term in terms:
                _project(term, squares, squared_norms, part[:, term.k])
        part /= torch.where(squared_norms > 0, squared_norms, 1)  # 0 / 1: a zero row has no angle
    return scores.clamp_(max=1).transpose(1, 2).contiguous()


def _project(term: Term, squares: Tensor, squared_norms: Tensor, out: Tensor) -> None:
    """Write a class's |U^T x|^2 at each stage's rank to `out`, (S, c), by running sums over segments."""
    total: Tensor | None = None
    position = term.stop if term.complement else 0
    for rank, stages in _ordered(term.ranks, reverse=term.complement):
        a, b = sorted((position, rank))
        segment = squares[:, term.column + a - term.low : term.column + b - term.low].sum(1)
        total = segment if total is None else total + segment
        position = rank
        for stage in stages:
            out[stage] = (squared_norms - total).clamp_(min=0) if term.complement else total


def _ordered(ranks: tuple[int, ...], *, reverse: bool) -> list[tuple[int, list[int]]]:
    """Give each distinct rank with the stages that have it, in the order of the running sum."""
    return [
        (r, [s for s, rank in enumerate(ranks) if rank == r]) for r in sorted(set(ranks), reverse=reverse)
    ]


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
