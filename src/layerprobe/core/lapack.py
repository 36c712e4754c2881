"""Eigenvectors of a symmetric matrix, no more of them than are wanted, by LAPACK's single steps.

`torch.linalg.eigh` turns all d eigenvectors back from tridiagonal form, and a subspace keeps r of them. Taken
one by one the steps cost (4/3) d^3 for the tridiagonal form and 2 d^2 r for the vectors, all in float64: at
d = 2048 and r = 200 in 0.6 s where `torch.linalg.eigh` takes 2.0 s in float64 and 0.8 s in float32. A float32
decomposition mended in float64 around the cut would therefore gain little, and is not used.

The routines are SciPy's, called by their addresses (as Numba does) because that lets go of Python's lock: the
classes are decomposed side by side, one thread each.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import scipy.linalg.cython_lapack as lapack
import torch
from torch import Tensor

__all__ = ["SMALLEST", "eigh_leading"]

SMALLEST = 256  # features: below, torch's own decomposition is as fast
FEW = 6  # up to d / 6 vectors are found singly, more by divide and conquer, which finds all


@cache
def _routine(name: str) -> Callable[..., None]:
    """Give a LAPACK routine, whose arguments all are pointers."""
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    capsule = lapack.__pyx_capi__[name]
    return ctypes.CFUNCTYPE(None)(api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule)))


def _call(name: str, *arguments: Any) -> int:
    """Call a routine whose last argument, not given, is `info`; give that."""
    info = ctypes.c_int(0)
    kinds: dict[type, Callable[[Any], Any]] = {
        str: lambda text: ctypes.c_char(text.encode()),
        int: ctypes.c_int,
        float: ctypes.c_double,
    }
    held = [kinds[type(a)](a) if type(a) in kinds else a for a in arguments]
    pointers = [
        ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.byref(a) for a in held
    ]
    _routine(name)(*pointers, ctypes.byref(info))
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
    largest = float(matrix.abs().max())
    exponent = int(np.frexp(largest)[1])  # the steps, unlike eigh, do not scale on their own
    reduced = torch.ldexp(matrix, torch.tensor(-exponent)).numpy()  # symmetric: rows are LAPACK's columns
    diagonal, beside, reflectors = np.empty(d), np.zeros(d), np.empty(d)
    _with_workspace("dsytrd", "L", d, reduced, d, diagonal, beside, reflectors, integers=False)
    ascending = diagonal.copy()
    if _call("dsterf", d, ascending, beside.copy()):
        raise torch.linalg.LinAlgError("the eigenvalues of a second moment did not converge")

    def basis(r: int) -> Tensor:
        columns = _tridiagonal_vectors(diagonal, beside, r)  # rows of this array are LAPACK's columns
        _with_workspace("dormtr", "L", "L", "N", d, r, reduced, d, reflectors, columns, d, integers=False)
        return torch.from_numpy(columns).flip(0).T

    eigenvalues = torch.ldexp(torch.from_numpy(ascending), torch.tensor(exponent)).flip(0)
    return eigenvalues, basis


def _tridiagonal_vectors(diagonal: np.ndarray, beside: np.ndarray, r: int) -> np.ndarray:
    """Eigenvectors of the r largest eigenvalues of a tridiagonal matrix, one a row, ascending, (r, d)."""
    d = len(diagonal)
    if 0 < r <= d // FEW:
        vectors, found, support = np.empty((r, d)), np.zeros(1, np.intc), np.empty(2 * r, np.intc)
        window = ["V", "I", d, diagonal.copy(), beside.copy(), 0.0, 0.0, d - r + 1, d]
        tail = [found, np.empty(d), vectors, d, r, support, 1]
        if not _with_workspace("dstemr", *window, *tail, integers=True) and found[0] == r:
            return vectors
    vectors = np.empty((d, d))
    if _with_workspace("dstevd", "V", d, diagonal.copy(), beside.copy(), vectors, d, integers=True):
        raise torch.linalg.LinAlgError("the eigenvectors of a second moment did not converge")
    return vectors[d - r :]
