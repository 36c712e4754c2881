"""Bases of classes from their rows or moments (Algorithm 2), for one set of labels or several at once.

A class of n_k >= d rows is decomposed through its second moment, one of fewer through its Gram matrix. Rows
that several sets of labels put into the same class are multiplied once for all of them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from layerprobe.core.linalg import (
    BATCH_BYTES,
    Basis,
    eigenpairs,
    eigenpairs_of_each,
    gram_basis,
    numerical_rank,
)
from layerprobe.core.ranks import choose_rank
from layerprobe.core.second_moment import SecondMoment, gram
from layerprobe.core.threads import parallel

__all__ = ["ClassBasis", "basis_from_moment", "basis_from_rows", "fit_classes"]

# From so many features on, the Gram matrix of float32 rows is of float32 products, as a moment is.
WIDE = 1024
# Cumulative shares of float32 products were off by 1e-8, and by 8e-8 at most, on 45 sets of rows of very
# different kinds; closer to the variance than this, float64 decides.
UNSURE = 5e-7


class ClassBasis(NamedTuple):
    """One class's subspace: its spectrum and eigenvectors, all d of them where rank > d / 2."""

    eigenvalues: Tensor  # (min(n_k, d),) float64, descending
    vectors: Tensor  # (d, rank) or (d, d), of the rows' dtype
    rank: int
    full: int  # directions that stand out of rounding
    n_rows: int


class _Pending(NamedTuple):
    """A symmetric matrix to decompose, and what makes a basis of its eigenpairs."""

    matrix: Tensor
    finish: Callable[[Tensor, Basis], ClassBasis]


