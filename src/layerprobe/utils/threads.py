"""Thread discipline: small linear algebra runs with one thread, several pieces of it side by side."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import local
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

from layerprobe.utils.precision import full_precision
from layerprobe.utils.process_settings import Setting

__all__ = ["blas_like_torch", "one_thread", "parallel"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_TORCH, _BLAS = Setting(), Setting()
_FOUND = [0]  # torch's number of threads as the first found it; who comes later may see that one's 1
_HERE = local()  # whether this Python thread is inside of `one_thread`, or works for one that is


@contextmanager
def one_thread() -> Iterator[int]:
    """Run torch and BLAS with one thread inside the block; yields torch's setting, and restores both."""
    if getattr(_HERE, "single", False):
        yield 1
        return
    with _TORCH.changed(_find_threads), _BLAS.changed(lambda: _limit_blas(1)):
        own = torch.get_num_threads()
        before, _HERE.single = own if own > 1 else _FOUND[0], True
        torch.set_num_threads(1)  # of this Python thread: each has its own
        try:
            yield before
        finally:
            torch.set_num_threads(before)
            _HERE.single = False


@contextmanager
def blas_like_torch() -> Iterator[None]:
    """Run BLAS with as many threads as torch inside the block; it has its own setting otherwise."""
    threads = torch.get_num_threads()
    if all(library.num_threads == threads for library in _libraries().lib_controllers):
        yield
        return
    with _BLAS.changed(lambda: _limit_blas(threads)):
        yield


def _find_threads() -> Callable[[], None]:
    _FOUND[0] = torch.get_num_threads()
    return lambda: None


def _limit_blas(threads: int) -> Callable[[], None]:
    before = [library.num_threads for library in _libraries().lib_controllers]
    _set_blas([threads] * len(before))
    return lambda: _set_blas(before)


def _set_blas(counts: Sequence[int]) -> None:
    for library, count in zip(_libraries().lib_controllers, counts, strict=True):
        # threadpoolctl lets one Python thread alone change OpenBLAS; here it is one at a time.
        release = getattr(library, "clear_controlling_thread", lambda force: None)
        release(force=True)
        library.set_num_threads(count)
        release(force=True)


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")  # once: looking for the libraries takes 10 ms


def parallel(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Map `function` over `items` with one-thread workers, as many as the process's thread setting.

    A small eigendecomposition on several threads collapses on a busy machine (2 ms become 224 ms);
    several of them side by side, one thread each, do not.
    """
    with one_thread() as threads, full_precision():
        workers = min(threads, len(items))
        if workers <= 1:
            return [function(item) for item in items]
        with ThreadPoolExecutor(workers, initializer=setattr, initargs=(_HERE, "single", True)) as pool:
            return list(pool.map(function, items))
