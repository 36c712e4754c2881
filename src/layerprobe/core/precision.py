"""Products of float32 numbers in float32: no TF32 and no bfloat16, whatever the process allows elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["full_precision"]


@contextmanager
def full_precision() -> Iterator[None]:
    """Multiply in full precision inside the block, on GPUs and CPUs; the settings found are restored.

    Also a decorator.
    """
    backends: Any = torch.backends
    if hasattr(backends.cuda.matmul, "fp32_precision"):  # torch >= 2.9; the older setting sets these too
        products = [backends.cuda.matmul, backends.mkldnn.matmul]
        before = [product.fp32_precision for product in products]
        try:
            for product in products:
                product.fp32_precision = "ieee"
            yield
        finally:
            for product, precision in zip(products, before, strict=True):
                product.fp32_precision = precision
    else:
        found = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(found)
