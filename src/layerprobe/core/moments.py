"""ClassMoments: everything a subspace needs, gathered batch by batch, merged across parts and processes."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from layerprobe.core.checks import check_codes, check_finite, check_magnitude, check_rows, check_strength
from layerprobe.core.linalg import eigh_gram, numerical_rank
from layerprobe.core.second_moment import SecondMoment
from layerprobe.core.subspaces import ClassBasis, Subspaces, basis_from_moment, basis_from_rows, fit_subspaces
from layerprobe.errors import InputError
from layerprobe.utils.distributed import rank, sum_over_processes, world_size
from layerprobe.utils.threads import parallel

__all__ = ["ClassMoments", "joint_subspaces"]


class ClassMoments:
    """Second moments of every class, streamed: any split into batches gives the same subspaces.

    A class keeps its rows while it has fewer than d of them (then the Gram matrix is the shorter way), and
    collapses to the lower triangle of its second moment, in float64, when it has d: for float32 rows never
    more than K (d + 1) min(n_k, d) * 4 bytes, plus one buffer of rows of all classes as they come, at most
    a megabyte, 512 rows or d / 4 a class of them, whichever is most (`buffer_rows`).

    Sums of float32 rows cannot tell directions below 1e-7 of a class's variance from rounding, nor shares
    of the variance that differ by less: where ``variance=1.0`` or ``components=`` reach that far, or a rank
    must be that of float64 although a share all but equals the variance, stream with
    ``dtype=torch.float64``. `fit_subspaces`, which has the rows, looks again.

    Parameters
    ----------
    num_classes : int
        K.
    dim : int
        Number of features d.
    dtype : torch.float32 or torch.float64
        Of the rows and of the resulting bases.
    device : torch.device or str
    expected : int, optional
        How many rows will come; the buffer is then not made larger than for these.
    directions : int, optional
        Merge and truncate, where memory is short: a class keeps at most so many directions of at most twice
        as many rows, K 2 directions d * 4 bytes. No moment then exceeds the true one, and none lacks more
        than `lost` of the class's variance in any direction; shares of variance are of what was kept.

    Attributes
    ----------
    lost : Tensor of shape (K,), float64
        Bound on the spectral norm of X_k^T X_k less what is left of it; 0 without `directions`.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        expected: int | None = None,
        directions: int | None = None,
    ) -> None:
        if directions is not None and directions < 1:
            raise InputError(f"directions must be at least 1, got {directions}.")
        if num_classes < 1 or dim < 1:
            raise InputError(f"num_classes and dim must be at least 1, got {num_classes} and {dim}.")
        if dtype not in (torch.float32, torch.float64):
            raise InputError(f"dtype must be torch.float32 or torch.float64, got {dtype}.")
        self.dim, self.dtype, self.device = dim, dtype, torch.device(device)
        self.directions = directions
        self.lost = torch.zeros(num_classes, dtype=torch.float64)
        self._counts = torch.zeros(num_classes, dtype=torch.int64)  # of what left the buffer
        self._rows: list[list[Tensor]] = [[] for _ in range(num_classes)]  # of classes without a moment
        self._moments: list[SecondMoment | None] = [None] * num_classes
        self._capacity = self.buffer_rows(num_classes, dim, expected)
        self._waiting = 0  # rows in the buffer
        self._buffer: Tensor | None = None  # (capacity, d); of its memory only what is written to is taken
        self._buffer_codes = torch.empty(self._capacity, dtype=torch.int64, device=self.device)

    @staticmethod
    def buffer_rows(num_classes: int, dim: int, expected: int | None = None) -> int:
        """Rows that wait to be sorted by class: enough a class for a good product with each d x d moment."""
        rows = num_classes * min(SecondMoment.BLOCK, max(512, dim // 4, 2**18 // dim))
        return rows if expected is None else max(1, min(rows, expected))

    @staticmethod
    def most_bytes(num_classes: int, dim: int, rows: int, itemsize: int = 4) -> int:
        """Bytes of the rows and moments of so many rows, however they are spread over the classes."""
        return itemsize * (dim + 1) * min(rows, num_classes * dim)

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self._moments)

    @property
    def counts(self) -> Tensor:
        """Rows of each class so far, (K,) int64."""
        waiting = self._buffer_codes[: self._waiting].bincount(minlength=self.num_classes)
        return self._counts + waiting.cpu()

    @property
    def nbytes(self) -> int:
        """Bytes of rows and moments held now, the buffer's included."""
        held = [rows for kept in self._rows for rows in kept]
        held += [tensor for moment in self._moments if moment for tensor in moment.tensors]
        held += [self._buffer_codes, *([] if self._buffer is None else [self._buffer])]
        return sum(tensor.nbytes for tensor in held)

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
        if self._waiting + len(X) > self._capacity:
            self._flush()
        if len(X) > self._capacity:
            self._sort_in(X, codes)
            return self
        if self._buffer is None:
            with torch.inference_mode(False):  # later batches may come outside of it
                self._buffer = torch.empty(self._capacity, self.dim, dtype=self.dtype, device=self.device)
        end = self._waiting + len(X)
        self._buffer[self._waiting : end] = X
        self._buffer_codes[self._waiting : end] = codes
        self._waiting = end
        return self

    def merge(self, other: "ClassMoments") -> "ClassMoments":
        """Add all that `other` has seen."""
        mine, theirs = self._kind(), other._kind()
        if mine != theirs:
            raise InputError(
                f"Only like moments merge: expected (K, d, dtype, directions) = {mine}, got {theirs}."
            )
        self._flush()
        other._flush()
        counts = self._counts + other._counts
        for k, moment in enumerate(other._moments):
            if moment is not None:
                self._collapse(k).merge(moment)
            for rows in list(other._rows[k]):
                self._append(k, rows.to(self.device))
            self._counts[k] = counts[k]
        self.lost += other.lost
        return self

    def all_reduce(self) -> "ClassMoments":
        """Add what the other processes of this job have seen, in every one of them; see `distributed`.

        Moments are summed in float64, and rows of classes that have fewer than d in all processes together
        are given to all of them. All processes must call it, those that saw no row as well.
        """
        if world_size() == 1:
            return self
        self._flush()
        seen = torch.zeros(world_size(), self.num_classes, dtype=torch.int64)
        seen[rank()] = torch.tensor([sum(map(len, kept)) for kept in self._rows])
        collapsed = torch.tensor([moment is not None for moment in self._moments], dtype=torch.int64)
        # On the device of the rows: NCCL knows no other.
        seen = sum_over_processes(seen.to(self.device)).cpu()
        collapsed = sum_over_processes(collapsed.to(self.device)).cpu()
        counts = sum_over_processes(self._counts.to(self.device)).cpu()
        self.lost = sum_over_processes(self.lost.to(self.device)).cpu()
        for k, n in enumerate(seen.sum(0).tolist()):
            if collapsed[k] or (n >= self.dim and self.directions is None):
                for tensor in self._collapse(k).tensors:
                    tensor.copy_(sum_over_processes(tensor))
            elif n:
                gathered = torch.zeros(n, self.dim, dtype=torch.float64, device=self.device)
                start, own = int(seen[: rank(), k].sum()), int(seen[rank(), k])
                gathered[start : start + own] = self._kept(k)
                self._rows[k] = [sum_over_processes(gathered).to(self.dtype)]  # sums with zeros: exact
                self._settle(k)
        self._counts = counts
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
        if self._buffer is not None and not self._counts.any() and self.directions is None:
            X, codes = self._buffer[: self._waiting], self._buffer_codes[: self._waiting]
            return fit_subspaces(  # nothing was sorted in yet: another copy of the rows is saved
                X, codes, self.num_classes, variance=variance, components=components, classes=classes
            )
        return joint_subspaces([self], variance=variance, components=components, classes=classes)

    def moment(self, k: int) -> SecondMoment:
        """Give the second moment of all rows of class k so far; from now on it is kept in place of them."""
        self._flush()
        return self._collapse(k)

    def _flush(self) -> None:
        """Sort what waits in the buffer into the classes."""
        if self._waiting and self._buffer is not None:
            n, self._waiting = self._waiting, 0
            self._sort_in(self._buffer[:n], self._buffer_codes[:n])

    def _sort_in(self, X: Tensor, codes: Tensor) -> None:
        order = codes.argsort(stable=True)
        sizes = codes.bincount(minlength=self.num_classes).tolist()
        parts = list(enumerate(order.split(sizes)))

        def append(part: tuple[int, Tensor]) -> None:
            k, index = part
            for block in index.split(min(SecondMoment.BLOCK, self.directions or SecondMoment.BLOCK)):
                self._append(k, X.index_select(0, block))

        parallel(append, parts)

    def _append(self, k: int, rows: Tensor) -> None:
        self._counts[k] += len(rows)
        moment = self._moments[k]
        if moment is not None:
            moment.add(rows)
        elif len(rows):
            self._rows[k].append(rows)
            self._settle(k)

    def _settle(self, k: int) -> None:
        """Bring the rows of class k down to what is kept of so many."""
        if self.directions is None:
            if self._counts[k] >= self.dim:  # below d rows the Gram matrix is shorter
                self._collapse(k)
        elif sum(map(len, self._rows[k])) >= 2 * self.directions:
            eigenvalues, basis = eigh_gram(self._kept(k))
            r = min(self.directions, numerical_rank(eigenvalues, self.dim))
            rows = basis(r).T * eigenvalues[:r, None].sqrt()
            self._rows[k] = [rows.to(self.dtype)]
            self.lost[k] += float(eigenvalues[r]) if r < len(eigenvalues) else 0.0

    def _collapse(self, k: int) -> SecondMoment:
        """Put the moment of class k in the place of its rows."""
        moment = self._moments[k]
        if moment is None:
            moment = SecondMoment(self.dim, self.device).add(self._kept(k))
            self._moments[k], self._rows[k] = moment, []
        return moment

    def _kind(self) -> tuple:
        return self.num_classes, self.dim, self.dtype, self.directions

    def _kept(self, k: int) -> Tensor:
        rows = self._rows[k]
        if not rows:
            return torch.empty(0, self.dim, dtype=self.dtype, device=self.device)
        return rows[0] if len(rows) == 1 else torch.cat(rows)


def joint_subspaces(
    parts: Sequence[ClassMoments],
    *,
    variance: float | None = None,
    components: int | None = None,
    classes: Sequence[Hashable] | None = None,
    codes: Sequence[int] | None = None,
) -> Subspaces:
    """Fit the subspaces of all rows of several moments together, which stay as they are.

    Parameters
    ----------
    parts : sequence of ClassMoments
        Of the same K, d and dtype.
    variance, components, classes
        As for :func:`layerprobe.core.subspaces.fit_subspaces`.
    codes : sequence of int, optional
        Which of the K classes are fitted, default all.
    """
    check_strength(variance, components)
    first = parts[0]
    for part in parts:
        part._flush()

    def fit_class(k: int) -> ClassBasis:
        moments = [moment for part in parts if (moment := part._moments[k]) is not None]
        rows = torch.cat([part._kept(k) for part in parts]) if len(parts) > 1 else first._kept(k)
        n = sum(int(part._counts[k]) for part in parts)
        if not moments:
            return basis_from_rows(rows, variance=variance, components=components)._replace(n_rows=n)
        total = moments[0]
        if len(moments) > 1 or len(rows):
            total = SecondMoment(first.dim, first.device).add(rows)
            for moment in moments:
                total.merge(moment)
        return basis_from_moment(
            total.matrix(), n, variance=variance, components=components, dtype=first.dtype
        )

    chosen = range(first.num_classes) if codes is None else codes
    return Subspaces.build(parallel(fit_class, chosen), classes, components)
