"""SciPy's BLAS and LAPACK, called by their addresses.

SciPy's own wrappers keep Python's lock while they compute, and classes that are fitted side by side would
wait for each other; a call by address, as Numba makes it, lets go of the lock.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import scipy.linalg.cython_blas as blas
import scipy.linalg.cython_lapack as lapack
from torch import Tensor

__all__ = ["call"]

_NUMBERS: dict[type, Callable[[Any], Any]] = {
    str: lambda text: ctypes.c_char(text.encode()),
    int: ctypes.c_int,
    float: ctypes.c_double,
}


def call(name: str, *arguments: Any) -> None:
    """Call a routine, whose arguments all are pointers.

    Parameters
    ----------
    name : str
        Of a routine of BLAS or LAPACK, for instance "dsytrd".
    *arguments : str, int, float, ctypes number, ndarray or Tensor
        Passed by address, a float as a double. Arrays must live on the CPU and have the layout that the
        routine expects: nothing is checked.
    """
    held = [_NUMBERS.get(type(a), lambda a: a)(a) for a in arguments]  # alive until the routine is done
    _routine(name)(*map(_pointer, held))


def _pointer(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, np.ndarray):
        return ctypes.c_void_p(argument.ctypes.data)
    return ctypes.byref(argument)


@cache
def _routine(name: str) -> Callable[..., None]:
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    routines = lapack.__pyx_capi__ if name in lapack.__pyx_capi__ else blas.__pyx_capi__
    capsule = routines[name]
    return ctypes.CFUNCTYPE(None)(api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule)))
