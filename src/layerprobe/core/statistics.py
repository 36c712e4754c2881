"""Statistics of a layer that closed-form probes need: class means, subspaces and spectra.

They come from rows (`RowStatistics`) or from sums over batches (`LayerSums`).
"""

from collections.abc import Hashable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from layerprobe.core.checks import check_magnitude, check_rows
from layerprobe.core.linalg import BLOCK, SecondMoment, eigenpairs, gram_eigenpairs, rounding_error
from layerprobe.core.moments import ClassMoments, joint_subspaces
from layerprobe.core.subspaces import Subspaces, fit_subspaces
from layerprobe.errors import InputError
from layerprobe.utils.distributed import sum_over_processes
from layerprobe.utils.settings import one_thread


class Spectrum(NamedTuple):
    """Eigendecomposition of a second moment: the directions above the rounding error."""

    eigenvalues: Tensor  # (r,) float64, descending
    vectors: Tensor  # (d, r) float64, orthonormal columns
    trace: float  # of the whole moment


def class_means(X: Tensor, y: Tensor, num_classes: int, weights: Tensor | None = None) -> Tensor:
    """Return the mean of the rows of each class, summed in float64.

    Parameters
    ----------
    X : Tensor of shape (n, d)
    y : Tensor of shape (n,)
        Class of each row, 0..K-1. The mean of a class without rows is zero.
    num_classes : int
    weights : Tensor of shape (n,), float64, optional

    Returns
    -------
    Tensor of shape (K, d), float64
    """
    counts = y.bincount(minlength=num_classes)
    sums = X.new_zeros((num_classes, X.shape[1]), dtype=torch.float64)
    for k, index in enumerate(y.argsort(stable=True).split(counts.tolist())):
        for part in index.split(BLOCK):
            if weights is None:
                sums[k] += X[part].sum(0, dtype=torch.float64)
            else:
                sums[k] += weights[part] @ X[part].double()
    totals = counts.clamp(min=1) if weights is None else y.bincount(weights, num_classes)
    return sums / totals[:, None]


def centred_blocks(
    X: Tensor, centres: Tensor, y: Tensor | None = None, dtype: torch.dtype | None = None
) -> Iterator[Tensor]:
    """Yield blocks of the rows of X less their centres.

    Parameters
    ----------
    X : Tensor of shape (n, d)
    centres : Tensor of shape (d,) or (K, d)
        One centre of all rows, or one per class.
    y : Tensor of shape (n,), optional
        Class of each row, for centres of classes.
    dtype : torch.dtype, optional
        Default: that of X.
    """
    centres = centres.to(X.device, dtype or X.dtype)
    for start in range(0, len(X), BLOCK):
        of = centres if y is None else centres[y[start : start + BLOCK]]
        yield X[start : start + BLOCK].to(of.dtype) - of


def spectrum(
    X: Tensor,
    centres: Tensor,
    y: Tensor | None = None,
    weights: Tensor | None = None,
    units: Tensor | None = None,
) -> Spectrum:
    """Decompose the sum of w (x - c)(x - c)^T over all rows.

    Products and sums are float64, of the n x n Gram matrix for fewer rows than features, else of the d x d
    moment: small directions matter to whitening and to weak penalties.

    Parameters
    ----------
    X : Tensor of shape (n, d)
    centres : Tensor of shape (d,) or (K, d)
        c, one for all rows or one per class.
    y : Tensor of shape (n,), optional
        Class of each row, for centres of classes.
    weights : Tensor of shape (n,), float64, optional
        w, default 1.
    units : Tensor of shape (d,), float64, optional
        The features are divided by these.

    Raises
    ------
    InputError
        If float64 cannot hold the squares of X.
    """
    check_magnitude(X)
    n, d = X.shape
    factors = None if weights is None else weights.sqrt()[:, None]
    blocks = centred_blocks(X, centres, y, torch.float64)
    if factors is not None:
        blocks = (rows * factor for rows, factor in zip(blocks, factors.split(BLOCK), strict=True))
    if units is not None:
        blocks = (rows / units for rows in blocks)
    if n < d:
        rows = torch.cat([*blocks])
        with one_thread():
            eigenvalues, basis, rank = gram_eigenpairs(rows)
            return Spectrum(eigenvalues[:rank], basis(rank), float(eigenvalues.sum()))
    moment = SecondMoment(d, X.device)
    for rows in blocks:
        moment.add(rows)
    return _spectrum_of(moment.matrix(), moment.diagonal(), n)


def _spectrum_of(matrix: Tensor, diagonal: Tensor, n_rows: int) -> Spectrum:
    """Decompose a second moment that has the rounding errors of sums of this diagonal."""
    with one_thread():
        eigenvalues, basis = eigenpairs(matrix)
        rank = int((eigenvalues > rounding_error(diagonal, n_rows)).sum())
        return Spectrum(eigenvalues[:rank], basis(rank), float(eigenvalues.sum()))


