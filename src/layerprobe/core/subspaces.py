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
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerprobe.core.checks import angle_error, check_rows, check_strength, check_y, widen
from layerprobe.core.linalg import (
    CHUNK,
    Projection,
    SecondMoment,
    eigenpairs,
    gram_eigenpairs,
    rescaled,
    rounding_error,
)
from layerprobe.errors import DataError, DegenerateWarning, InputError, warn
from layerprobe.utils.files import read_tensors, write_tensors
from layerprobe.utils.settings import default_settings, full_precision, parallel

FORMAT = "layerprobe.subspaces.1"
TIE = 1e-12  # shares this close to the variance are equal to it; sums of float64 eigenvalues are closer


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
    """Subspace of one class: its spectrum and eigenvectors, all d of them if rank > d / 2 and n_k >= d."""

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
        eigenvalues, basis, full = gram_eigenpairs(X)
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
    diagonal: Tensor | None = None,
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
    diagonal : Tensor of shape (d,), optional
        Diagonal for the estimate of the rounding error, if the moment is a difference of moments. Default:
        that of the moment.
    """
    eigenvalues, basis = eigenpairs(moment)
    error = rounding_error(moment.diagonal() if diagonal is None else diagonal, n_rows, dtype)
    full = int((eigenvalues > error).sum())
    rank = _rank(eigenvalues, variance, components, full)
    kept = len(moment) if 2 * rank > len(moment) else rank
    return ClassBasis(eigenvalues, basis(kept).to(dtype), rank, full, n_rows)


def _rank(eigenvalues: Tensor, variance: float | None, components: int | None, full: int) -> int:
    """Return r_k: the fewest components whose share of the variance is strictly above `variance`."""
    if variance is None:
        return min(int(components or 0), full)
    if variance == 1.0 or full == 0:
        return full
    cumulative = eigenvalues.double().cumsum(0)
    return min(int((cumulative / cumulative[-1] <= variance + TIE).sum()) + 1, full)


def choose_rank(
    eigenvalues: Tensor,
    *,
    variance: float | Sequence[float] | None = None,
    components: int | None = None,
    full: int | None = None,
) -> Any:
    """Return the number of components that a class keeps: the rank rule of Algorithm 2.

    Parameters
    ----------
    eigenvalues : Tensor of shape (m,)
        Eigenvalues of a second moment, descending and non-negative.
    variance : float in (0, 1], or a sequence of them
        Keep the smallest number of components whose cumulative share is strictly above this. 1.0 keeps every
        direction above the rounding error.
    components : int
        Keep this many, or all directions above the rounding error if there are fewer.
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
        shares = variance if isinstance(variance, Sequence) else variance.tolist()
        return [choose_rank(eigenvalues, variance=v, components=components, full=full) for v in shares]
    check_strength(variance, components)
    if full is None:
        full = int((eigenvalues > rounding_error(eigenvalues, len(eigenvalues))).sum())
    return _rank(eigenvalues, variance, components, full)


