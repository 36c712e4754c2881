"""ClassMoments: everything a subspace needs, gathered batch by batch and merged across parts."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from layerprobe.core.checks import check_codes, check_finite, check_magnitude, check_rows, check_strength
from layerprobe.core.linalg import SecondMoment, parallel
from layerprobe.core.subspaces import ClassBasis, Subspaces, basis_from_moment, basis_from_rows
from layerprobe.errors import InputError

__all__ = ["ClassMoments"]


class ClassMoments:
    """Second moments of every class, streamed: any split into batches gives the same subspaces.

    A class keeps its rows while it has fewer than d of them (then the Gram matrix is the shorter way), and
    collapses to its second moment afterwards: K d min(n_k, d) * 4 bytes for float32 rows (up to twice that
    where d <= 512), plus a buffer of at most 2,048 rows a class.

    Sums of float32 rows cannot tell directions below 1e-7 of a class's variance from rounding; where
    ``variance=1.0`` or ``components=`` reach that far, stream with ``dtype=torch.float64``.

    Parameters
    ----------
    num_classes : int
        K.
    dim : int
        Number of features d.
    dtype : torch.float32 or torch.float64
        Of the rows and of the resulting bases.
    device : torch.device or str
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if num_classes < 1 or dim < 1:
            raise InputError(f"num_classes and dim must be at least 1, got {num_classes} and {dim}.")
        if dtype not in (torch.float32, torch.float64):
            raise InputError(f"dtype must be torch.float32 or torch.float64, got {dtype}.")
        self.dim, self.dtype, self.device = dim, dtype, torch.device(device)
        self.counts = torch.zeros(num_classes, dtype=torch.int64)
        self._rows: list[list[Tensor]] = [[] for _ in range(num_classes)]  # not yet in the moment
        self._waiting = [0] * num_classes  # how many those are
        self._moments: list[SecondMoment | None] = [None] * num_classes

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.counts)

    def update(self, X: Tensor, codes: Tensor) -> "ClassMoments":
        """Add a batch.

        Parameters
        ----------
        X : Tensor of shape (n, d)
        codes : Tensor of shape (n,)
            Class of each row, 0..K-1.

        Raises
        ------
        InputError
            For NaN, infinity, wrong shapes or codes; nothing of the batch is then added.
        """
        X = check_rows(X, self.dim).to(self.device, self.dtype)
        codes = check_codes(codes, len(X), self.num_classes).to(self.device)
        check_finite(X)
        check_magnitude(X)
        order = codes.argsort(stable=True)
        sizes = codes.bincount(minlength=self.num_classes).cpu()
        for k, index in enumerate(order.split(sizes.tolist())):
            if len(index):
                self._append(k, X[index])
        return self

    def merge(self, other: "ClassMoments") -> "ClassMoments":
        """Add all that `other` has seen; `other` is left as it was."""
        mine, theirs = (self.num_classes, self.dim, self.dtype), (other.num_classes, other.dim, other.dtype)
        if mine != theirs:
            raise InputError(f"Only like moments merge: expected (K, d, dtype) = {mine}, got {theirs}.")
        for k in range(self.num_classes):
            moment = other._moments[k]
            if moment is not None:
                self._collapse(k).merge(moment)
                self.counts[k] += other.counts[k] - other._waiting[k]
            for rows in list(other._rows[k]):
                self._append(k, rows.to(self.device))
        return self

    def subspaces(
        self,
        *,
        variance: float | None = None,
        components: int | None = None,
        classes: Sequence[Hashable] | None = None,
    ) -> Subspaces:
        """Fit the subspaces of all that was seen so far; more may be added afterwards.

        Parameters
        ----------
        variance, components, classes
            As for :func:`layerprobe.core.subspaces.fit_subspaces`.
        """
        check_strength(variance, components)

        def fit_class(k: int) -> ClassBasis:
            moment = self._moments[k]
            if moment is None:
                rows = torch.cat(self._rows[k]) if self._rows[k] else self._none()
                return basis_from_rows(rows, variance=variance, components=components)
            return basis_from_moment(
                moment.matrix(),
                int(self.counts[k]),
                variance=variance,
                components=components,
                dtype=self.dtype,
            )

        for k in range(self.num_classes):
            if self._moments[k] is not None:
                self._collapse(k)
        return Subspaces.build(parallel(fit_class, range(self.num_classes)), classes, components)

    def moment(self, k: int) -> SecondMoment:
        """Give the second moment of all rows of class k so far; from now on it is kept in place of them."""
        return self._collapse(k)

    def _append(self, k: int, rows: Tensor) -> None:
        self._rows[k].append(rows)
        self.counts[k] += len(rows)
        self._waiting[k] += len(rows)
        shortest = self.dim if self._moments[k] is None else 1  # below d rows the Gram matrix is shorter
        if self._waiting[k] >= max(shortest, SecondMoment.BLOCK):
            self._collapse(k)

    def _collapse(self, k: int) -> SecondMoment:
        """Move the waiting rows of class k into its moment."""
        moment = self._moments[k] or SecondMoment(self.dim, self.device)
        if self._rows[k]:
            moment.add(torch.cat(self._rows[k]))
        self._moments[k], self._rows[k], self._waiting[k] = moment, [], 0
        return moment

    def _none(self) -> Tensor:
        return torch.empty(0, self.dim, dtype=self.dtype, device=self.device)