class Statistics:
    """Statistics of one layer and one set of labels.

    Attributes
    ----------
    counts : Tensor of shape (K,)
        Rows of each class, at least one, or the sums of their weights.
    means : Tensor of shape (K, d), float64
        Class means.
    n_rows : int
        Number of rows; weights do not count.
    dim : int
        Number of features d.
    dtype : torch.dtype
        Dtype of the rows and of the fitted probes.
    """

    counts: Tensor
    means: Tensor
    n_rows: int
    dim: int
    dtype: torch.dtype
    _fitted: Subspaces | None = None

    @property
    def n(self) -> float:
        """Number of rows, or the sum of their weights."""
        return float(self.counts.sum())

    @property
    def shares(self) -> Tensor:
        """Share of each class in the rows, (K,) float64."""
        return (self.counts.double() / self.n).to(self.means.device)

    @property
    def mean(self) -> Tensor:
        """Mean of all rows, (d,) float64."""
        return self.shares @ self.means

    def subspaces(
        self,
        *,
        variance: float | None = None,
        components: int | None = None,
        classes: Sequence[Hashable] | None = None,
    ) -> Subspaces:
        """Fit one subspace per class, or reduce those of an earlier call: request the largest first.

        Parameters
        ----------
        variance, components, classes
            As for :func:`layerprobe.core.subspaces.fit_subspaces`.
        """
        names = tuple(range(len(self.counts)) if classes is None else classes)
        if self._fitted is not None:
            with suppress(InputError):  # more than was kept
                ranks = self._fitted.ranks_at(variance=variance, components=components)
                return replace(self._fitted, ranks=ranks, classes=names)
        self._fitted = self._fit_subspaces(variance=variance, components=components, classes=names)
        return self._fitted

    @property
    def deviations(self) -> Tensor:
        """Standard deviation of each feature over all rows, (d,) float64; inf for a constant feature."""
        raise NotImplementedError

    def spectrum(self, *, within: bool, units: Tensor | None = None) -> Spectrum:
        """Return the spectrum of all rows less their class means (`within`), or less the mean of all.

        Parameters
        ----------
        within : bool
        units : Tensor of shape (d,), float64, optional
            The features are divided by these.
        """
        raise NotImplementedError

    def _fit_subspaces(self, **options: Any) -> Subspaces:
        raise NotImplementedError


class RowStatistics(Statistics):
    """Statistics of rows X (n, d) and class indices y (n,), 0..K-1; every class has a row.

    With weights (n,), float64, all sums are weighted: a row of weight 2 counts as two equal rows.
    """

    def __init__(self, X: Tensor, y: Tensor, num_classes: int, weights: Tensor | None = None) -> None:
        self.X, self.y, self.weights, self.dtype = X, y, weights, X.dtype
        self.n_rows, self.dim = X.shape
        self.counts = y.bincount(weights, num_classes)

    @cached_property
    def means(self) -> Tensor:  # type: ignore[override]
        """Class means, (K, d)."""
        return class_means(self.X, self.y, len(self.counts), self.weights)

    @property
    def deviations(self) -> Tensor:
        """Standard deviation of each feature over all rows, (d,) float64; inf for a constant feature."""
        total = torch.zeros_like(self.mean)
        weights = None if self.weights is None else iter(self.weights.split(BLOCK))
        for rows in centred_blocks(self.X, self.mean, None, torch.float64):
            squares = rows.square()
            total += squares.sum(0) if weights is None else next(weights) @ squares
        deviations = (total / self.n).sqrt()
        # The mean of a constant feature is rounded, so that its rows may differ from it.
        deviations[(deviations == 0) | (self.X.amin(0) == self.X.amax(0))] = torch.inf
        return deviations

    def spectrum(self, *, within: bool, units: Tensor | None = None) -> Spectrum:
        """Return the spectrum of all rows less their class means (`within`), or less the mean of all."""
        centres, y = (self.means, self.y) if within else (self.mean, None)
        return spectrum(self.X, centres, y, self.weights, units)

    def _fit_subspaces(self, **options: Any) -> Subspaces:
        if self.weights is None:
            return fit_subspaces(self.X, self.y, len(self.counts), **options)
        # A second moment of weighted rows is that of rows times sqrt(w); in float64, shares that equal the
        # variance stay equal to it.
        fitted = fit_subspaces(self.X * self.weights.sqrt()[:, None], self.y, len(self.counts), **options)
        return replace(fitted, columns=fitted.columns.to(self.X))


