"""Second moments of all classes, summed batch by batch and merged across parts and processes."""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from layerprobe.core.checks import check_magnitude, check_rows, check_strength, check_y
from layerprobe.core.linalg import BLOCK, SecondMoment
from layerprobe.core.subspaces import ClassBasis, Subspaces, basis_from_moment, basis_from_rows, fit_subspaces
from layerprobe.errors import InputError
from layerprobe.utils.distributed import rank, sum_over_processes, world_size
from layerprobe.utils.settings import default_settings, parallel


class ClassMoments:
    """Second moments of all classes, summed over batches: any split into batches gives the same subspaces.

    A class keeps its rows while they take less memory than its second moment, and at least until it has d of
    them; with fewer the Gram matrix is decomposed. Rows wait in a buffer until there are enough for large
    products (`buffer_rows`).

    Sums of float32 products do not resolve directions and shares of the variance below
    :func:`layerprobe.core.linalg.rounding_error`, about 4e-7 of the variance. Where ``variance=1.0`` or
    ``components=`` reach that far, or a rank must be that of float64, stream with ``dtype=torch.float64``.
    `fit_subspaces`, which has the rows, computes such classes in float64.

    Parameters
    ----------
    num_classes : int
        K.
    dim : int
        Number of features d.
    dtype : torch.float32 or torch.float64
        Of the rows and of the bases.
    device : torch.device or str
    expected : int, optional
        Number of rows that will come; the buffer is not made larger than for these.
    """

    @default_settings()
    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        expected: int | None = None,
    ) -> None:
        if num_classes < 1 or dim < 1:
            raise InputError(f"num_classes and dim must be at least 1, got {num_classes} and {dim}.")
        if dtype not in (torch.float32, torch.float64):
            raise InputError(f"dtype must be torch.float32 or torch.float64, got {dtype}.")
        self.num_classes, self.dim, self.dtype = num_classes, dim, dtype
        self.device = torch.device(device)
        self._counts = torch.zeros(num_classes, dtype=torch.int64)  # of rows that left the buffer
        self._rows: list[list[Tensor]] = [[] for _ in range(num_classes)]  # of classes without a moment
        self._moments: list[SecondMoment | None] = [None] * num_classes
        self._capacity = self.buffer_rows(num_classes, dim, expected)
        self._waiting = 0  # rows in the buffer
        self._buffer: Tensor | None = None  # (capacity, d); the system gives memory when it is written to
        self._buffer_y = torch.empty(self._capacity, dtype=torch.int64, device=self.device)
        self._most_rows = max(dim, SecondMoment.bytes_for(dim) // (dim * dtype.itemsize))

    @staticmethod
    def buffer_rows(num_classes: int, dim: int, expected: int | None = None) -> int:
        """Return the number of rows that wait in the buffer, enough per class for large products.

        Parameters
        ----------
        num_classes, dim, expected
            As for the class.
        """
        rows = num_classes * min(BLOCK, max(512, dim // 4, 2**18 // dim))
        return rows if expected is None else max(1, min(rows, expected))

    @staticmethod
    def most_bytes(num_classes: int, dim: int, rows: int, itemsize: int = 4) -> int:
        """Return the largest number of bytes of rows and moments, however rows are spread over the classes.

        Parameters
        ----------
        num_classes, dim
            As for the class.
        rows, itemsize : int
            Number of rows of all classes, and bytes of one of their numbers.
        """
        moment = max(SecondMoment.bytes_for(dim), itemsize * dim * dim)
        return min(itemsize * dim * rows, num_classes * moment)

    @property
    def counts(self) -> Tensor:
        """Rows of each class so far, (K,) int64."""
        waiting = self._buffer_y[: self._waiting].bincount(minlength=self.num_classes)
        return self._counts + waiting.cpu()

    @property
    def nbytes(self) -> int:
        """Bytes of rows and moments, with the buffer."""
        held = [rows for kept in self._rows for rows in kept]
        held += [part for moment in self._moments if moment for part in moment.parts]
        held += [self._buffer_y, *([] if self._buffer is None else [self._buffer])]
        return sum(tensor.nbytes for tensor in held)

    @default_settings()
    def update(self, X: Tensor, y: Tensor) -> "ClassMoments":
        """Add a batch.

        Parameters
        ----------
        X : Tensor of shape (n, d)
        y : Tensor of shape (n,)
            Class of each row, 0..K-1.

        Raises
        ------
        InputError
            For NaN, infinity, wrong shapes or classes; nothing of the batch is then added.
        """
        X = check_rows(X, self.dim)
        y = check_y(y, len(X), self.num_classes).to(self.device)
        check_magnitude(X)
        X = X.to(self.device, self.dtype)
        start, end = self._waiting, self._waiting + len(X)
        if end > self._capacity:
            self._flush()
            start, end = 0, len(X)
        if end > self._capacity:
            self._sort_in(X, y)
            return self
        if self._buffer is None:
            self._buffer = torch.empty(self._capacity, self.dim, dtype=self.dtype, device=self.device)
        self._buffer[start:end], self._buffer_y[start:end] = X, y
        self._waiting = end
        return self

    def merge(self, other: "ClassMoments") -> "ClassMoments":
        """Add the rows that `other` has seen.

        Raises
        ------
        InputError
            If K, d or the dtype differ.
        """
        mine, theirs = ((one.num_classes, one.dim, one.dtype) for one in (self, other))
        if mine != theirs:
            raise InputError(f"Only like moments merge: expected (K, d, dtype) = {mine}, got {theirs}.")
        self._flush()
        other._flush()
        counts = self._counts + other._counts
        for k, moment in enumerate(other._moments):
            if moment is not None:
                self._collapse(k).merge(moment)
            for rows in list(other._rows[k]):
                self._append(k, rows.to(self.device))
            self._counts[k] = counts[k]
        return self

    def all_reduce(self) -> "ClassMoments":
        """Add the rows of the other processes of this job, in every one of them; see `distributed`.

        Moments are summed in float64. Rows of classes with fewer than d in all processes together are sent to
        all of them. All processes must call it, those without rows as well.
        """
        if world_size() == 1:
            return self
        self._flush()
        seen = torch.zeros(world_size(), self.num_classes, dtype=torch.int64)
        seen[rank()] = torch.tensor([sum(map(len, kept)) for kept in self._rows])
        collapsed = torch.tensor([moment is not None for moment in self._moments], dtype=torch.int64)
        # NCCL sums tensors on the device only.
        seen = sum_over_processes(seen.to(self.device)).cpu()
        collapsed = sum_over_processes(collapsed.to(self.device)).cpu()
        counts = sum_over_processes(self._counts.to(self.device)).cpu()
        for k, n in enumerate(seen.sum(0).tolist()):
            if collapsed[k] or n >= self.dim:
                for part in self._collapse(k).parts:
                    part.copy_(sum_over_processes(part))
            elif n:
                gathered = torch.zeros(n, self.dim, dtype=torch.float64, device=self.device)
                start, own = int(seen[: rank(), k].sum()), int(seen[rank(), k])
                gathered[start : start + own] = self._kept(k)
                self._rows[k] = [sum_over_processes(gathered).to(self.dtype)]  # sums with zeros: exact
        self._counts = counts
        return self

    @default_settings()
    def subspaces(
        self,
        *,
        variance: float | None = None,
        components: int | None = None,
        classes: Sequence[Hashable] | None = None,
    ) -> Subspaces:
        """Fit the subspaces of all rows so far; more may be added afterwards.

        Parameters
        ----------
        variance, components, classes
            As for :func:`layerprobe.core.subspaces.fit_subspaces`.
        """
        options: dict[str, Any] = {"variance": variance, "components": components, "classes": classes}
        if self._buffer is not None and not self._counts.any():  # all rows are here: no copy is needed
            X, y = self._buffer[: self._waiting], self._buffer_y[: self._waiting]
            return fit_subspaces(X, y, self.num_classes, **options)
        return joint_subspaces([self], **options)

    def moment(self, k: int) -> SecondMoment:
        """Return the second moment of all rows of class k so far; it replaces the rows."""
        self._flush()
        return self._collapse(k)

    def _flush(self) -> None:
        """Sort the rows of the buffer into the classes."""
        if self._waiting and self._buffer is not None:
            n, self._waiting = self._waiting, 0
            self._sort_in(self._buffer[:n], self._buffer_y[:n])

    def _sort_in(self, X: Tensor, y: Tensor) -> None:
        def append(part: tuple[int, Tensor]) -> None:
            k, index = part
            for block in index.split(BLOCK):
                self._append(k, X.index_select(0, block))

        members = y.argsort(stable=True).split(y.bincount(minlength=self.num_classes).tolist())
        operations = len(X) * self.dim * min(self.dim, 512)
        parallel(append, list(enumerate(members)), self.device, operations)

    def _append(self, k: int, rows: Tensor) -> None:
        self._counts[k] += len(rows)
        if (moment := self._moments[k]) is not None:
            moment.add(rows)
        elif len(rows):
            self._rows[k].append(rows)
            if self._counts[k] >= self._most_rows:
                self._collapse(k)

    def _collapse(self, k: int) -> SecondMoment:
        """Replace the rows of class k by their moment."""
        moment = self._moments[k]
        if moment is None:
            moment = SecondMoment(self.dim, self.device).add(self._kept(k))
            self._moments[k], self._rows[k] = moment, []
        return moment

    def _kept(self, k: int) -> Tensor:
        """Return the rows of a class without a moment, (n_k, d)."""
        rows = self._rows[k] or [torch.empty(0, self.dim, dtype=self.dtype, device=self.device)]
        return rows[0] if len(rows) == 1 else torch.cat(rows)


def joint_subspaces(
    parts: Sequence[ClassMoments],
    *,
    y: Sequence[int] | None = None,
    classes: Sequence[Hashable] | None = None,
    **strength: Any,
) -> Subspaces:
    """Fit the subspaces of all rows of several moments together; the moments stay as they are.

    Parameters
    ----------
    parts : sequence of ClassMoments
        Of the same K, d and dtype.
    y : sequence of int, optional
        Class indices to fit, default all K.
    classes, **strength
        As for :func:`layerprobe.core.subspaces.fit_subspaces`: its `variance` or `components`.
    """
    components = strength.get("components")
    check_strength(strength.get("variance"), components)
    first = parts[0]
    chosen = range(first.num_classes) if y is None else y
    n, d = sum(int(part.counts.sum()) for part in parts), first.dim
    for part in parts:
        part._flush()

    def fit_class(k: int) -> ClassBasis:
        moments = [moment for part in parts if (moment := part._moments[k]) is not None]
        rows = torch.cat([part._kept(k) for part in parts]) if len(parts) > 1 else first._kept(k)
        if not moments:
            return basis_from_rows(rows, **strength)
        total = moments[0]
        if len(rows) or len(moments) > 1:
            total = SecondMoment(d, first.device).add(rows)
            for moment in moments:
                total.merge(moment)
        n_rows = sum(int(part._counts[k]) for part in parts)
        return basis_from_moment(total.matrix(), n_rows, dtype=first.dtype, **strength)

    m = min(max(n // first.num_classes, 1), d)
    operations = len(chosen) * (10 * m**3 + d**2)
    return Subspaces.build(parallel(fit_class, chosen, first.device, operations), classes, components)
