"""Second moments with float64 sums, their rounding errors, float64 eigendecompositions, squared cosines."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from layerprobe.core.checks import SAFE, check_finite
from layerprobe.core.kernels import eigh_leading, eigh_nonzero, serves_eigh_leading
from layerprobe.utils.settings import default_settings, full_precision, parallel

Basis: TypeAlias = Callable[[int], Tensor]  # r -> the first r eigenvectors, (d, r)

BLOCK = 2048  # rows of one product in the rows' precision; sums over blocks are float64
SPARSE, NONZERO = 256, 0.8  # features, and share of nonzero ones up to which `eigh_nonzero` gains 1.3 times
WIDE = 1200  # features from which on `eigh_leading` gains 1.3 times
CHUNK, FEWEST = 1024, 128  # query rows of one product: their projections stay in cache; and at least so many
PROJECTIONS, GPU_PROJECTIONS = 2**25, 2**27  # held at a time per thread
DEVIATIONS = 4  # standard deviations of rounding errors that are allowed for


def _stripes(dim: int) -> list[tuple[int, int]]:
    """Return the rows [start, stop) of a (d, d) matrix that one product computes, up to column stop."""
    height = max(16, min(96, dim // 12))
    return [(start, min(start + height, dim)) for start in range(0, dim, height)]


class SecondMoment:
    """A sum X^T X over batches of rows: its stripes of at most 96 rows, on and below the diagonal.

    They take at most 4 d (d + max(16, min(96, d / 12))) bytes. Products are of the rows' precision over
    blocks of rows; the sums over blocks are float64.

    Parameters
    ----------
    dim : int
        Number of features d.
    device : torch.device or str
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.dim, self.device, self.stripes = dim, device, _stripes(dim)
        self.parts = [
            torch.zeros(stop - start, stop, dtype=torch.float64, device=device)
            for start, stop in self.stripes
        ]

    @staticmethod
    def bytes_for(dim: int) -> int:
        """Return the bytes of a moment of `dim` features."""
        return sum(8 * (stop - start) * stop for start, stop in _stripes(dim))

    @staticmethod
    def most_working(rows: int, dim: int, itemsize: int = 4) -> int:
        """Return the bytes that adding a batch takes: a block of rows, also in float64, and one product.

        Parameters
        ----------
        rows, dim : int
            Number of rows of the batch, and of features.
        itemsize : int
            Bytes of one number of the rows.
        """
        return min(rows, BLOCK) * dim * (itemsize + 8) + 8 * _stripes(dim)[0][1] * dim

    @full_precision
    def add(self, X: Tensor) -> "SecondMoment":
        """Add rows, (n, d); in float64 where float32 cannot hold squares."""
        if len(X) and X.dtype == torch.float32:
            smallest, largest = X.aminmax()
            safe = SAFE[0] < max(float(-smallest), float(largest)) < SAFE[1]
        else:
            safe = True
        for rows in X.split(BLOCK) if len(X) else ():
            rows = rows if safe else rows.double()
            for part, (start, stop) in zip(self.parts, self.stripes, strict=True):
                part += rows[:, start:stop].T @ rows[:, :stop]
        return self

    @default_settings()
    def merge(self, other: "SecondMoment", weight: float = 1) -> "SecondMoment":
        """Add another sum, times a weight.

        Parameters
        ----------
        other : SecondMoment
            Of the same d.
        weight : float
        """
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            mine.add_(theirs.to(mine.device), alpha=weight)
        return self

    def diagonal(self) -> Tensor:
        """Return the diagonal, (d,)."""
        return torch.cat([part.diagonal(a) for part, (a, _) in zip(self.parts, self.stripes, strict=True)])

    def matrix(self) -> Tensor:
        """Return the whole symmetric matrix, (d, d), float64."""
        full = torch.zeros(self.dim, self.dim, dtype=torch.float64, device=self.device)
        for part, (start, stop) in zip(self.parts, self.stripes, strict=True):
            full[start:stop, :stop] = part
        return full.tril() + full.tril(-1).T


