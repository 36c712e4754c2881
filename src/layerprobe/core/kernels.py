"""Optional fast paths; each has a plain twin, a test that compares both and a row of benchmarks/core.csv.

`eigh_leading` computes only the wanted eigenvectors, `eigh_nonzero` leaves out features that are zero on all
rows. The plain twin of both is ``torch.linalg.eigh``.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import scipy.linalg.cython_lapack
import torch
from torch import Tensor

Pairs: TypeAlias = tuple[Tensor, Callable[[int], Tensor]]  # eigenvalues descending; r -> first r vectors

FEW = 6  # up to d / 6 eigenvectors are found singly, more by divide and conquer, which finds all


def eigh_nonzero(matrix: Tensor, eigh: Callable[[Tensor], Pairs]) -> Pairs:
    """Decompose a symmetric matrix without its zero rows and columns, those of features that are always zero.

    Parameters
    ----------
    matrix : Tensor of shape (d, d), float64
    eigh : callable
        Decomposes a symmetric positive semi-definite matrix.
    """
    d = len(matrix)
    nonzero = (matrix != 0).any(1)
    n_nonzero = int(nonzero.sum())
    if not n_nonzero:
        return eigh(matrix)
    values, inner = eigh(matrix[nonzero][:, nonzero])

    def basis(r: int) -> Tensor:
        vectors = matrix.new_zeros(r, d).T
        vectors[nonzero, : min(r, n_nonzero)] = inner(min(r, n_nonzero))
        axes = (~nonzero).nonzero().squeeze(1)[: max(0, r - n_nonzero)]
        vectors[axes, torch.arange(n_nonzero, n_nonzero + len(axes), device=axes.device)] = 1
        return vectors

    return torch.cat([values, matrix.new_zeros(d - n_nonzero)]), basis


def serves_eigh_leading(matrix: Tensor) -> bool:
    """Return whether :func:`eigh_leading` can decompose this matrix on this machine."""
    return matrix.device.type == "cpu" and _has_int_interface()


def eigh_leading(matrix: Tensor) -> Pairs:
    """Decompose a symmetric float64 matrix on the CPU; compute only the wanted eigenvectors.

    ``torch.linalg.eigh`` turns all d eigenvectors back from tridiagonal form. The single steps of LAPACK cost
    (4/3) d^3 operations for the tridiagonal form and 2 d^2 r for r eigenvectors. A LinAlgError says that it
    did not converge.
    """
    d = len(matrix)
    smallest, largest = matrix.aminmax()
    # LAPACK's drivers scale the matrix, its single steps do not.
    scale = 2.0 ** int(np.frexp(max(float(-smallest), float(largest)))[1])
    reduced = (matrix / scale).numpy()  # symmetric: rows are columns of LAPACK
    diagonal, beside, reflectors = np.empty(d), np.zeros(d), np.empty(d)
    _lapack("dsytrd", "L", d, reduced, d, diagonal, beside, reflectors, workspaces=1)
    ascending = diagonal.copy()
    _lapack("dsterf", d, ascending, beside.copy())

    def basis(r: int) -> Tensor:
        columns = _tridiagonal_vectors(diagonal, beside, r)
        _lapack("dormtr", "L", "L", "N", d, r, reduced, d, reflectors, columns, d, workspaces=1)
        return torch.from_numpy(columns).flip(0).T

    return torch.from_numpy(ascending * scale).flip(0).clamp(min=0), basis


def _tridiagonal_vectors(diagonal: np.ndarray, beside: np.ndarray, r: int) -> np.ndarray:
    """Return the eigenvectors of the r largest eigenvalues, one per row, ascending, (r, d)."""
    d = len(diagonal)
    if 0 < r <= d // FEW:
        vectors, found = np.empty((r, d)), np.zeros(1, np.intc)
        window = ["V", "I", d, diagonal.copy(), beside.copy(), 0.0, 0.0, d - r + 1, d]
        tail = [found, np.empty(d), vectors, d, r, np.empty(2 * r, np.intc), 1]
        _lapack("dstemr", *window, *tail, workspaces=2)
        if found[0] == r:
            return vectors
    vectors = np.empty((d, d))
    _lapack("dstevd", "V", d, diagonal.copy(), beside.copy(), vectors, d, workspaces=2)
    return vectors[d - r :].copy()


# SciPy's wrappers of these routines hold Python's lock while they compute, and it has none of dormtr.
# ctypes releases the lock, so that classes are decomposed in parallel.

_NUMBERS: dict[type, Callable[[Any], Any]] = {
    str: lambda text: ctypes.c_char(text.encode()),
    int: ctypes.c_int,
    float: ctypes.c_double,
}
_ROUTINES = ("dsytrd", "dsterf", "dormtr", "dstemr", "dstevd")


@cache
def _has_int_interface() -> bool:
    """Return whether the integers of SciPy's LAPACK are of the C type int, as its signatures say."""
    signatures = [_signature(name) for name in _ROUTINES]
    return all("int *" in text and not any(t in text for t in ("int64", "long")) for text in signatures)


def _signature(name: str) -> str:
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    capsule = scipy.linalg.cython_lapack.__pyx_capi__.get(name)
    return "" if capsule is None else api.PyCapsule_GetName(capsule).decode()


@cache
def _routine(name: str) -> Callable[..., None]:
    api = ctypes.pythonapi
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    capsule = scipy.linalg.cython_lapack.__pyx_capi__[name]
    return ctypes.CFUNCTYPE(None)(api.PyCapsule_GetPointer(capsule, _signature(name).encode()))


def _lapack(name: str, *arguments: Any, workspaces: int = 0) -> None:
    """Call a routine of LAPACK, all of whose arguments are pointers, the last ones workspaces and `info`."""
    info = ctypes.c_int(0)

    def call(*tail: Any) -> None:
        kept = [_NUMBERS.get(type(a), lambda a: a)(a) for a in (*arguments, *tail)]
        pointers = [
            ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.byref(a) for a in kept
        ]
        _routine(name)(*pointers, ctypes.byref(info))

    sizes = [np.zeros(1, kind) for kind in (np.float64, np.intc)[:workspaces]]
    if sizes:  # a first call with the size -1 returns the sizes needed
        call(*(value for size in sizes for value in (size, -1)))
        rooms = [np.empty(max(int(size[0]), 1), size.dtype) for size in sizes]
        call(*(value for room in rooms for value in (room, room.size)))
    else:
        call()
    if info.value:
        raise torch.linalg.LinAlgError(f"{name} of LAPACK failed with the code {info.value}")
