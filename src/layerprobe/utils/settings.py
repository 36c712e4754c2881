"""Settings of the process that are changed for a while, and restored: threads, precision, modes of torch.

Every public entry point of the package computes under `default_settings`, and calls the user's model under
`outer_settings`: results do not depend on what the process has set.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ContextDecorator, ExitStack, contextmanager
from math import inf
from threading import Lock, local
from typing import Any, TypeVar

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import nn

Item = TypeVar("Item")
Result = TypeVar("Result")

SMALL = 1e8  # operations, a few milliseconds: starting threads takes longer than sharing the work saves


class Setting(ContextDecorator):
    """A setting of the process, for use in several Python threads at once: ``with setting: ...``.

    The first user changes it and the last one restores it. `read` returns its present values, `write` sets as
    many, and all of them are `value` inside the block.
    """

    def __init__(self, read: Callable[[], list], write: Callable[[list], None], value: object) -> None:
        self._read, self._write, self._value = read, write, value
        self._lock, self._users = Lock(), 0
        self.before: list = []  # values that the last user restores

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self.before = self._read()
                self._write([self._value] * len(self.before))
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._write(self.before)


def _write_precision(values: list) -> None:
    for product, precision in zip(_PRODUCTS, values, strict=True):
        product.fp32_precision = precision


_PRODUCTS: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
# `full_precision`, a block or decorator: float32 numbers are multiplied without TF32 and bfloat16.
if all(hasattr(product, "fp32_precision") for product in _PRODUCTS):
    full_precision = Setting(
        lambda: [product.fp32_precision for product in _PRODUCTS], _write_precision, "ieee"
    )
else:  # torch < 2.9
    full_precision = Setting(
        lambda: [torch.get_float32_matmul_precision()],
        lambda values: torch.set_float32_matmul_precision(values[0]),
        "highest",
    )
_HERE = local()  # `outer`: the caller's settings inside of `default_settings`; `single`: see `one_thread`
_DTYPE = Setting(
    lambda: [torch.get_default_dtype()], lambda values: torch.set_default_dtype(values[0]), torch.float32
)


@contextmanager
def default_settings(*, gradients: bool = False) -> Iterator[None]:
    """Compute with torch's and NumPy's default settings inside the block; serves as a decorator, too.

    Without autocast, inference mode, TF32 and bfloat16 products, and without gradients unless they are
    needed; float32 as the default dtype, the CPU as the default device. All of it is as it was afterwards.
    The user's model is called under `outer_settings`. Do not decorate a generator function: its body would
    run outside the block.
    """
    if getattr(_HERE, "outer", None) is not None:  # an entry point that another one calls
        with torch.set_grad_enabled(gradients):
            yield
        return
    device, gradients_before = torch.get_default_device(), torch.is_grad_enabled()
    with (
        torch.inference_mode(False),
        torch.set_grad_enabled(gradients),
        full_precision,
        _DTYPE,
        np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"),
        ExitStack() as stack,
    ):
        if device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        _HERE.outer = (device, _DTYPE.before[0], gradients_before)
        try:
            yield
        finally:
            _HERE.outer = None


@contextmanager
def outer_settings(*, gradients: bool = False) -> Iterator[None]:
    """Restore the caller's default dtype and device inside of `default_settings`, to call the user's model.

    A network that makes tensors in its forward pass was written for them. Autocast, inference mode and
    reduced precision, which change numbers and not types, stay off. `gradients` restores also the recording
    of gradients, to call other functions of the user.
    """
    outer = getattr(_HERE, "outer", None)
    device, dtype, gradients_before = outer or (torch.device("cpu"), torch.float32, False)
    if outer is None or ((device.type, dtype) == ("cpu", torch.float32) and not gradients):
        yield
        return
    recorded = gradients_before if gradients else torch.is_grad_enabled()
    _HERE.outer = None
    _DTYPE.__exit__()
    try:
        with torch.device(device), torch.set_grad_enabled(recorded):
            yield
    finally:
        _DTYPE.__enter__()
        _HERE.outer = outer


@contextmanager
def one_thread() -> Iterator[int]:
    """Run torch and BLAS with one thread inside the block; yield the earlier number of threads of torch."""
    if getattr(_HERE, "single", False):  # this Python thread is inside already, or works for one that is
        yield 1
        return
    with _SINGLE:
        own = torch.get_num_threads()
        before, _HERE.single = own if own > 1 else _THREADS[0], True
        torch.set_num_threads(1)  # of this Python thread: each has its own setting
        try:
            yield before
        finally:
            torch.set_num_threads(before)
            _HERE.single = False


def _read_threads() -> list[int]:
    _THREADS[0] = torch.get_num_threads()
    if not _LIBRARIES:
        _LIBRARIES.extend(ThreadpoolController().select(user_api="blas").lib_controllers)  # takes 10 ms
    return [library.num_threads for library in _LIBRARIES]


def _write_threads(counts: list[int]) -> None:
    for library, count in zip(_LIBRARIES, counts, strict=True):
        # threadpoolctl lets only one Python thread change OpenBLAS; the lock of Setting does the same.
        release = getattr(library, "clear_controlling_thread", lambda force: None)
        release(force=True)
        library.set_num_threads(count)
        release(force=True)


_LIBRARIES: list[Any] = []
_SINGLE = Setting(_read_threads, _write_threads, 1)
_THREADS = [0]  # torch's number of threads before the first user changed it


def parallel(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    device: torch.device | str = "cpu",
    operations: float = inf,
) -> list[Result]:
    """Map a function over items with one-thread workers, as many as torch's thread setting.

    A small eigendecomposition on several threads collapses on a busy machine (2 ms become 224 ms); several of
    them side by side, one thread each, do not.

    Parameters
    ----------
    function : callable
    items : sequence
    device : torch.device or str
        Work on other devices than the CPU is done item after item.
    operations : float
        Floating point operations of the whole work; small work is done item after item.
    """
    with one_thread() as threads, full_precision:
        workers = min(threads, len(items))
        if workers <= 1 or operations < SMALL or torch.device(device).type != "cpu":
            return [function(item) for item in items]
        with ThreadPoolExecutor(workers, initializer=setattr, initargs=(_HERE, "single", True)) as pool:
            return list(pool.map(function, items))


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module of a network in evaluation mode, and restore the mode of each afterwards.

    Parameters
    ----------
    model : nn.Module
    """
    training = {module: module.training for module in model.modules()}
    try:
        for module in training:
            module.training = False  # not .eval(), which models may override
        yield
    finally:
        for module, flag in training.items():
            module.training = flag


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seed torch's global generators from non-negative integers, and restore their states afterwards.

    Examples
    --------
    >>> with seeded(7):
    ...     first = torch.rand(2)
    """
    # Fork only a GPU in use: forking all of them would initialise every GPU.
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))
        yield