def rounding_error(diagonal: Tensor, n_rows: int, dtype: torch.dtype = torch.float64) -> float:
    """Return how far rounding moves the eigenvalues of a second moment, and sums of its leading ones.

    Parameters
    ----------
    diagonal : Tensor of shape (d,)
        Diagonal of the second moment M; the result has its units.
    n_rows : int
        Number of rows n that were summed.
    dtype : torch.dtype
        Precision of the products; sums over blocks of rows are float64.

    Notes
    -----
    Float32: rounding errors of a sum of b products are taken as independent with mean zero, so that entry
    i, j of M has an error of standard deviation at most u sqrt(b M_ii M_jj), u = 2^-24 (Higham and Mary, "A
    New Approach to Probabilistic Rounding Error Analysis", 2019). For a projection P the error of tr(P M)
    then has at most the standard deviation u sqrt(b) |diag M|_2, and the matrix of errors has about twice
    this spectral norm. Four such deviations are returned.
    Float64: eps max(n, d) tr(M), after ``numpy.linalg.matrix_rank``.
    """
    if dtype == torch.float32:
        unit = torch.finfo(dtype).eps / 2
        return DEVIATIONS * unit * math.sqrt(min(n_rows, BLOCK)) * float(diagonal.norm())
    return torch.finfo(torch.float64).eps * max(n_rows, len(diagonal)) * float(diagonal.sum())


def eigenpairs(matrix: Tensor) -> tuple[Tensor, Basis]:
    """Decompose a symmetric matrix, (d, d), in float64, largest eigenvalue first.

    Negative eigenvalues, of rounding or of a difference of moments, count as zero.

    Returns
    -------
    eigenvalues : Tensor of shape (d,), float64
        Descending, clipped at zero.
    basis : callable
        ``basis(r)`` returns the first r eigenvectors as orthonormal columns, (d, r), float64.
    """
    matrix, d = matrix.double(), len(matrix)
    if d >= SPARSE and 0 < int((matrix != 0).any(1).sum()) <= NONZERO * d:
        return eigh_nonzero(matrix, eigenpairs)
    if d >= WIDE and serves_eigh_leading(matrix):
        try:
            return eigh_leading(matrix)
        except torch.linalg.LinAlgError:
            pass  # torch's routine scales and tries differently
    try:
        ascending, vectors = torch.linalg.eigh(matrix)
        failed = not torch.isfinite(ascending).all()  # some solvers of GPUs fail without an error
    except RuntimeError:  # LinAlgError, and the errors of a GPU's solver
        if matrix.device.type == "cpu":
            raise
        failed = True
    if failed:
        ascending, vectors = (part.to(matrix.device) for part in torch.linalg.eigh(matrix.cpu()))
    # The copy that `flip` makes does not keep the eigenvectors that are left out.
    return ascending.flip(0).clamp_(min=0), lambda r: vectors.T[len(vectors) - r :].flip(0).T


def gram_eigenpairs(X: Tensor) -> tuple[Tensor, Basis, int]:
    """Decompose X^T X in float64 through the Gram matrix X X^T, for X (n, d) with fewer rows than features.

    Returns
    -------
    eigenvalues : Tensor of shape (n,), float64
        The n largest eigenvalues of X^T X, descending, clipped at zero.
    basis : callable
        ``basis(r)`` returns the first r eigenvectors as orthonormal columns, (d, r), in the dtype of X. r
        must not exceed the numerical rank.
    rank : int
        The numerical rank: number of eigenvalues above the rounding error.

    Notes
    -----
    U = X^T V / sqrt(eigenvalues) has errors U^T U - I of the size eps eigenvalue_1 / eigenvalue_r,
    eps = 2^-52. A QR decomposition removes them where the dtype of X resolves them.
    """
    rows = X.double()
    # NumPy has BLAS compute one half of a product A A^T only.
    gram = torch.from_numpy(rows.numpy() @ rows.numpy().T) if rows.device.type == "cpu" else rows @ rows.T
    eigenvalues, inner = eigenpairs(gram)
    resolved = 1e-12 if X.dtype == torch.float64 else torch.finfo(X.dtype).eps / 2

    def basis(r: int) -> Tensor:
        U = (inner(r) / eigenvalues[:r].sqrt()).T @ rows  # (r, d)
        if r and torch.finfo(torch.float64).eps * eigenvalues[0] > resolved * eigenvalues[r - 1]:
            Q, R = torch.linalg.qr(U.T)
            U = (Q * R.diagonal().sign()).T
        return U.to(X.dtype).T

    return eigenvalues, basis, int((eigenvalues > rounding_error(eigenvalues, X.shape[1])).sum())


