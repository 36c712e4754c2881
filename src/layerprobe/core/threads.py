"""Thread discipline: small linear algebra runs with one thread, several pieces of it side by side."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

from layerprobe.core.precision import full_precision

__all__ = ["blas_like_torch", "one_thread", "parallel"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[int]:
    """Run torch and BLAS with one thread inside the block; yields torch's setting, and restores both."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _blas().limit(limits=1):
            yield before
    finally:
        torch.set_num_threads(before)


@contextmanager
def blas_like_torch() -> Iterator[None]:
    """Run BLAS with as many threads as torch inside the block; it has its own setting otherwise."""
    threads = torch.get_num_threads()
    if all(library.num_threads == threads for library in _blas().lib_controllers):
        yield  # workers of `parallel` come here: they must not undo each other's settings
        return
    with _blas().limit(limits=threads):
        yield


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")  # once: looking for the libraries takes 10 ms


def parallel(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Map `function` over `items` with one-thread workers, as many as the process's thread setting.

    A small eigendecomposition on several threads collapses on a busy machine (2 ms become 224 ms);
    several of them side by side, one thread each, do not.
    """
    with one_thread() as threads, full_precision():  # here, since workers would undo each other's settings
        workers = min(threads, len(items))
        if workers <= 1:
            return [function(item) for item in items]
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(function, items))
