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
from layerprobe.utils.threads import parallel

__all__ = ["ClassBasis", "basis_from_moment", "basis_from_rows", "fit_classes"]

# Cumulative shares of float32 products were off by 1e-8, and by 8e-8 at most, on 46 sets of rows of very
# different kinds; closer to the variance than this, the squares are summed again in float64.
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
    eigenvalues, basis = eigenpairs(moment)
    return _Cut.of_moment(eigenvalues, basis, n_rows, dtype).at(eigenvalues, variance, components)


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
        dtype = torch.float64 if exact else X.dtype
        if j in by_moment:
            matrix, single = moments[by_moment.index(j)], dtype == torch.float32
            cut = partial(_Cut.of_moment, n_rows=len(index), dtype=dtype)
        else:
            rows = _take(X, index).double()  # float32 Gram matrices leave errors of 6e-7 in the shares
            matrix, single = gram(rows), False
            cut = partial(_Cut.of_gram, rows=rows, dtype=dtype)
        pending.append(_Pending(matrix, partial(_finish, X, index, rule, cut, single)))
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


class _Cut(NamedTuple):
    """Eigenvectors of a class, as many of them as its rank will ask for."""

    vectors: Callable[[int], Tensor]  # r -> the first r, (d, r); all d of them where r > d / 2
    full: int
    n_rows: int

    @classmethod
    def of_moment(cls, eigenvalues: Tensor, basis: Basis, n_rows: int, dtype: torch.dtype) -> "_Cut":
        d = len(eigenvalues)
        full = numerical_rank(eigenvalues, max(n_rows, d), dtype)
        return cls(lambda r: basis(d if 2 * r > d else r).to(dtype), full, n_rows)

    @classmethod
    def of_gram(cls, eigenvalues: Tensor, basis: Basis, rows: Tensor, dtype: torch.dtype) -> "_Cut":
        n, d = rows.shape
        full = numerical_rank(eigenvalues, d, rows.dtype)
        return cls(lambda r: gram_basis(rows, eigenvalues, basis)(r).to(dtype), full, n)

    def at(self, eigenvalues: Tensor, variance: float | None, components: int | None) -> ClassBasis:
        rank = choose_rank(eigenvalues, variance=variance, components=components, full=self.full)
        return ClassBasis(eigenvalues, self.vectors(rank), rank, self.full, self.n_rows)


def _finish(
    X: Tensor,
    index: Tensor,
    rule: dict,
    cut: Callable[[Tensor, Basis], _Cut],
    single: bool,
    eigenvalues: Tensor,
    basis: Basis,
) -> ClassBasis:
    """Cut a class's eigenvectors at its rank; what float32 products cannot tell, float64 does."""
    found, variance = cut(eigenvalues, basis), rule["variance"]
    if single and variance in (None, 1.0):
        if found.full < (rule["components"] or len(eigenvalues)):  # the weakest directions may be hidden
            return _again(X, index, rule)
    elif single:
        shares = eigenvalues.cumsum(0) / eigenvalues.sum()
        if ((shares - variance).abs() < UNSURE).any():
            r = min(int((shares <= variance + UNSURE).sum()) + 1, found.full)
            eigenvalues = _summed_again(X, index, eigenvalues, found.vectors(r)[:, :r])
    return found.at(eigenvalues, **rule)


def _summed_again(X: Tensor, index: Tensor, eigenvalues: Tensor, U: Tensor) -> Tensor:
    """Give the spectrum with the squares along U, (d, r), and all squares, summed in float64.

    Eigenvectors of float32 products are off by little and the squares within their span by the square of
    that, so the shares up to r are those of float64 at a fraction of its cost.
    """
    r, U = U.shape[1], torch.linalg.qr(U.double()).Q  # orthonormal in float64, the first i in the same span
    leading, total = torch.zeros(r, dtype=torch.float64, device=U.device), 0.0
    for block in index.split(SecondMoment.BLOCK):
        rows = _take(X, block).double()
        leading += (rows @ U).square_().sum(0)
        total += float(rows.square_().sum())
    rest, left = eigenvalues[r:], max(total - float(leading.sum()), 0.0)
    return torch.cat([leading, rest * (left / float(rest.sum())) if rest.any() else rest])


def _again(X: Tensor, index: Tensor, rule: dict) -> ClassBasis:
    """Basis of the rows in float64, of X's dtype."""
    codes = torch.full((len(X),), -1, dtype=torch.int64, device=X.device)
    codes[index] = 0
    (pending,) = _prepare(X, [codes], rule, True, 0)
    basis = pending.finish(*eigenpairs(pending.matrix))
    return basis._replace(vectors=basis.vectors.to(X.dtype))
