"""The Minimum Angle Subspace Classifier, Algorithms 1-3 of arXiv 2501.14687: START HERE.

X_k holds the rows of class k, outputs of one layer. `fit_subspaces` computes per class, in `basis_from_rows`,

    M = X_k^T X_k, the second moment (d, d),
    e_1 >= e_2 >= ... >= 0 and u_1, u_2, ..., its eigenvalues and eigenvectors, by way of the Gram matrix
        X_k X_k^T if the class has fewer rows than features,
    r_k, the smallest r with (e_1 + ... + e_r) / trace M > 0.99, in `choose_rank`,
    U_k = [u_1 ... u_r], (d, r_k), the orthonormal basis of the subspace.

(The paper doubles the data with their negatives, so that the mean is zero. M is the same up to a factor.) For
a point x, `Subspaces` returns

    `squared_cosines`: |U_k^T x|^2 / |x|^2, for all classes by one product with the bases side by side,
    `angles`: the angle between x and each subspace,
    `predict`: the class of the smallest angle, which has the largest squared cosine.

Precision: products of float32 rows are float32 over blocks of rows; sums over blocks, Gram matrices and
eigendecompositions are float64. Where float32 products cannot decide a rank or a label, float64 does.
"""

import math
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple, overload

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerprobe.core.checks import (
    angle_error,
    check_classes,
    check_finite,
    check_rows,
    check_strength,
    check_y,
    widen,
)
from layerprobe.core.linalg import SecondMoment, eigenpairs, gram_eigenpairs, rounding_error
from layerprobe.errors import DataError, DegenerateWarning, InputError, warn
from layerprobe.utils.files import read_tensors, write_tensors
from layerprobe.utils.settings import default_settings, full_precision, parallel

FORMAT = "layerprobe.subspaces.1"
TIE = 1e-12  # shares this close to the variance are equal to it; sums of float64 eigenvalues are closer
CHUNK = 1024  # query rows of one product: their projections stay in cache
FEWEST = 128  # query rows of one product at least
PROJECTIONS, GPU_PROJECTIONS = 2**25, 2**27  # held at a time per thread


# Algorithm 2: one subspace per class.


