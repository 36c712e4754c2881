"""From a layer output of any shape to one row of features a sample."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from layerprobe.errors import InputError
from layerprobe.layers.selecting import matches

__all__ = ["Pool", "check_pool", "pool_for", "to_rows"]

Pool = str | Callable[[Tensor], Tensor] | None | Mapping[str, Any]
"""One choice, or a mapping from glob patterns of layer names to choices."""


def _mean(x: Tensor) -> Tensor:
    return x.mean(_positions(x))


def _max(x: Tensor) -> Tensor:
    return x.amax(_positions(x))


def _first(x: Tensor) -> Tensor:
    return x[:, 0].clone()  # lets go of the other tokens


def _last(x: Tensor) -> Tensor:
    return x[:, -1].clone()


_POOLS = {"mean": _mean, "max": _max, "first": _first, "last": _last}


def check_pool(pool: Pool) -> None:
    """Raise an InputError for a choice that does not exist."""
    for choice in pool.values() if isinstance(pool, Mapping) else [pool]:
        if not (choice is None or callable(choice) or choice in _POOLS):
            raise InputError(
                f"expected pool to be None, a callable or one of {', '.join(_POOLS)}, got {choice!r}"
            )


def pool_for(pool: Pool, name: str) -> str | Callable[[Tensor], Tensor] | None:
    """Return the choice for one layer: of a mapping, the first pattern that matches."""
    if isinstance(pool, Mapping):
        return next((choice for pattern, choice in pool.items() if matches(name, pattern)), None)
    return pool


def to_rows(x: Tensor, choice: str | Callable[[Tensor], Tensor] | None, name: str) -> Tensor:
    """Pool a layer output `x` (n, ...) and flatten what is left: (n, d)."""
    size = len(x)
    if callable(choice):
        x = choice(x)
        if not isinstance(x, Tensor) or not x.ndim or len(x) != size:
            got = f"the shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(
                f"expected the pool function to return {size} rows for layer {name!r}, got {got}"
            )
    elif choice is not None and x.ndim > 2:
        if choice in ("first", "last") and x.ndim != 3:
            raise InputError(
                f"pool={choice!r} takes a token from (n, tokens, channels), but layer {name!r} has the shape "
                f"{tuple(x.shape)}; take 'mean', 'max' or a callable"
            )
        x = _POOLS[choice](x)
    return x.reshape(size, math.prod(x.shape[1:]))  # (n, d)


def _positions(x: Tensor) -> tuple[int, ...]:
    """Return the dimensions of the tokens (n, t, c), or of the spatial positions (n, c, h, w)."""
    return (1,) if x.ndim == 3 else tuple(range(2, x.ndim))
