"""Pooling policies: from a layer output of any shape to one row of features per sample."""

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from layerprobe.errors import InputError

Pool = str | Callable[[Tensor], Tensor] | None | Mapping[str, Any]
"""One policy for all layers, or a mapping from glob patterns of layer names to policies."""

COMPACT_FEATURES = 1024
"""The policy "compact" averages feature maps until they have at most so many numbers per sample."""


def _mean(x: Tensor, mask: Any) -> Tensor:
    return x.mean(_positions(x))


def _max(x: Tensor, mask: Any) -> Tensor:
    return x.amax(_positions(x))


def _first(x: Tensor, mask: Any) -> Tensor:
    return x[:, 0].clone()  # a view would keep the other tokens in memory


def _last(x: Tensor, mask: Any) -> Tensor:
    return x[:, -1].clone()


def _compact(x: Tensor, mask: Any) -> Tensor:
    """Average tokens (n, t, c) under the mask (n, t); average large feature maps (n, c, h, w) by blocks."""
    if x.ndim == 3:
        if mask is None or tuple(mask.shape) != tuple(x.shape[:2]):
            return x.mean(1)
        weights = torch.as_tensor(np.asarray(mask) if not isinstance(mask, Tensor) else mask)
        weights = weights.to(x.device, x.dtype)[..., None]  # (n, t, 1)
        return (x * weights).sum(1) / weights.sum(1).clamp(min=1)
    if x.ndim == 4 and math.prod(x.shape[1:]) > COMPACT_FEATURES:
        side = max(1, math.isqrt(COMPACT_FEATURES // x.shape[1]))
        return adaptive_avg_pool2d(x, (min(side, x.shape[2]), min(side, x.shape[3])))
    return x


_POLICIES = {"mean": _mean, "max": _max, "first": _first, "last": _last, "compact": _compact}


def matches(name: str, pattern: str) -> bool:
    """Return whether a layer name matches a glob pattern; a name always matches itself, brackets or not.

    Parameters
    ----------
    name, pattern : str
    """
    return name == pattern or fnmatchcase(name, pattern)


def check_pool(pool: Pool) -> None:
    """Raise an InputError for an unknown pooling policy."""
    for policy in pool.values() if isinstance(pool, Mapping) else [pool]:
        if not (policy is None or callable(policy) or policy in _POLICIES):
            raise InputError(
                f"expected pool to be None, a callable or one of {', '.join(_POLICIES)}, got {policy!r}"
            )


def pool_for(pool: Pool, name: str) -> str | Callable[[Tensor], Tensor] | None:
    """Return the policy for one layer: that of the first matching pattern of a mapping.

    Parameters
    ----------
    pool : str, callable, mapping or None
    name : str
        Name of the layer.
    """
    if isinstance(pool, Mapping):
        return next((policy for pattern, policy in pool.items() if matches(name, pattern)), None)
    return pool


def to_rows(
    x: Tensor, policy: str | Callable[[Tensor], Tensor] | None, name: str, mask: Any = None
) -> Tensor:
    """Pool a layer output and flatten the rest.

    Parameters
    ----------
    x : Tensor of shape (n, ...)
    policy : str, callable or None
    name : str
        Name of the layer, for error messages.
    mask : array or Tensor of shape (n, t), optional
        Attention mask of the batch, which the policy "compact" uses.

    Returns
    -------
    Tensor of shape (n, d)

    Raises
    ------
    InputError
        If a callable returns anything but n rows, or the layer has no tokens to take one from.
    """
    size = len(x)
    if callable(policy):
        x = policy(x)
        if not isinstance(x, Tensor) or not x.ndim or len(x) != size:
            got = f"the shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(
                f"expected the pool function to return {size} rows for layer {name!r}, got {got}"
            )
    elif policy is not None and x.ndim > 2:
        if policy in ("first", "last") and x.ndim != 3:
            raise InputError(
                f"pool={policy!r} takes a token from (n, tokens, channels), but layer {name!r} has the shape "
                f"{tuple(x.shape)}; take 'mean', 'max' or a callable"
            )
        x = _POLICIES[policy](x, mask)
    return flatten_output(x)


def flatten_output(x: Tensor) -> Tensor:
    """Flatten (n, ...) to (n, d); a vector (n,) becomes (n, 1)."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def _positions(x: Tensor) -> tuple[int, ...]:
    """Return the dimensions of the tokens of (n, t, c), or of the positions of (n, c, h, w)."""
    return (1,) if x.ndim == 3 else tuple(range(2, x.ndim))