class Projection(NamedTuple):
    """Eigenvectors of all classes in one matrix, whose product with rows gives their squared cosines.

    A class scores by its first r eigenvectors U or, for r > d / 2, by its last d - r ones V:
    |U^T x|^2 = |x|^2 - |V^T x|^2. That is less work, and exact for r = d.
    """

    matrix: Tensor  # (W, d), one eigenvector per row
    sums: list[tuple[int, int, slice, bool]]  # stage, class, rows of the product, whether these are V
    shape: tuple[int, int]  # (S, K)

    @classmethod
    def of(
        cls, columns: Tensor, widths: Sequence[int], counts: Sequence[int], stages: Sequence[Sequence[int]]
    ) -> "Projection":
        """Choose the eigenvectors that the ranks of all stages need.

        Parameters
        ----------
        columns, widths, counts
            As of :class:`layerprobe.core.subspaces.Subspaces`.
        stages : sequence of S sequences of K int
            Ranks of each class.
        """
        d, rows = len(columns), columns.T
        parts, sums, start = [rows[:0]], [], 0
        for k, vectors in enumerate(rows.split(list(widths))):  # (r_k or d, d)
            if not counts[k]:
                continue
            ranks = {stage[k] for stage in stages}
            direct = {r for r in ranks if len(vectors) < d or 2 * r <= d}
            low, high = max(direct, default=0), min(ranks - direct, default=len(vectors))
            parts += [vectors[:low], vectors[high:]]
            stop = start + low + len(vectors) - high
            for s, stage in enumerate(stages):
                r = stage[k]
                of = slice(start, start + r) if r in direct else slice(stop - (d - r), stop)
                sums.append((s, k, of, r not in direct))
            start = stop
        matrix = rows if start == len(rows) else torch.cat(parts)
        return cls(matrix, sums, (len(stages), len(widths)))

    def score(self, X: Tensor, use: Callable[[slice, Tensor], None]) -> None:
        """Call a function with chunks of rows and their squared cosines; on the CPU in parallel.

        Parameters
        ----------
        X : Tensor of shape (n, d)
        use : callable
            Takes the rows of a chunk of c rows, a slice, and a Tensor (S, K, c).
        """
        width, cpu = max(len(self.matrix), 1), X.device.type == "cpu"
        share = -(-len(X) // torch.get_num_threads()) if cpu else len(X)
        most = min(CHUNK, PROJECTIONS // width) if cpu else max(CHUNK, GPU_PROJECTIONS // width)
        chunk = max(min(most, share), FEWEST)
        chunks = [slice(start, start + chunk) for start in range(0, len(X), chunk)]
        parallel(lambda rows: use(rows, self._squared_cosines(X[rows])), chunks, X.device)

    def _squared_cosines(self, x: Tensor) -> Tensor:
        """Score rows, (c, d), at each stage for each class, (S, K, c); -inf for classes without rows."""
        x, squared_norms = rescaled(x)
        squares = (self.matrix @ x.T).square_()  # (W, c)
        scores = x.new_full((*self.shape, len(x)), -torch.inf)
        for s, k, rows, complement in self.sums:
            total = squares[rows].sum(0)
            scores[s, k] = (squared_norms - total).clamp_(min=0) if complement else total
        scores /= torch.where(squared_norms > 0, squared_norms, 1)  # 0 / 1: an all-zero row has no angle
        return scores.clamp_(max=1)


def rescaled(x: Tensor) -> tuple[Tensor, Tensor]:
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


def unit_rows(x: Tensor) -> Tensor:
    """Return rows, (n, d), scaled to unit length; all-zero rows stay as they are."""
    x, squared_norms = rescaled(x)
    return x / torch.where(squared_norms > 0, squared_norms, 1).sqrt()[:, None]
