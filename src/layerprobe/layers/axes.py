"""Follow the dimension of the channels through the operations of a forward pass."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakTensorKeyDictionary

# fmt: off
# Operations that take and give channels in the last dimension.
FEATURES_LAST = {
    "linear", "bilinear", "embedding", "layer_norm", "rms_norm", "multi_head_attention_forward",
    "rnn_tanh", "rnn_relu", "gru", "lstm", "pad_packed_sequence",
}
# Operations that take and give channels in dimension 1; convolutions and pooling have their own rule.
CHANNELS_FIRST = {
    "batch_norm", "group_norm", "instance_norm", "local_response_norm",
    "interpolate", "upsample", "pixel_shuffle",
}
PERMUTATIONS = {"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "T", "mT"}
RESHAPES = {"reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "reshape_as", "view_as"}
REDUCTIONS = {"mean", "sum", "amax", "amin", "max", "min", "std", "var", "logsumexp", "select"}
PRODUCTS = {"matmul", "mm", "bmm", "einsum", "baddbmm", "tensordot"}
# Operations on all channels alike, although the shape may change.
SLICES = {
    "cat", "concat", "pad", "repeat", "getitem", "narrow", "chunk", "split", "expand", "index_select", "glu",
}
# fmt: on
SPATIAL = re.compile(r"(conv|conv_transpose|\w*pool)(\d)d")


class ChannelAxis:
    """The dimension of the channels of one tensor, once an operation shows it.

    Attributes
    ----------
    dim : int or None
    """

    def __init__(self, dim: int | None = None) -> None:
        self.dim = dim
        self._links: list[tuple[ChannelAxis, Callable[[int], int | None]]] = []

    def settle(self, dim: int | None) -> None:
        """Set the dimension, unless it is known, also for the tensors that have the same channels."""
        if self.dim is None and dim is not None:
            self.dim = dim
            for other, convert in self._links:
                other.settle(convert(dim))

    def link(
        self, other: "ChannelAxis", there: Callable[[int], int | None], back: Callable[[int], int | None]
    ) -> None:
        """Let two tensors of the same channels share what is known.

        Parameters
        ----------
        other : ChannelAxis
        there, back : callable
            Convert a dimension of this tensor to one of the other, and back; None where there is none.
        """
        self._links.append((other, there))
        other._links.append((self, back))
        if self.dim is not None:
            other.settle(there(self.dim))
        elif other.dim is not None:
            self.settle(back(other.dim))


class ChannelAxes:
    """The dimensions of the channels of all tensors of one forward pass."""

    def __init__(self) -> None:
        self._axes = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor) -> ChannelAxis:
        """Return the axis of a tensor."""
        if tensor not in self._axes:
            self._axes[tensor] = ChannelAxis()
        return self._axes[tensor]

    def follow(self, name: str, func: Callable, args: tuple, kwargs: Mapping[str, Any], result: Any) -> None:
        """Note what one operation shows of its inputs and its result.

        Parameters
        ----------
        name : str
            Of the operation, without underscores at its ends.
        func : callable
        args, kwargs
            Its arguments.
        result
            A tensor, or a tuple of them.
        """
        inputs = [x for x in (*args[:3], *kwargs.values()) if isinstance(x, Tensor)]
        if args and isinstance(args[0], tuple | list):
            inputs += [x for x in args[0] if isinstance(x, Tensor)]
        results = [
            y for y in (result if isinstance(result, tuple | list) else [result]) if isinstance(y, Tensor)
        ]
        if not inputs or not results or any(is_lazy(x) or x.is_nested for x in (*inputs, *results)):
            return
        x, y = inputs[0], results[0]
        if y is x:
            return
        if (spatial := SPATIAL.match(name)) is not None:
            before = x.ndim - 1 - int(spatial[2])
            if spatial[1].startswith("conv") or self.of(x).dim is None:
                self.of(x).settle(before)
                self.of(y).settle(y.ndim - 1 - int(spatial[2]))
            else:
                self._same(x, y)
        elif name in CHANNELS_FIRST and x.ndim == y.ndim > 1:
            self.of(x).settle(1)
            self._same(x, y)
        elif name in FEATURES_LAST:
            self._features_last(name, args, kwargs, x, y)
        elif name in PERMUTATIONS and args and args[0] is x:
            # the same permutation of dimensions that differ shows where each dimension goes
            sizes = func(torch.empty(tuple(range(2, x.ndim + 2)), device="meta"), *args[1:], **kwargs).shape
            order = [size - 2 for size in sizes]
            self.of(x).link(self.of(y), order.index, order.__getitem__)
        elif (name in REDUCTIONS or name == "getitem") and y.ndim < x.ndim:
            kept = _kept(x, args[1] if len(args) > 1 else kwargs.get("dim"), indexed=name == "getitem")
            if len(kept) == y.ndim:
                self.of(x).link(
                    self.of(y), lambda dim: kept.index(dim) if dim in kept else None, kept.__getitem__
                )
        elif name in RESHAPES:
            one, other = tuple(x.shape), tuple(y.shape)
            self.of(x).link(self.of(y), _regrouped(one, other), _regrouped(other, one))
        elif name in PRODUCTS:
            second = inputs[1] if len(inputs) > 1 and name != "einsum" else None
            fits = self.of(x).dim in (None, x.ndim - 1)
            if second is not None and fits and second.ndim == 2:
                self.of(x).settle(x.ndim - 1)
                self.of(y).settle(y.ndim - 1)
            elif second is not None and self.of(second).dim == second.ndim - 1:  # attention weights by values
                self.of(y).settle(y.ndim - 1)
        else:
            alike = [x for x in inputs if x.shape == y.shape or (name in SLICES and x.ndim == y.ndim)]
            if len({self.of(x).dim for x in alike} - {None}) < 2:
                for x in alike:
                    for y in results:
                        if x.ndim == y.ndim:
                            self._same(x, y)

    def _same(self, x: Tensor, y: Tensor) -> None:
        self.of(x).link(self.of(y), int, int)

    def _features_last(self, name: str, args: tuple, kwargs: Mapping[str, Any], x: Tensor, y: Tensor) -> None:
        if name == "embedding":
            self.of(y).settle(y.ndim - 1)
            return
        if name in ("layer_norm", "rms_norm"):
            shape = kwargs.get("normalized_shape", args[1] if len(args) > 1 else ())
            if len(shape) == 1:
                self.of(x).settle(x.ndim - 1)
            self._same(x, y)
            return
        self.of(x).settle(x.ndim - 1)
        if self.of(x).dim == x.ndim - 1 or name == "pad_packed_sequence":
            self.of(y).settle(y.ndim - 1)


def _kept(x: Tensor, which: Any, indexed: bool) -> list[int]:
    """Return the dimensions that remain after a reduction over some, or after an index; none if unknown."""
    if not indexed:
        dims = [
            dim % x.ndim for dim in (which if isinstance(which, tuple | list) else [which]) if dim is not None
        ]
        return [dim for dim in range(x.ndim) if dim not in dims]
    index = list(which) if isinstance(which, tuple) else [which]
    if any(not isinstance(one, int | slice) and one is not ... for one in index):
        return []
    place = index.index(...) if ... in index else len(index)
    index[place : place + 1] = [slice(None)] * (x.ndim - len(index) + (... in index))
    return [dim for dim, one in enumerate(index) if isinstance(one, slice)]


def _regrouped(before: tuple[int, ...], after: tuple[int, ...]) -> Callable[[int], int | None]:
    """Return a function from a dimension to the same one after a reshape of the others."""

    def convert(dim: int) -> int | None:
        if after[: dim + 1] == before[: dim + 1]:
            return dim
        rest = before[dim:]
        return len(after) - len(rest) if after[len(after) - len(rest) :] == rest else None

    return convert
