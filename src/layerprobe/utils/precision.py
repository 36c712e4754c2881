"""Products of float32 numbers in float32: no TF32 and no bfloat16, whatever the process allows elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from layerprobe.utils.process_settings import Setting

__all__ = ["full_precision"]

_PRECISION = Setting()


@contextmanager
def full_precision() -> Iterator[None]:
    """Multiply in full precision inside the block, on GPUs and CPUs; the settings found are restored.

    Also a decorator.
    """
    with _PRECISION.changed(_be_precise):
        yield


def _be_precise() -> Callable[[], None]:
    backends: Any = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):  # torch < 2.9
        found = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        return lambda: torch.set_float32_matmul_precision(found)
    products = [backends.cuda.matmul, backends.mkldnn.matmul]  # the older setting sets these too
    before = [product.fp32_precision for product in products]
    for product in products:
        product.fp32_precision = "ieee"

    def undo() -> None:
        for product, precision in zip(products, before, strict=True):
            product.fp32_precision = precision

    return undo