def _side_by_side(vectors: Sequence[Tensor]) -> tuple[Tensor, tuple[int, ...]]:
    """Return bases (d, r_k) as columns of one matrix, each contiguous in memory, and their widths."""
    return torch.cat([part.T for part in vectors]).T, tuple(part.shape[1] for part in vectors)


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
        Eigenvectors of all classes side by side: r_k per class, or all d if r_k > d / 2 and n_k >= d, since
        the other d - r_k give the same angle for less work.
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
        if not any(basis.n_rows for basis in bases):
            raise InputError("Expected at least one row to fit subspaces on, found 0 sample(s).")
        K, names = len(bases), tuple(range(len(bases)) if classes is None else classes)
        if not len(names) == len(set(names)) == K:
            raise InputError(f"classes must name {K} distinct classes, got {names!r:.200}.")
        eigenvalues, vectors, ranks, full_ranks, counts = zip(*bases, strict=True)
        fitted = cls(names, ranks, counts, eigenvalues, *_side_by_side(vectors), full_ranks)
        fitted._check_components(components)
        if missing := [repr(name) for name, n in zip(names, counts, strict=True) if n == 0]:
            warn(f"No rows of class {', '.join(missing)}: no subspace, never predicted.", DegenerateWarning)
        if fitted.saturated:
            warn(
                f"Saturated: every class fills all {fitted.dim} dimensions, so every angle is zero and the "
                "first class always wins. Use a smaller variance=, or components=.",
                DegenerateWarning,
            )
        return fitted

    @full_precision
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
        for rows, angles in zip(X.split(CHUNK), out.split(CHUNK), strict=True):
            x, squared_norms = rescaled(rows)
            for k, U in enumerate(self.bases):
                if not self.counts[k]:
                    continue
                p = x @ U  # (c, r_k)
                full = U.shape[0] == U.shape[1]
                residual = torch.zeros_like(squared_norms) if full else (x - p @ U.T).norm(dim=1)
                angle = torch.atan2(residual, p.norm(dim=1))
                angles[:, k] = torch.where(squared_norms > 0, angle, torch.pi / 2)
        return out

    def predict(self, X: Tensor) -> Tensor:
        """Return the class index of the smallest angle, (n,) int64; the first of equal ones.

        Parameters
        ----------
        X : Tensor of shape (n, d)

        Notes
        -----
        Where the two best squared cosines of a float32 row differ by less than 8 sqrt(d) 2^-24, four standard
        deviations of their rounding error, float64 decides. In float64, classes whose squared cosine is less
        than 8 sqrt(d) 2^-53 below the best count as equal, and the first of them is returned.
        """
        return self.staged_predict(X, [self.ranks])[0]

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
        y = torch.empty(len(stages), len(X), dtype=torch.int64, device=X.device)
        close = torch.zeros_like(y, dtype=torch.bool)
        error = angle_error(self.dim, X.dtype)

        def predict(rows: slice, scores: Tensor) -> None:
            best, y[:, rows] = scores.max(1)
            near = scores >= best[:, None] - error
            if X.dtype == torch.float32:
                close[:, rows] = near.sum(1) > 1
            else:
                y[:, rows] = near.view(torch.uint8).argmax(1)  # the first one

        self._projection(stages).score(X, predict)
        index = close.any(0).nonzero().squeeze(1)
        if len(index):
            exact = replace(self, columns=self.columns.double()).staged_predict(X[index].double(), stages)
            y[:, index] = torch.where(close[:, index], exact, y[:, index])
        return y

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
        out = X.new_empty(len(stages), len(X), len(self.classes))

        def store(rows: slice, scores: Tensor) -> None:
            out[:, rows] = scores.transpose(1, 2)

        self._projection(stages).score(X, store)
        return out

    def _projection(self, stages: Sequence[Sequence[int]]) -> Projection:
        if list(stages) == [self.ranks]:
            return self._own_projection
        return Projection.of(self.columns, self.widths, self.counts, stages)

    @cached_property
    def _own_projection(self) -> Projection:
        return Projection.of(self.columns, self.widths, self.counts, [self.ranks])

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
        check_strength(variance, components)
        self._check_components(components)
        spectra = zip(self.eigenvalues, self.full_ranks, strict=True)
        ranks = tuple(_rank(values, variance, components, full) for values, full in spectra)
        if any(r > kept for r, kept in zip(ranks, self.widths, strict=True)):
            given = f"components={components}" if variance is None else f"variance={variance}"
            raise InputError(f"{given} needs more components than were fitted: fit with the largest one.")
        return ranks

    def _check_components(self, components: int | None) -> None:
        if components is not None and components > self.dim:
            raise InputError(
                f"components must be at most the number of features, {self.dim}, got {components}."
            )

    def to(self, device: torch.device | str) -> "Subspaces":
        """Return the same subspaces on another device."""
        eigenvalues = tuple(values.to(device) for values in self.eigenvalues)
        return replace(self, eigenvalues=eigenvalues, columns=self.columns.to(device))

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
            classes = tuple(header["classes"])
            ranks, counts, full_ranks = (tuple(header[name]) for name in ("ranks", "counts", "full_ranks"))
            eigenvalues = tuple(tensors[f"eigenvalues.{k}"] for k in range(len(classes)))
            vectors = [tensors[f"vectors.{k}"] for k in range(len(classes))]
            loaded = cls(classes, ranks, counts, eigenvalues, *_side_by_side(vectors), full_ranks)
            loaded._check()
        except KeyError as error:
            raise DataError(f"{path}: incomplete, {error} is missing; save it again.") from error
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"{path}: no subspaces of ours ({error}); save them again.") from error
        return loaded

    def _check(self) -> None:
        """Raise an error for sizes or numbers of a file that no fit has."""
        K, d = len(self.classes), self.dim
        sizes = [self.ranks, self.counts, self.full_ranks]
        whole = [type(v) is int and 0 <= v < 2**53 for values in sizes for v in values]
        named = [name is None or isinstance(name, str | int | float) for name in self.classes]
        real = self.columns.dtype in (torch.float32, torch.float64)
        spectra = [v.is_floating_point() and v.ndim == 1 and v.isfinite().all() for v in self.eigenvalues]
        requirements = {
            f"distinct texts or numbers as classes, got {self.classes!r:.80}": (
                all(named) and 0 < K == len(set(self.classes))
            ),
            f"ranks, counts and full_ranks of {K} whole numbers each, got {sizes!r:.80}": (
                all(whole) and all(len(values) == K for values in sizes)
            ),
            "finite real vectors of unit length, and at least one feature": (
                d and real and bool(((self.columns.double().norm(dim=0) - 1).abs() <= 1e-3).all())
            ),
            "finite real eigenvalues": all(spectra),
        }
        for requirement, met in requirements.items():
            if not met:
                raise ValueError(f"expected {requirement}")
        for rank, width, values in zip(self.ranks, self.widths, self.eigenvalues, strict=True):
            if not rank <= width <= d or len(values) < rank:
                raise ValueError(
                    f"expected {rank} components, got {width} vectors and {len(values)} eigenvalues"
                )