def basis_from_moment(
    moment: Tensor,
    n_rows: int,
    *,
    variance: float | None = None,
    components: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> ClassBasis:
    """Subspace of a class from its second moment X_k^T X_k, (d, d), of n_k rows multiplied in `dtype`."""
    return _of_moment(*eigenpairs(moment), n_rows, dtype, variance=variance, components=components)


def basis_from_rows(X: Tensor, *, variance: float | None = None, components: int | None = None) -> ClassBasis:
    """Subspace of a class from its rows X_k, (n_k, d): by the Gram matrix if n_k < d, else by the moment."""
    codes = torch.zeros(len(X), dtype=torch.int64, device=X.device)
    ((basis,),) = fit_classes(X, [codes], 1, variance=variance, components=components)
    return basis


def fit_classes(
    X: Tensor,
    label_sets: Sequence[Tensor],
    num_classes: int,
    *,
    variance: float | None = None,
    components: int | None = None,
    exact: bool = False,
) -> list[list[ClassBasis]]:
    """Bases of every class of every set of labels, one thread a class.

    Parameters
    ----------
    X : Tensor of shape (n, d)
    label_sets : sequence of J Tensors of shape (n,)
        Codes 0..K-1.
    num_classes, variance, components, exact
        As for :func:`layerprobe.core.subspaces.fit_subspaces`.

    Returns
    -------
    list of J lists of K ClassBasis
    """
    rule = {"variance": variance, "components": components}
    prepare = partial(_prepare, X, label_sets, rule, exact)
    if X.device.type == "cpu":
        fitted = parallel(lambda k: [p.finish(*eigenpairs(p.matrix)) for p in prepare(k)], range(num_classes))
    else:
        fitted = _fit_batched(prepare, num_classes)
    return [list(bases) for bases in zip(*fitted, strict=True)]


def _fit_batched(prepare: Callable[[int], list[_Pending]], num_classes: int) -> list[list[ClassBasis]]:
    """Decompose the classes' matrices together, as many as fit into the batch."""
    fitted: list[list[ClassBasis]] = []
    waiting: list[list[_Pending]] = []
    for k in range(num_classes):
        waiting.append(prepare(k))
        held = sum(pending.matrix.nbytes for pendings in waiting for pending in pendings)
        if held < BATCH_BYTES and k + 1 < num_classes:
            continue
        pairs = iter(eigenpairs_of_each([p.matrix for pendings in waiting for p in pendings]))
        fitted += [[p.finish(*next(pairs)) for p in pendings] for pendings in waiting]
        waiting = []
    return fitted


def _prepare(X: Tensor, label_sets: Sequence[Tensor], rule: dict, exact: bool, k: int) -> list[_Pending]:
    """Make what has to be decomposed for class k, one matrix a set of labels."""
    d = X.shape[1]
    members = [codes == k for codes in label_sets]
    by_moment = [j for j, member in enumerate(members) if int(member.sum()) >= d]
    moments = _shared_moments(X, [members[j] for j in by_moment], exact)
    pending = []
    for j, member in enumerate(members):
        index = member.nonzero().squeeze(1)
        again = partial(_again, X, index, rule)
        if j in by_moment:
            matrix = moments[by_moment.index(j)]
            dtype = torch.float64 if exact else X.dtype
            finish = partial(_finish_moment, len(index), dtype, rule, again)
        else:
            rows = _take(X, index)
            if exact or d < WIDE:
                rows = rows.double()
            matrix = gram(rows)
            finish = partial(_finish_gram, rows, torch.float64 if exact else X.dtype, rule, again)
        pending.append(_Pending(matrix, finish))
    return pending


def _shared_moments(X: Tensor, members: Sequence[Tensor], exact: bool) -> list[Tensor]:
    """Second moments of several sets of rows; rows that are in all of them are multiplied once."""

    def moment(member: Tensor) -> SecondMoment:
        total = SecondMoment(X.shape[1], X.device)
        for block in member.nonzero().squeeze(1).split(SecondMoment.BLOCK):
            rows = _take(X, block)
            total.add(rows.double() if exact else rows)
        return total

    if len(members) < 2:
        return [moment(member).matrix() for member in members]
    common = torch.stack(list(members)).all(0)
    shared = moment(common)
    return [moment(member & ~common).merge(shared).matrix() for member in members]


def _take(X: Tensor, index: Tensor) -> Tensor:
    """Rows of X in the order of an ascending index; a view where they are neighbours."""
    if len(index) and int(index[-1]) - int(index[0]) + 1 == len(index):
        return X[int(index[0]) : int(index[-1]) + 1]
    return X.index_select(0, index)


def _again(X: Tensor, index: Tensor, rule: dict) -> ClassBasis:
    """Basis of the rows in float64, of X's dtype."""
    codes = torch.full((len(X),), -1, dtype=torch.int64, device=X.device)
    codes[index] = 0
    ((pending,),) = [_prepare(X, [codes], rule, True, 0)]
    basis = pending.finish(*eigenpairs(pending.matrix))
    return basis._replace(vectors=basis.vectors.to(X.dtype))


def _finish_moment(
    n: int,
    dtype: torch.dtype,
    rule: dict,
    again: Callable[[], ClassBasis],
    eigenvalues: Tensor,
    basis: Basis,
) -> ClassBasis:
    fitted = _of_moment(eigenvalues, basis, n, dtype, **rule)
    return again() if dtype == torch.float32 and _is_unsure(fitted, **rule) else fitted


def _finish_gram(
    X: Tensor,
    dtype: torch.dtype,
    rule: dict,
    again: Callable[[], ClassBasis],
    eigenvalues: Tensor,
    basis: Basis,
) -> ClassBasis:
    n, d = X.shape
    full = numerical_rank(eigenvalues, d, X.dtype)
    rank = choose_rank(eigenvalues, full=full, **rule)
    vectors = gram_basis(X, eigenvalues, basis)(rank).to(dtype)
    fitted = ClassBasis(eigenvalues, vectors, rank, full, n)
    return again() if X.dtype == torch.float32 and _is_unsure(fitted, **rule) else fitted


def _of_moment(
    eigenvalues: Tensor,
    basis: Basis,
    n_rows: int,
    dtype: torch.dtype,
    *,
    variance: float | None,
    components: int | None,
) -> ClassBasis:
    d = len(eigenvalues)
    full = numerical_rank(eigenvalues, max(n_rows, d), dtype)
    rank = choose_rank(eigenvalues, variance=variance, components=components, full=full)
    return ClassBasis(eigenvalues, basis(d if 2 * rank > d else rank).to(dtype), rank, full, n_rows)


def _is_unsure(basis: ClassBasis, variance: float | None, components: int | None) -> bool:
    """Whether float32 products may hide what was asked for: the weakest directions, or a close cut."""
    if variance is None or variance == 1.0:
        return basis.rank < (components or len(basis.eigenvalues))
    shares = basis.eigenvalues.cumsum(0) / basis.eigenvalues.sum()
    return bool(((shares - variance).abs() < UNSURE).any())
