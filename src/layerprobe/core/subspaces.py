"""The Minimum Angle Subspace Classifier, Algorithms 1-3 of the paper: START HERE.

Per class k the rows X_k of a layer's outputs span a subspace: the leading eigenvectors U_k of the
uncentred second moment X_k^T X_k, as many as it takes to hold more than 99 % of the variance. (The paper
doubles the data with their negatives so that the mean is zero; the second moment is the same without.)
A point x belongs to the class whose subspace makes the smallest angle with it,

    cos angle_k = |U_k^T x| / |x|,    prediction = argmax_k |U_k^T x|^2 / |x|^2.
"""

import os
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from layerprobe.core.checks import (
    check_classes,
    check_codes,
    check_finite,
    check_magnitude,
    check_rows,
    check_strength,
)
from layerprobe.core.fitting import ClassBasis, basis_from_moment, basis_from_rows, fit_classes
from layerprobe.core.products import Plan, Request, plan_products
from layerprobe.core.ranks import choose_rank
from layerprobe.core.scoring import angles, codes_by_stage, staged_squared_cosines
from layerprobe.errors import DataError, DegenerateWarning, InputError
from layerprobe.utils.files import read_tensors, write_tensors

__all__ = ["ClassBasis", "Subspaces", "basis_from_moment", "basis_from_rows", "choose_rank", "fit_subspaces"]

FORMAT = "layerprobe.subspaces.1"


def fit_subspaces(
    X: Tensor,
    codes: Tensor,
    num_classes: int,
    *,
    variance: float | None = None,
    components: int | None = None,
    classes: Sequence[Hashable] | None = None,
    exact: bool = False,
) -> "Subspaces":
    """Fit one subspace a class (Algorithm 2).

    Parameters
    ----------
    X : Tensor of shape (n, d)
        A layer's outputs, float32 or float64; the bases get the same dtype.
    codes : Tensor of shape (n,)
        Class of each row, 0..K-1.
    num_classes : int
        K. A class without rows has no subspace, and a warning says so.
    variance : float in (0, 1]
        Share of the variance to keep, the paper's 0.99; or
    components : int
        the number of components. Exactly one of the two.
    classes : sequence of K hashables, optional
        Names of the classes, default 0..K-1.
    exact : bool
        Multiply, decompose and later score in float64 throughout; the bases are float64.

    Raises
    ------
    InputError
        For NaN or infinity, no rows, wrong shapes, codes outside 0..K-1, more components than features.
    """
    check_strength(variance, components)
    X = check_rows(X)
    codes = check_codes(codes, len(X), num_classes).to(X.device)
    check_finite(X)
    check_magnitude(X)

    (parts,) = fit_classes(X, [codes], num_classes, variance=variance, components=components, exact=exact)
    return Subspaces.build(parts, classes, components)


