"""Eigenvectors of a symmetric matrix, no more of them than are wanted, by LAPACK's single steps.

`torch.linalg.eigh` turns all d eigenvectors back from tridiagonal form, and a subspace keeps r of them. Taken
one by one the steps cost (4/3) d^3 for the tridiagonal form and 2 d^2 r for the vectors, all in float64: at
d = 2048 and r = 200 in 0.6 s where `torch.linalg.eigh` takes 2.0 s in float64 and 0.8 s in float32. A float32
decomposition mended in float64 around the cut would therefore gain little, and is not used.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerprobe.core.blas import call

__all__ = ["SMALLEST", "eigh_leading"]

SMALLEST = 256  # features: below, torch's own decomposition is as fast
AT_ONCE = 1024  # up to so many, all eigenvectors of the tridiagonal form cost less than a few found singly
FEW = 6  # beyond, up to d / 6 are found singly, more by divide and conquer, which finds all


def _call(name: str, *arguments: Any) -> int:
    """Call a routine whose last argument, not given, is `info`; give that."""
    info = ctypes.c_int(0)
    call(name, *arguments, info)
    return info.value


def _with_workspace(name: str, *arguments: Any, integers: bool) -> int:
    """Call a routine twice, the first time to ask how much room it needs."""
    need, need_integers = np.zeros(1), np.zeros(1, dtype=np.intc)
    tail: list[Any] = [need, -1, *([need_integers, -1] if integers else [])]
    _call(name, *arguments, *tail)
    room, room_integers = np.empty(max(int(need[0]), 1)), np.empty(max(int(need_integers[0]), 1), np.intc)
    tail = [room, room.size, *([room_integers, room_integers.size] if integers else [])]
    return _call(name, *arguments, *tail)


def eigh_leading(matrix: Tensor) -> tuple[Tensor, Callable[[int], Tensor]]:
    """Eigendecomposition of a symmetric matrix, largest eigenvalue first.

    Parameters
    ----------
    matrix : Tensor of shape (d, d), float64, on the CPU
        Whole, finite.

    Returns
    -------
    eigenvalues : Tensor of shape (d,), float64
        All of them, descending.
    basis : callable
        ``basis(r)`` gives the first r eigenvectors as orthonormal columns, (d, r), float64.

    Raises
    ------
    torch.linalg.LinAlgError
        If LAPACK does not converge.
    """
    d = len(matrix)
    smallest, largest = matrix.aminmax()
    exponent = int(np.frexp(max(float(-smallest), float(largest)))[1])
    scale = 2.0**exponent  # the steps, unlike eigh, do not scale on their own
    reduced = (matrix / scale).numpy()  # symmetric: rows are LAPACK's columns
    diagonal, beside, reflectors = np.empty(d), np.zeros(d), np.empty(d)
    _with_workspace("dsytrd", "L", d, reduced, d, diagonal, beside, reflectors, integers=False)
    inner: np.ndarray | None = None
    if d <= AT_ONCE:
        ascending, inner = _all_pairs(diagonal, beside)
    else:
        ascending = diagonal.copy()
        if _call("dsterf", d, ascending, beside.copy()):
            raise torch.linalg.LinAlgError("the eigenvalues of a second moment did not converge")

    def basis(r: int) -> Tensor:
        # Rows of this array are LAPACK's columns.
        columns = _last_vectors(diagonal, beside, r) if inner is None else inner[d - r :].copy()
        _with_workspace("dormtr", "L", "L", "N", d, r, reduced, d, reflectors, columns, d, integers=False)
        return torch.from_numpy(columns).flip(0).T

    return torch.from_numpy(ascending * scale).flip(0), basis


def _all_pairs(diagonal: np.ndarray, beside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of a tridiagonal matrix, ascending, and all eigenvectors, one a row, (d, d)."""
    d = len(diagonal)
    ascending, vectors = diagonal.copy(), np.empty((d, d))
    if _with_workspace("dstevd", "V", d, ascending, beside.copy(), vectors, d, integers=True):
        raise torch.linalg.LinAlgError("the eigenvectors of a second moment did not converge")
    return ascending, vectors


def _last_vectors(diagonal: np.ndarray, beside: np.ndarray, r: int) -> np.ndarray:
    """Eigenvectors of the r largest eigenvalues of a tridiagonal matrix, one a row, ascending, (r, d)."""
    d = len(diagonal)
    if 0 < r <= d // FEW:
        vectors, found, support = np.empty((r, d)), np.zeros(1, np.intc), np.empty(2 * r, np.intc)
        window = ["V", "I", d, diagonal.copy(), beside.copy(), 0.0, 0.0, d - r + 1, d]
        tail = [found, np.empty(d), vectors, d, r, support, 1]
        if not _with_workspace("dstemr", *window, *tail, integers=True) and found[0] == r:
            return vectors
    return _all_pairs(diagonal, beside)[1][d - r :]