@default_settings()
def fit_subspaces(
    X: Tensor,
    y: Tensor,
    num_classes: int,
    *,
    variance: float | None = None,
    components: int | None = None,
    classes: Sequence[Hashable] | None = None,
    exact: bool = False,
) -> "Subspaces":
    """Fit one subspace per class (Algorithm 2).

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Outputs of one layer, float32 or float64; the bases get the same dtype, or float64 where float32 does
        not resolve the angles (:func:`layerprobe.core.checks.widen`).
    y : Tensor of shape (n,)
        Class of each row, 0..K-1.
    num_classes : int
        K. A class without rows has no subspace; a warning names it.
    variance : float in (0, 1], optional
        Share of the variance to keep, 0.99 in the paper.
    components : int, optional
        Number of components to keep. Exactly one of `variance` and `components` is required.
    classes : sequence of K hashables, optional
        Names of the classes, default 0..K-1.
    exact : bool
        Multiply, decompose and later score in float64; the bases are float64.

    Returns
    -------
    Subspaces

    Raises
    ------
    InputError
        For NaN or infinity, no rows, wrong shapes, classes outside 0..K-1, more components than features.

    Examples
    --------
    >>> import torch
    >>> from layerprobe.core import fit_subspaces
    >>> X = torch.tensor([[2.0, 0.0, 0.1], [1.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 1.0, 0.1]])
    >>> subspaces = fit_subspaces(X, torch.tensor([0, 0, 1, 1]), 2, variance=0.9)
    >>> subspaces.ranks
    (1, 1)
    >>> subspaces.predict(torch.tensor([[5.0, 1.0, 0.0], [1.0, 5.0, 0.0]]))
    tensor([0, 1])
    """
    check_strength(variance, components)
    X = widen(check_rows(X))
    y = check_y(y, len(X), num_classes).to(X.device)
    if exact:
        X = X.double()

    members = y.argsort(stable=True).split(y.bincount(minlength=num_classes).tolist())

    n, d = X.shape
    m = min(max(n // num_classes, 1), d)  # side of a matrix that is decomposed
    bases = parallel(
        lambda index: basis_from_rows(X.index_select(0, index), variance=variance, components=components),
        members,
        X.device,
        operations=n * d * m + 10 * num_classes * m**3,
    )
    return Subspaces.build(bases, classes, components)


class ClassBasis(NamedTuple):
    """Subspace of one class: its spectrum and eigenvectors, all d of them where rank > d / 2."""

    eigenvalues: Tensor  # (min(n_k, d),) float64, descending
    vectors: Tensor  # (d, rank) or (d, d)
    rank: int
    full: int  # number of eigenvalues above the rounding error
    n_rows: int


def basis_from_rows(X: Tensor, *, variance: float | None = None, components: int | None = None) -> ClassBasis:
    """Return the subspace of one class from its rows X_k.

    Parameters
    ----------
    X : Tensor of shape (n_k, d)
        Checked rows. For n_k < d the smaller Gram matrix is decomposed.
    variance, components
        As for :func:`fit_subspaces`.
    """
    n, d = X.shape
    if n < d:
        eigenvalues, basis = gram_eigenpairs(X)
        full = int((eigenvalues > rounding_error(eigenvalues, d, torch.float64)).sum())
        rank = _rank(eigenvalues, variance, components, full)
        return ClassBasis(eigenvalues, basis(rank), rank, full, n)
    moment = SecondMoment(d, X.device).add(X).matrix()
    found = basis_from_moment(moment, n, variance=variance, components=components, dtype=X.dtype)
    if X.dtype == torch.float64:
        return found
    if variance is None or variance == 1:  # directions below the rounding error may be missing
        unsure = found.full < (components or d)
    else:
        error = rounding_error(moment.diagonal(), n, X.dtype)
        unsure = bool(((found.eigenvalues.cumsum(0) - variance * moment.trace()).abs() < error).any())
    if unsure:
        found = basis_from_rows(X.double(), variance=variance, components=components)
    return found._replace(vectors=found.vectors.to(X.dtype))


def basis_from_moment(
    moment: Tensor,
    n_rows: int,
    *,
    variance: float | None = None,
    components: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> ClassBasis:
    """Return the subspace of one class from its second moment.

    Parameters
    ----------
    moment : Tensor of shape (d, d)
        X_k^T X_k.
    n_rows : int
        Number of rows n_k.
    variance, components
        As for :func:`fit_subspaces`.
    dtype : torch.dtype
        Precision of the products, and of the basis.
    """
    eigenvalues, basis = eigenpairs(moment)
    full = int((eigenvalues > rounding_error(moment.diagonal(), n_rows, dtype)).sum())
    rank = _rank(eigenvalues, variance, components, full)
    kept = len(moment) if 2 * rank > len(moment) else rank
    return ClassBasis(eigenvalues, basis(kept).to(dtype), rank, full, n_rows)


def _rank(eigenvalues: Tensor, variance: float | None, components: int | None, full: int) -> int:
    if variance is None:
        return min(int(components or 0), full)
    if variance == 1.0 or full == 0:
        return full
    cumulative = eigenvalues.double().cumsum(0)
    return min(int((cumulative / cumulative[-1] <= variance + TIE).sum()) + 1, full)


@overload
def choose_rank(eigenvalues: Tensor, *, variance: Sequence[float], full: int | None = None) -> list[int]: ...
@overload
def choose_rank(
    eigenvalues: Tensor,
    *,
    variance: float | None = None,
    components: int | None = None,
    full: int | None = None,
) -> int: ...
def choose_rank(eigenvalues, *, variance=None, components=None, full=None):  # type: ignore[no-untyped-def]
    """Return the number of components that a class keeps: the rank rule of Algorithm 2.

    Parameters
    ----------
    eigenvalues : Tensor of shape (m,)
        Eigenvalues of a second moment, descending and non-negative.
    variance : float in (0, 1], or a sequence of them
        Keep the smallest number of components whose cumulative share is strictly above this. 1.0 keeps every
        direction above the rounding error.
    components : int
        Keep exactly this many, fewer only where the class has fewer dimensions.
    full : int, optional
        Number of eigenvalues above the rounding error. Default: that of an m x m matrix in float64.

    Returns
    -------
    int, or a list of int for a sequence of variances

    Raises
    ------
    InputError
        Unless exactly one of `variance` and `components` is given and valid.
    """
    if isinstance(variance, Sequence | np.ndarray | Tensor) and not isinstance(variance, str):
        if components is not None:
            raise InputError("Expected exactly one of variance= and components=, got both.")
        shares = variance if isinstance(variance, Sequence) else variance.tolist()
        return [choose_rank(eigenvalues, variance=share, full=full) for share in shares]
    check_strength(variance, components)
    if full is None:
        full = int((eigenvalues > rounding_error(eigenvalues, len(eigenvalues), torch.float64)).sum())
    return _rank(eigenvalues, variance, components, full)


# Algorithms 1 and 3: angles and predictions.


@dataclass(frozen=True, eq=False)
class Subspaces:
    """One subspace per class, as `fit_subspaces` and ``ClassMoments.subspaces`` return them; frozen.

    Attributes
    ----------
    classes : tuple of K hashables
    ranks : tuple of K int
        Components r_k of each class.
    counts : tuple of K int
        Training rows n_k of each class.
    eigenvalues : tuple of K Tensors of shape (min(n_k, d),)
        Spectrum of each X_k^T X_k, descending, float64.
    columns : Tensor of shape (d, sum of widths)
        Eigenvectors of all classes side by side: r_k per class, or all d where r_k > d / 2, since the other
        d - r_k give the same angle for less work.
    widths : tuple of K int
    full_ranks : tuple of K int
        Directions of each class above the rounding error, which ``variance=1.0`` keeps.
    """

    classes: tuple[Hashable, ...]
    ranks: tuple[int, ...]
    counts: tuple[int, ...]
    eigenvalues: tuple[Tensor, ...]
    columns: Tensor
    widths: tuple[int, ...]
    full_ranks: tuple[int, ...]

    @property
    def dim(self) -> int:
        """Number of features d."""
        return len(self.columns)

    @property
    def bases(self) -> tuple[Tensor, ...]:
        """Orthonormal basis U_k of each class, (d, r_k): views, not copies."""
        parts = self.columns.split(self.widths, dim=1)
        return tuple(part[:, :r] for part, r in zip(parts, self.ranks, strict=True))

    def squared_cosines(self, X: Tensor) -> Tensor:
        """Return the squared cosine of the angle to the subspace of each class, ``|U_k^T x|^2 / |x|^2``.

        Parameters
        ----------
        X : Tensor of shape (n, d)

        Returns
        -------
        Tensor of shape (n, K)
            In [0, 1]; 0 for an all-zero row, -inf for a class without rows.
        """
        return self.staged_squared_cosines(X, [self.ranks])[0]

    def predict(self, X: Tensor) -> Tensor:
        """Return the class index of the smallest angle, (n,) int64; the first of equal ones.

        Parameters
        ----------
        X : Tensor of shape (n, d)

        Notes
        -----
        Where the two best squared cosines of a float32 row differ by less than 8 sqrt(d) 2^-24, four standard
        deviations of their rounding error, float64 decides.
        """
        return self.staged_predict(X, [self.ranks])[0]

    @full_precision()
    @default_settings()
    def angles(self, X: Tensor) -> Tensor:
        """Return the angles to the subspace of each class in radians (Algorithm 3).

        Computed as atan2(residual, projection), since acos loses small angles in float32.

        Parameters
        ----------
        X : Tensor of shape (n, d)

        Returns
        -------
        Tensor of shape (n, K)
            In [0, pi/2]; pi/2 for an all-zero row, inf for a class without rows.
        """
        X = check_rows(X, self.dim).to(self.columns)
        out = X.new_full((len(X), len(self.classes)), torch.inf)
        for start in range(0, len(X), CHUNK):
            x, squared_norms = rescale(X[start : start + CHUNK])
            for k, U in enumerate(self.bases):
                if not self.counts[k]:
                    continue
                p = x @ U  # (c, r_k)
                full = U.shape[0] == U.shape[1]
                residual = torch.zeros_like(squared_norms) if full else (x - p @ U.T).norm(dim=1)
                angle = torch.atan2(residual, p.norm(dim=1))
                out[start : start + CHUNK, k] = torch.where(squared_norms > 0, angle, torch.pi / 2)
        return out

    @default_settings()
    def staged_squared_cosines(self, X: Tensor, stages: Sequence[Sequence[int]]) -> Tensor:
        """Return the squared cosines at several choices of ranks from one projection.

        Parameters
        ----------
        X : Tensor of shape (n, d)
        stages : sequence of S sequences of K int
            Ranks of each class, as :meth:`ranks_at` returns them.

        Returns
        -------
        Tensor of shape (S, n, K)
        """
        X = check_rows(X, self.dim).to(self.columns)
        projection = self._projection(stages)
        scores = X.new_empty(len(stages), len(X), len(self.classes))

        def score(rows: slice) -> None:
            scores[:, rows] = projection.squared_cosines(X[rows]).transpose(1, 2)

        _over_chunks(score, X, projection)
        return scores

    @default_settings()
    def staged_predict(self, X: Tensor, stages: Sequence[Sequence[int]]) -> Tensor:
        """Return class indices as :meth:`predict` does, at several choices of ranks from one projection.

        Parameters
        ----------
        X : Tensor of shape (n, d)
        stages : sequence of S sequences of K int
            Ranks of each class, as :meth:`ranks_at` returns them.

        Returns
        -------
        Tensor of shape (S, n), int64
        """
        X = check_rows(X, self.dim).to(self.columns)
        projection = self._projection(stages)
        y = torch.empty(len(stages), len(X), dtype=torch.int64, device=X.device)
        close = torch.zeros_like(y, dtype=torch.bool)
        error = angle_error(self.dim, torch.float32)

        def score(rows: slice) -> None:
            scores = projection.squared_cosines(X[rows])  # (S, K, c)
            best, y[:, rows] = scores.max(1)
            if X.dtype == torch.float32:
                close[:, rows] = (scores > best[:, None] - error).sum(1) > 1

        _over_chunks(score, X, projection)
        index = close.any(0).nonzero().squeeze(1)
        if len(index):
            exact = replace(self, columns=self.columns.double()).staged_predict(X[index].double(), stages)
            y[:, index] = torch.where(close[:, index], exact, y[:, index])
        return y

    def _projection(self, stages: Sequence[Sequence[int]]) -> "Projection":
        return self._own_projection if list(stages) == [self.ranks] else Projection.of(self, stages)

    @cached_property
    def _own_projection(self) -> "Projection":
        return Projection.of(self, [self.ranks])

    def ranks_at(self, *, variance: float | None = None, components: int | None = None) -> tuple[int, ...]:
        """Return the components of each class at a smaller share or count than the fitted one.

        Parameters
        ----------
        variance, components
            As for :func:`fit_subspaces`.

        Raises
        ------
        InputError
            If a class would need more components than were kept: fit with the largest share.
        """
        if components is not None and components > self.dim:
            raise InputError(
                f"components must be at most the number of features, {self.dim}, got {components}."
            )
        ranks = tuple(
            choose_rank(values, variance=variance, components=components, full=full)
            for values, full in zip(self.eigenvalues, self.full_ranks, strict=True)
        )
        if any(r > kept for r, kept in zip(ranks, self.widths, strict=True)):
            given = f"components={components}" if variance is None else f"variance={variance}"
            raise InputError(f"{given} needs more components than were fitted: fit with the largest one.")
        return ranks

    def __repr__(self) -> str:
        kept = f"{min(self.ranks)} to {max(self.ranks)} components"
        return f"Subspaces of {len(self.classes)} classes in {self.dim} dimensions, {kept} per class"

    def _repr_html_(self) -> str:
        table = self.to_frame().to_html(index=False, float_format="{:.4f}".format)
        return f"<p>{escape(repr(self))}</p>\n{table}"

    def to_frame(self) -> pd.DataFrame:
        """Return one row per class: class, rows (n_k), components (r_k), and the share of its variance.

        The share is NaN for a class without rows or of zeros only.
        """
        spectra = zip(self.eigenvalues, self.ranks, strict=True)
        shares = [float(values[:r].sum() / values.sum()) if r else math.nan for values, r in spectra]
        columns = {"class": self.classes, "rows": self.counts, "components": self.ranks, "share": shares}
        return pd.DataFrame(columns)

    @property
    def saturated(self) -> bool:
        """Whether every class fills the whole space, so that angles carry no information."""
        return all(r == self.dim for r, n in zip(self.ranks, self.counts, strict=True) if n)

    @classmethod
    def build(
        cls,
        bases: Sequence[ClassBasis],
        classes: Sequence[Hashable] | None = None,
        components: int | None = None,
    ) -> "Subspaces":
        """Put the bases of the classes side by side; warn where they carry no information.

        Parameters
        ----------
        bases : sequence of K ClassBasis
        classes : sequence of K hashables, optional
            Names of the classes, default 0..K-1.
        components : int, optional
            Requested number of components, which must be at most d.

        Raises
        ------
        InputError
            For no rows at all, or more components than features.
        """
        d = len(bases[0].vectors) if bases else 0
        if not any(basis.n_rows for basis in bases):
            raise InputError("Expected at least one row to fit subspaces on, found 0 sample(s).")
        if components is not None and components > d:
            raise InputError(f"components must be at most the number of features, {d}, got {components}.")
        fitted = cls(
            classes=check_classes(classes, len(bases)),
            ranks=tuple(basis.rank for basis in bases),
            counts=tuple(basis.n_rows for basis in bases),
            eigenvalues=tuple(basis.eigenvalues for basis in bases),
            columns=_side_by_side([basis.vectors for basis in bases]),
            widths=tuple(basis.vectors.shape[1] for basis in bases),
            full_ranks=tuple(basis.full for basis in bases),
        )
        missing = [repr(name) for name, n in zip(fitted.classes, fitted.counts, strict=True) if n == 0]
        if missing:
            warn(f"No rows of class {', '.join(missing)}: no subspace, never predicted.", DegenerateWarning)
        if fitted.saturated:
            warn(
                f"Saturated: every class fills all {d} dimensions, so every angle is zero and the "
                "first class always wins. Use a smaller variance=, or components=.",
                DegenerateWarning,
            )
        return fitted

    def to(self, device: torch.device | str) -> "Subspaces":
        """Return the same subspaces on another device."""
        return replace(
            self,
            eigenvalues=tuple(values.to(device) for values in self.eigenvalues),
            columns=self.columns.to(device),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file whose header holds the rest as JSON.

        Raises
        ------
        InputError
            If a class name is not a string, number, boolean or None.
        """
        names = [name.item() if isinstance(name, np.generic) else name for name in self.classes]
        if not all(name is None or isinstance(name, str | int | float) for name in names):
            raise InputError(f"Only classes named by strings and numbers can be saved, got {self.classes!r}.")
        tensors = {f"eigenvalues.{k}": values for k, values in enumerate(self.eigenvalues)}
        tensors |= {f"vectors.{k}": v for k, v in enumerate(self.columns.split(self.widths, dim=1))}
        header = {"classes": names, "ranks": self.ranks, "counts": self.counts, "full_ranks": self.full_ranks}
        write_tensors(path, tensors, FORMAT, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> "Subspaces":
        """Read a file that :meth:`save` wrote.

        Parameters
        ----------
        path : path
        device : torch.device or str
            Device of the tensors.

        Raises
        ------
        DataError
            If the file is missing, incomplete or of another kind.
        """
        tensors, header = read_tensors(path, FORMAT, device)
        try:
            K = len(header["classes"])
            vectors = [tensors[f"vectors.{k}"] for k in range(K)]
            loaded = cls(
                classes=tuple(header["classes"]),
                ranks=tuple(header["ranks"]),
                counts=tuple(header["counts"]),
                eigenvalues=tuple(tensors[f"eigenvalues.{k}"] for k in range(K)),
                columns=_side_by_side(vectors),
                widths=tuple(v.shape[1] for v in vectors),
                full_ranks=tuple(header["full_ranks"]),
            )
        except KeyError as error:
            raise DataError(f"{path}: incomplete, {error} is missing; save it again.") from error
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"{path}: no subspaces of ours ({error}); save them again.") from error
        if (reason := loaded._fault()) is not None:
            raise DataError(f"{path}: {reason}; save the subspaces again.")
        return loaded

    def _fault(self) -> str | None:
        """Return what is wrong with the sizes or numbers of a file, or None."""
        K, d = len(self.classes), self.dim
        lists: dict[str, Sequence[Any]] = {
            "ranks": self.ranks,
            "counts": self.counts,
            "full_ranks": self.full_ranks,
        }
        for name, values in lists.items():
            whole = [isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 2**53 for v in values]
            if len(values) != K or not all(whole):
                return f"expected {name} as {K} whole numbers, got {list(values)!r:.80}"
        if not all(name is None or isinstance(name, str | int | float) for name in self.classes):
            return f"expected texts or numbers as classes, got {list(self.classes)!r:.80}"
        if K == 0 or len(set(self.classes)) < K or d == 0:
            return f"expected distinct classes and at least one feature, got {list(self.classes)!r:.80}"
        if self.columns.dtype not in (torch.float32, torch.float64) or not self.columns.isfinite().all():
            return f"expected finite real vectors, got {self.columns.dtype}"
        lengths = self.columns.double().norm(dim=0)
        if len(lengths) and float((lengths - 1).abs().max()) > 1e-3:
            return "expected vectors of unit length"
        for rank, width, spectrum in zip(self.ranks, self.widths, self.eigenvalues, strict=True):
            if not spectrum.is_floating_point() or spectrum.ndim != 1 or not spectrum.isfinite().all():
                return f"expected finite eigenvalues, got {spectrum.dtype} of shape {tuple(spectrum.shape)}"
            if not rank <= width <= d or len(spectrum) < rank:
                return f"expected {rank} components, got {width} vectors and {len(spectrum)} eigenvalues"
        return None


# Products of rows with the bases of all classes.


class Chain(NamedTuple):
    """Running sums of squares of one class, each of which is its score at one or more stages."""

    k: int  # the class
    complement: bool  # whether the score is |x|^2 less the sum
    steps: list[tuple[int, int, list[int]]]  # rows [start, stop) of the product, stages


class Projection(NamedTuple):
    """Eigenvectors of all classes in one matrix, and the sums of squared products that give the scores.

    A class scores by its first r eigenvectors U or, for r > d / 2, by its last d - r ones V:
    |U^T x|^2 = |x|^2 - |V^T x|^2. That is less work, and exact for r = d.
    """

    matrix: Tensor  # (W, d), one eigenvector per row
    chains: list[Chain]
    shape: tuple[int, int]  # (S, K)

    @classmethod
    def of(cls, subspaces: Subspaces, stages: Sequence[Sequence[int]]) -> "Projection":
        """Choose the eigenvectors that several choices of ranks need.

        Parameters
        ----------
        subspaces : Subspaces
        stages : sequence of S sequences of K int
        """
        d, parts, chains, width = subspaces.dim, [], [], 0
        for k, vectors in enumerate(subspaces.columns.T.split(subspaces.widths)):  # (r_k or d, d)
            if not subspaces.counts[k]:
                continue
            ranks = sorted({stage[k] for stage in stages})
            having = {r: [s for s, stage in enumerate(stages) if stage[k] == r] for r in ranks}
            direct = [r for r in ranks if len(vectors) < d or 2 * r <= d]
            others = ranks[: len(direct) - 1 : -1] if direct else ranks[::-1]  # descending
            low = max(direct, default=0)
            high = min(others, default=len(vectors))
            parts += [vectors[:low], vectors[high:] if others else vectors[:0]]
            steps = [(width + a, width + b, having[b]) for a, b in pairwise([0, *direct])]
            chains.append(Chain(k, False, steps))
            shift = width + low - high
            steps = [(shift + a, shift + b, having[a]) for b, a in pairwise([d, *others])]
            chains.append(Chain(k, True, steps))
            width += sum(map(len, parts[-2:]))
        return cls(_rows(parts), chains, (len(stages), len(subspaces.widths)))

    def squared_cosines(self, x: Tensor) -> Tensor:
        """Score a chunk of rows, (c, d), at each stage for each class, (S, K, c)."""
        x, squared_norms = rescale(x)
        squares = (self.matrix @ x.T).square_()  # (W, c)
        scores = x.new_full((*self.shape, len(x)), -torch.inf)
        for k, complement, steps in self.chains:
            total: Tensor | float = 0.0
            for start, stop, stages in steps:
                total = squares[start:stop].sum(0) + total
                for s in stages:
                    scores[s, k] = (squared_norms - total).clamp_(min=0) if complement else total
        scores /= torch.where(squared_norms > 0, squared_norms, 1)  # 0 / 1: an all-zero row has no angle
        return scores.clamp_(max=1)


def _rows(parts: Sequence[Tensor]) -> Tensor:
    """Return blocks (w, d) below each other; a view where they are neighbours in memory."""
    parts = [part for part in parts if len(part)] or list(parts[:1])
    first, stop = parts[0], parts[0].storage_offset()
    for part in parts:
        if part.storage_offset() != stop:
            return torch.cat(list(parts))
        stop += part.numel()
    return first.as_strided((sum(map(len, parts)), first.shape[1]), first.stride())


def _over_chunks(score: Callable[[slice], None], X: Tensor, projection: Projection) -> None:
    """Score the rows of X, (n, d), in chunks; on the CPU in parallel."""
    width, cpu = max(len(projection.matrix), 1), X.device.type == "cpu"
    share = -(-len(X) // torch.get_num_threads()) if cpu else len(X)
    most = min(CHUNK, PROJECTIONS // width) if cpu else max(CHUNK, GPU_PROJECTIONS // width)
    chunk = max(min(most, share), FEWEST)
    parallel(score, [slice(a, a + chunk) for a in range(0, len(X), chunk)], X.device)


def rescale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows, (c, d), and their squared norms, (c,), scaled where squares would leave the range.

    Angles do not change: the factors are powers of two.
    """
    squared_norms = x.square().sum(1)
    numbers = torch.finfo(x.dtype)
    # Squares below tiny / eps lose digits; sums of up to 1 / eps squares stay below max.
    unsafe = ~((squared_norms > numbers.tiny / numbers.eps) & (squared_norms < numbers.max * numbers.eps))
    if unsafe.any() and x.shape[1]:
        check_finite(x)
        largest = int(math.log2(numbers.max)) - 1  # powers of two that are normal numbers
        exponent = torch.frexp(x.abs().amax(1, keepdim=True)).exponent.clamp(-largest, largest)
        x = torch.where(unsafe[:, None], torch.ldexp(x, -exponent), x)
        squared_norms = x.square().sum(1)
    return x, squared_norms


def _side_by_side(vectors: Sequence[Tensor]) -> Tensor:
    """Return bases (d, r_k) as columns of one matrix, each contiguous in memory."""
    return torch.cat([part.T for part in vectors]).T