@dataclass(frozen=True, eq=False)
class Subspaces:
    """One subspace a class, frozen, as `fit_subspaces` and ``ClassMoments.subspaces`` make it.

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
        The eigenvectors of all classes side by side: r_k of a class, or all d where r_k > d / 2, since
        the d - r_k others give the same angle for less work.
    widths : tuple of K int
    full_ranks : tuple of K int
        Directions of each class that stand out of rounding, what ``variance=1.0`` keeps.
    """

    classes: tuple[Hashable, ...]
    ranks: tuple[int, ...]
    counts: tuple[int, ...]
    eigenvalues: tuple[Tensor, ...]
    columns: Tensor
    widths: tuple[int, ...]
    full_ranks: tuple[int, ...]

    @classmethod
    def build(
        cls,
        parts: Sequence[ClassBasis],
        classes: Sequence[Hashable] | None = None,
        components: int | None = None,
    ) -> "Subspaces":
        """Put the classes' bases side by side, and warn of what carries no information."""
        d = len(parts[0].vectors) if parts else 0
        if not any(part.n_rows for part in parts):
            raise InputError("Expected at least one row to fit subspaces on, found 0 sample(s).")
        if components is not None and components > d:
            raise InputError(f"components must be at most the number of features, {d}, got {components}.")
        fitted = cls(
            classes=check_classes(classes, len(parts)),
            ranks=tuple(part.rank for part in parts),
            counts=tuple(part.n_rows for part in parts),
            eigenvalues=tuple(part.eigenvalues for part in parts),
            columns=_side_by_side([part.vectors for part in parts]),
            widths=tuple(part.vectors.shape[1] for part in parts),
            full_ranks=tuple(part.full for part in parts),
        )
        missing = [name for name, n in zip(fitted.classes, fitted.counts, strict=True) if n == 0]
        if missing:
            warnings.warn(
                f"No rows of class {', '.join(map(repr, missing))}: no subspace, never predicted.",
                DegenerateWarning,
                stacklevel=3,
            )
        if fitted.saturated:
            warnings.warn(
                f"Saturated: every class fills all {d} dimensions, so every angle is zero and the "
                "first class always wins. Use a smaller variance=, or components=.",
                DegenerateWarning,
                stacklevel=3,
            )
        return fitted

    @property
    def dim(self) -> int:
        """Number of features d."""
        return len(self.columns)

    @property
    def saturated(self) -> bool:
        """Whether every class fills the whole space, so that angles carry no information."""
        return all(r == self.dim for r, n in zip(self.ranks, self.counts, strict=True) if n)

    @property
    def bases(self) -> tuple[Tensor, ...]:
        """Orthonormal basis U_k of each class, (d, r_k): views, not copies."""
        parts = self.columns.split(self.widths, dim=1)
        return tuple(part[:, :r] for part, r in zip(parts, self.ranks, strict=True))

    def ranks_at(self, *, variance: float | None = None, components: int | None = None) -> tuple[int, ...]:
        """Components of each class at a smaller share or count than the fitted one.

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
            asked = f"components={components}" if variance is None else f"variance={variance}"
            raise InputError(f"{asked} needs more components than were fitted: fit with the largest one.")
        return ranks

    def squared_cosines(self, X: Tensor) -> Tensor:
        """Squared cosine of the angle to each class's subspace, |U_k^T x|^2 / |x|^2.

        Parameters
        ----------
        X : Tensor of shape (n, d)

        Returns
        -------
        Tensor of shape (n, K)
            In [0, 1]; 0 for an all-zero row, -inf for a class without rows.
        """
        X = check_rows(X, self.dim).to(self.columns)
        return staged_squared_cosines(X, self._plan)[0][0]

    @cached_property
    def _plan(self) -> Plan:
        return plan_products([self.request([self.ranks])])

    def request(self, stages: Sequence[Sequence[int]]) -> Request:
        """Ask for scores at several choices of ranks, beside those of other subspaces."""
        return Request(self.columns, self.widths, self.counts, stages)

    def staged_squared_cosines(self, X: Tensor, stages: Sequence[Sequence[int]]) -> Tensor:
        """Squared cosines for several choices of ranks from ONE projection.

        Parameters
        ----------
        X : Tensor of shape (n, d)
        stages : sequence of S sequences of K int
            Ranks of each class, as :meth:`ranks_at` gives them.

        Returns
        -------
        Tensor of shape (S, n, K)
        """
        X = check_rows(X, self.dim).to(self.columns)
        return staged_squared_cosines(X, plan_products([self.request(stages)]))[0]

    def staged_predict(self, X: Tensor, stages: Sequence[Sequence[int]]) -> Tensor:
        """Codes (S, n) as :meth:`predict` gives them, at several choices of ranks from one projection."""
        X = check_rows(X, self.dim).to(self.columns)
        return codes_by_stage(X, plan_products([self.request(stages)]))[0]

    def angles(self, X: Tensor) -> Tensor:
        """Angles of X, (n, d), to each class's subspace in radians, (n, K) (Algorithm 3).

        In [0, pi/2]; pi/2 for an all-zero row, inf for a class without rows.
        """
        X = check_rows(X, self.dim).to(self.columns)
        return angles(X, self.bases, self.counts)

    def predict(self, X: Tensor) -> Tensor:
        """Code of the class with the smallest angle, (n,) int64; the first of equals wins.

        Where the two best squared cosines of float32 rows differ by less than 1e-5, float64 decides.
        """
        X = check_rows(X, self.dim).to(self.columns)
        return codes_by_stage(X, self._plan)[0][0]

    def to(self, device: torch.device | str) -> "Subspaces":
        """Give the same subspaces on another device."""
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
        """Read what :meth:`save` wrote."""
        tensors, header = read_tensors(path, FORMAT, device)
        try:
            K = len(header["classes"])
            vectors = [tensors[f"vectors.{k}"] for k in range(K)]
            return cls(
                classes=tuple(header["classes"]),
                ranks=tuple(header["ranks"]),
                counts=tuple(header["counts"]),
                eigenvalues=tuple(tensors[f"eigenvalues.{k}"] for k in range(K)),
                columns=_side_by_side(vectors),
                widths=tuple(v.shape[1] for v in vectors),
                full_ranks=tuple(header["full_ranks"]),
            )
        except (KeyError, RuntimeError) as error:
            raise DataError(f"{path}: incomplete, {error} is missing; save it again.") from error


def _side_by_side(vectors: Sequence[Tensor]) -> Tensor:
    """Bases (d, r_k) as columns of one matrix, each in one piece of memory: so they are made and used."""
    return torch.cat([part.T for part in vectors]).T