class LayerSums:
    """Sums over batches, from which the `Statistics` of one layer follow for several sets of labels.

    Rows with the same label in all sets are summed in one `ClassMoments` that the sets share, the others in
    one per set: where two sets differ in 40 % of the rows, the second costs 40 % of the first. The scatter of
    all rows does not depend on labels. It is float64, since class means are subtracted from it later.

    Parameters
    ----------
    num_classes, dim, num_sets : int
        K, over all sets; number of features d; sets of labels S.
    reads : set of str
        Sums to keep: "moments" of the classes, their "means", the "scatter" of all rows, which needs means.
    dtype, device, expected
        As for :class:`ClassMoments`.
    """

    BLOCK = 512  # rows at a time in float64, where they take twice the memory

    def __init__(
        self,
        num_classes: int,
        dim: int,
        num_sets: int,
        reads: Set[str],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        expected: int | None = None,
    ) -> None:
        K, S = num_classes, num_sets
        self.dim, self.dtype, self.device = dim, dtype, torch.device(device)
        self.counts = torch.zeros(S, K, dtype=torch.int64, device=device)
        kept = S if reads & {"means", "scatter"} else 0
        self.sums = torch.zeros(kept, K, dim, dtype=torch.float64, device=device)
        kinds = 1 if S == 1 else S + 1  # the last one is shared
        self.moments = [
            ClassMoments(K, dim, dtype=dtype, device=device, expected=expected)
            for _ in range(kinds if "moments" in reads else 0)
        ]
        self.scatter = SecondMoment(dim, device) if "scatter" in reads else None
        self.centred: Tensor | None = None  # (d, d), the scatter about the mean of all rows, when finished
        self.shift: Tensor | None = None  # mean of the first batch: squares of rows far from 0 lose digits

    def update(self, X: Tensor, y: Tensor) -> None:
        """Add a batch.

        Parameters
        ----------
        X : Tensor of shape (n, d)
        y : Tensor of shape (S, n), int64
            Class of each row in each set, 0..K-1.

        Raises
        ------
        InputError
            For NaN or infinity; nothing of the batch is then added.
        """
        X, y = check_rows(X, self.dim).to(self.device, self.dtype), y.to(self.device)
        check_magnitude(X)
        self.counts += torch.stack([row.bincount(minlength=self.counts.shape[1]) for row in y])
        for rows, part in zip(X.split(self.BLOCK), y.split(self.BLOCK, 1), strict=True):
            self._add_in_float64(rows, part)
        if len(self.moments) == 1:
            self.moments[0].update(X, y[0])
        elif self.moments:
            same = (y == y[0]).all(0)
            *own, shared = self.moments
            shared.update(X[same], y[0, same])
            for part, of_set in zip(own, y, strict=True):
                part.update(X[~same], of_set[~same])

    def _add_in_float64(self, X: Tensor, y: Tensor) -> None:
        """Add a block of rows to the sums and the scatter."""
        if not len(self.sums):
            return
        wide = X.double()
        for sums, of_set in zip(self.sums, y, strict=True):
            sums.index_add_(0, of_set, wide)
        if self.scatter is not None and len(wide):
            self.shift = wide.mean(0) if self.shift is None else self.shift
            self.scatter.add(wide - self.shift)

    def finish(self) -> "LayerSums":
        """Add the sums of the other processes of the job; all of them must call it, once."""
        n, total = int(self.counts[0].sum()), self.sums[:1].sum((0, 1))  # this process's own
        self.counts = sum_over_processes(self.counts)
        self.sums = sum_over_processes(self.sums)
        if self.scatter is not None:
            centred = self.scatter.matrix()
            if self.shift is not None:
                offset = self.shift - self.sums[0].sum(0) / self.counts[0].sum()
                rest = torch.outer(total - n * self.shift, offset)
                centred += rest + rest.T + n * torch.outer(offset, offset)
            self.centred, self.scatter = sum_over_processes(centred), None
        for part in self.moments:
            part.all_reduce()
        return self

    def of(self, s: int) -> "Statistics":
        """Return the statistics of label set number s; its classes are those with rows in it."""
        return _SumStatistics(self, s)


class _SumStatistics(Statistics):
    def __init__(self, of: LayerSums, s: int) -> None:
        self.of, self.dim, self.dtype = of, of.dim, of.dtype
        self.present = of.counts[s].nonzero().squeeze(1)
        self.counts = of.counts[s, self.present].cpu()
        self.n_rows = int(self.counts.sum())
        if len(of.sums):
            self.means = of.sums[s, self.present] / of.counts[s, self.present, None]
        several = len(of.moments) > 1
        self.parts = [of.moments[s], of.moments[-1]] if several else of.moments

    @property
    def scatter(self) -> Tensor:
        """Sum of (x - c)(x - c)^T over all rows, c their mean, (d, d)."""
        if self.of.centred is None:
            raise InputError("These sums have no scatter, or finish() was not called: read the scatter.")
        return self.of.centred

    @property
    def deviations(self) -> Tensor:
        deviations = (self.scatter.diagonal().clamp(min=0) / self.n).sqrt()
        # Sums of a constant feature leave rounding errors.
        rounding = self.n * torch.finfo(torch.float64).eps * self.mean.abs()
        return torch.where(deviations <= rounding, torch.inf, deviations)

    def spectrum(self, *, within: bool, units: Tensor | None = None) -> Spectrum:
        matrix = self.scatter
        diagonal = matrix.diagonal()
        if within:  # the scatter of the class means is that of all rows less that within the classes
            between = (self.means - self.mean) * self.counts.to(self.means)[:, None].sqrt()
            matrix = matrix - between.T @ between
        if units is not None:
            matrix, diagonal = matrix / units.outer(units), diagonal / units.square()
        return _spectrum_of(matrix, diagonal, self.n_rows)

    def _fit_subspaces(self, **options: Any) -> Subspaces:
        return joint_subspaces(self.parts, y=self.present.tolist(), **options)
