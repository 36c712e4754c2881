"""capture(): the outputs of chosen layers of a model for a data set, in one pass."""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d

from layerprobe.core.checks import check_count
from layerprobe.errors import InputError, LayerError, LayerprobeWarning, warn
from layerprobe.layers.batches import (
    Batch,
    Column,
    count_rows,
    forward_signature,
    join,
    named_tensors,
    read_batches,
)
from layerprobe.layers.tracing import LayerSite, Trace, Tracer, device_and_dtype, unchanged
from layerprobe.utils.settings import default_settings, outer_settings

Consumer = Callable[[dict[str, Tensor], Column | None, Column | None], object]

Pool = str | Callable[[Tensor], Tensor] | None | Mapping[str, Any]
"""One policy for all layers, or a mapping from glob patterns of layer names to policies."""

COMPACT_FEATURES = 1024
"""The policy "compact" averages feature maps until they have at most so many numbers per sample."""


def matches(name: str, pattern: str) -> bool:
    """Return whether a layer name matches a glob pattern; a name always matches itself, brackets or not.

    The part "_orig_mod" in names of compiled modules may be left out.

    Parameters
    ----------
    name, pattern : str
    """
    pattern = pattern.replace("_orig_mod.", "")
    return name == pattern or fnmatchcase(name, pattern)


class OptionalPattern(str):
    """A pattern of layer names that need not match any layer."""

    __slots__ = ()


def layer_patterns(layers: str | Iterable[str | EllipsisType] | None) -> list[str | EllipsisType]:
    """Return the argument `layers` as a list of names or patterns, and ... for the default."""
    several = isinstance(layers, Iterable) and not isinstance(layers, str | Mapping | nn.Module)
    chosen: list[Any] = [...] if layers is None else list(layers) if several else [layers]
    for name in chosen:
        if name is not ... and not isinstance(name, str):
            hint = f"write {str(name)!r}" if isinstance(name, int) else "list_layers shows the names"
            raise InputError(f"expected names or patterns of layers, got {name!r:.80}; {hint}")
    if not chosen:
        raise InputError("expected at least one layer or pattern, got none; layers=None takes the default")
    return chosen


class Selection:
    """The chosen layers: found in the first batch, required in every other.

    Parameters
    ----------
    layers : str, iterable of str or ..., or None
        Names or glob patterns. None or ``...`` is the default: the input (unless it is token ids) and the
        output of every nonlinearity; in a model without any, of every module without children, except the
        head.
    """

    def __init__(self, layers: str | Iterable[str | EllipsisType] | None) -> None:
        chosen = layer_patterns(layers)
        self.default = ... in chosen
        self.patterns = [pattern for pattern in chosen if isinstance(pattern, str)]
        self.names: list[str] | None = None
        self._seen_nonlinearity = False

    def wants(self, site: LayerSite) -> bool:
        """Return whether a layer is chosen, or may be chosen at the end of the forward pass."""
        if self.names is not None:
            return site.name in self.names
        if any(matches(site.name, pattern) for pattern in self.patterns):
            return True
        if not self.default:
            return False
        self._seen_nonlinearity |= site.nonlinear
        return site.nonlinear or _is_features(site) or (site.leaf and not self._seen_nonlinearity)

    def settle(self, trace: Trace, number: int) -> list[str]:
        """Return the names of the chosen layers in order of execution.

        Raise if a pattern matches no layer, or the layers differ from those of the first batch.

        Parameters
        ----------
        trace, number
            Of one batch, counted from 1.
        """
        if self.names is None:
            _require_matches(self.patterns, trace.sites, trace.opaque)
            self.names = self._choose(trace)
            if self.default and trace.opaque:
                warn(_opaque_note(trace.opaque), LayerprobeWarning)
        chosen = self._choose(trace)
        if missing := [name for name in self.names if name not in chosen]:
            reasons = (site.obstacle for site in trace.sites if site.name == missing[0])
            raise LayerError(
                f"layer {missing[0]!r} gave rows in batch 1 but not in batch {number}: "
                f"{next(reasons, 'it did not run')}; choose layers that every batch runs"
            )
        if extra := [name for name in chosen if name not in self.names]:
            raise LayerError(
                f"layer {extra[0]!r} gave rows in batch {number} but not in batch 1; "
                "choose layers that every batch runs"
            )
        return self.names

    def _choose(self, trace: Trace) -> list[str]:
        sites = [site for site in trace.sites if site.obstacle is None]
        names = {s.name for s in sites if any(matches(s.name, pattern) for pattern in self.patterns)}
        if self.default:
            nonlinear = any(site.nonlinear for site in sites)
            head = (trace.head, "output")
            names |= {
                site.name
                for site in sites
                if _is_features(site)
                or (site.nonlinear if nonlinear else site.leaf and site.name not in head)
            }
        return [site.name for site in sites if site.name in names]


def _require_matches(patterns: Iterable[str], sites: list[LayerSite], opaque: Sequence[str] = ()) -> None:
    """Raise a LayerError if a pattern matches no layer, or only layers that cannot be captured."""
    names = [site.name for site in sites if site.obstacle is None]
    for pattern in patterns:
        if isinstance(pattern, OptionalPattern) or any(matches(name, pattern) for name in names):
            continue
        for site in sites:
            if matches(site.name, pattern):
                raise LayerError(f"layer {site.name!r} cannot be captured: {site.obstacle}")
        near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
        raise LayerError(
            f"no layer matches {pattern!r}"
            + (f"; near it are {', '.join(map(repr, near))}" if near else "")
            + f"; list_layers(model, batch) shows all {len(names)}"
            + (f"; {_opaque_note(opaque)}" if opaque else "")
        )


def _opaque_note(opaque: Sequence[str]) -> str:
    name = f"layer {opaque[0]!r}" if opaque[0] else "the network"
    return (
        f"{name} is a module of torch.jit, whose inner layers cannot be observed: use the original nn.Module"
    )


def _is_features(site: LayerSite) -> bool:
    """Return whether a layer is the input and holds features, as images do and token ids do not."""
    return site.name == "input" and (site.dtype.is_floating_point or site.dtype is torch.uint8)


POLICIES = ("mean", "max", "first", "last", "compact")


def check_pool(pool: Pool) -> None:
    """Raise an InputError for an unknown pooling policy."""
    for policy in pool.values() if isinstance(pool, Mapping) else [pool]:
        if not (policy is None or callable(policy) or (isinstance(policy, str) and policy in POLICIES)):
            raise InputError(
                f"expected pool to be None, a callable or one of {', '.join(POLICIES)}, got {policy!r}"
            )


def _policy(pool: Pool, name: str) -> str | Callable[[Tensor], Tensor] | None:
    """Return the policy for one layer: that of the first matching pattern, or the one for all layers.

    A policy by name for all layers leaves the raw input as it is, except "compact".
    """
    pattern, policy = "*", pool
    if isinstance(pool, Mapping):
        pattern, policy = next(((p, one) for p, one in pool.items() if matches(name, p)), ("", None))
    raw = pattern == "*" and name.split(".")[0] == "input" and isinstance(policy, str)
    return None if raw and policy != "compact" else policy  # type: ignore[return-value]


class _AxesError(LayerError):
    """The dimensions of an output are not known: the policy "compact" leaves it whole."""


LENGTHS = re.compile(r"(lengths?|lens|(^|[_.])(len|n(um)?_tokens))$")


class _Padding:
    """The padding of one batch of token sequences.

    Masks are inputs called ``*attention_mask``, true for tokens, and ``*padding_mask`` or ``*pad_mask``, true
    for padding; inputs called ``*length``, ``*lengths``, ``*_len``, ``*lens`` or ``*_tokens`` count the
    tokens. Without such an input, the values of other inputs decide, if the rest of each row is constant:
    whole numbers (b,) within 1..t are lengths; true and false, or 1 and 0, (b, t), are a mask, also under a
    name such as ``mask``, of tokens or of padding. Lengths as shares of the longest row are an error.
    """

    def __init__(self, tracer: Tracer, batch: Batch) -> None:
        self.tracer = tracer
        self.masks: list[Tensor] = []  # true for tokens
        self.unknown: list[tuple[int | None, str]] = []  # number of tokens, if known; reason
        inputs = batch.inputs
        if isinstance(inputs, tuple):
            signature = forward_signature(tracer.model)
            inputs = dict(zip([] if signature is None else signature.parameters, inputs, strict=False))
        named = named_tensors(inputs)
        named = named[1:] if len(named) > 1 else named  # the main one is listed again by its name
        by_row = {key[1:].lower(): x for key, x in named if x.shape[:1] == (batch.size,)}
        columns = {name: x for name, x in by_row.items() if x.ndim == 1}
        tables = {name: x for name, x in by_row.items() if x.ndim > 1}
        masks = {name: x for name, x in tables.items() if "mask" in name.rpartition(".")[2]}
        sequences = {name: x for name, x in tables.items() if name not in masks}
        candidates = {}  # (b, t), true or false
        self.lengths = []
        for name, x in columns.items():
            if not LENGTHS.search(name):
                continue
            if x.is_floating_point() and (x.max() <= 1 or (x != x.trunc()).any()):
                self.unknown.append((None, f"{name!r} holds shares or measures, not whole numbers of tokens"))
            else:
                self.lengths.append(x)
        self.tokens = {x.shape[1] for x in sequences.values()}
        for name, mask in masks.items():
            is_constant = bool((mask == mask.flatten()[:1]).all())
            of_tokens = name.endswith("attention_mask")
            of_padding = name.endswith(("padding_mask", "pad_mask"))
            added = mask.is_floating_point() and not (mask > 0).any()  # to scores, 0 for tokens, else -inf
            if mask.ndim == 2 and (of_padding or (added and (of_tokens or (mask < -100).any()))):
                self.masks.append(mask == 0)
            elif mask.ndim == 2 and of_tokens:
                self.masks.append(mask != 0)
            elif mask.ndim == 2 and not is_constant:
                candidates[name] = mask != 0
            elif not is_constant:
                message = (
                    f"{name!r} has the shape {tuple(mask.shape)}, which does not show which tokens are "
                    "padding: a mask of tokens has the shape (n, tokens)"
                )
                self.unknown.append((None, message))
        if not (self.masks or self.lengths or self.unknown or candidates):
            self._find_by_values(columns, sequences)
        for name, mask in candidates.items():
            self._decide_mask(name, mask, sequences.values(), certain=True)

    def _find_by_values(self, columns: Mapping[str, Tensor], sequences: Mapping[str, Tensor]) -> None:
        """Find lengths and masks among inputs of other names."""
        masks = {
            name: value != 0
            for name, value in sequences.items()
            if value.ndim == 2 and not name.endswith("ids") and ((value == 0) | (value == 1)).all()
        }
        tokens = [value for name, value in sequences.items() if name not in masks]
        for name, value in columns.items():
            if value.is_floating_point() or value.dtype is torch.bool:
                continue
            for x in tokens:
                t = x.shape[1]
                if value.min() < 1 or value.max() > t or (value == t).all():
                    continue
                mask = torch.arange(t, device=value.device) < value[:, None]
                if _is_constant(x, ~mask):
                    self.lengths.append(value)
                    break
                if value.max() == t:
                    message = f"it is not known if {name!r} counts the tokens of a row: call it lengths if so"
                    self.unknown.append((t, message))
        for name, mask in masks.items():
            self._decide_mask(name, mask, tokens, certain=False)

    def _decide_mask(self, name: str, mask: Tensor, tokens: Iterable[Tensor], *, certain: bool) -> None:
        """Add an input (b, t) of true and false by its values, as a mask of tokens or of padding.

        Without `certain`, it may be no mask at all, as by its name.
        """
        alike = [x for x in tokens if x.shape[1] == mask.shape[1]]
        if not certain and (not alike or mask.all()):
            return
        steps = (mask[:, :-1] != mask[:, 1:]).sum(1)
        padding = any(_is_constant(x, ~mask) for x in alike), any(_is_constant(x, mask) for x in alike)
        # Rows that all begin with true, some of them full, are padded on the right.
        right = bool(mask[:, 0].all()) and bool(mask.all(1).any() or not certain)
        of_padding = certain and padding == (False, True) and bool((~mask).any(1).all())
        if (steps <= 1).all() and mask.any(1).all() and not padding[1] and (padding[0] or right):
            self.masks.append(mask)
        elif (steps <= 1).all() and of_padding:
            self.masks.append(~mask)
        else:
            message = (
                f"it is not known if {name!r} is a mask of the tokens: call it attention_mask if it is "
                "true for tokens, or padding_mask if it is true for padding"
            )
            self.unknown.append((mask.shape[1], message))

    def mask(self, tokens: int) -> Tensor | None:
        """Return which of so many tokens are no padding, (n, t), or None if all are; raise if not known."""
        if self.tracer.makes_mask and not self.masks and not self.lengths:
            raise LayerError("the network finds padding by itself, and no input of the batch shows it")
        for t, message in self.unknown:  # a table (n, t) beside sequences of another length matters only to t
            if t in (None, tokens) or tokens not in self.tokens:
                raise LayerError(message)
        masks = [mask for mask in self.masks if mask.shape[1] == tokens]
        masks += [
            torch.arange(tokens, device=lengths.device) < lengths[:, None]
            for lengths in self.lengths
            if lengths.max() == tokens or (lengths.max() < tokens and tokens in self.tokens)
        ]
        padded = [mask for mask in self.masks if not mask.all()]
        padded += [lengths for lengths in self.lengths if (lengths != lengths[0]).any()]
        if padded and not masks and tokens not in self.tokens:
            raise _AxesError(f"{tokens} tokens are not those of the inputs, of which some are padding")
        if any(not torch.equal(mask, masks[0]) for mask in masks):
            raise LayerError("the batch has several masks")
        return masks[0] if masks and not masks[0].all() else None


def _is_constant(x: Tensor, where: Tensor) -> bool:
    """Return whether x (b, t, ...) has one value at all chosen positions (b, t), and others elsewhere."""
    chosen = x[where.to(x.device)]
    return bool(len(chosen)) and bool((chosen == chosen[0]).all()) and not bool((x == chosen[0]).all())


def _to_rows(
    x: Tensor, policy: str | Callable[[Tensor], Tensor] | None, site: LayerSite, padding: _Padding | None
) -> Tensor:
    """Pool a layer output (n, ...), and flatten the rest: (n, d); `padding` is None if it is not known."""
    size = len(x)
    if callable(policy):
        x = policy(x)
        if not isinstance(x, Tensor) or not x.ndim or len(x) != size:
            got = f"the shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(
                f"expected the pool function to return {size} rows for layer {site.name!r}, got {got}"
            )
    elif policy is not None and x.ndim > 2:
        try:
            x = _pooled(x, policy, site.channels, padding)
        except LayerError as error:
            if policy == "compact" and isinstance(error, _AxesError):
                return flatten_output(x)
            raise LayerError(
                f"pool={policy!r} cannot be applied to layer {site.name!r}, {tuple(x.shape)}: {error}; "
                f"give it a function, as pool={{{site.name!r}: lambda x: x.mean(1)}}, which averages over "
                "dimension 1 with all padding in it, or None to flatten it"
            ) from error
    return flatten_output(x)


def _pooled(x: Tensor, policy: str, channels: int | None, padding: _Padding | None) -> Tensor:
    if channels is None:
        raise _AxesError("it is not known which dimension is the channels'")
    x = x.movedim(channels, 1)  # (n, c, positions)
    if x.ndim > 3:
        if policy in ("first", "last"):
            raise LayerError("a token is taken from (n, tokens, channels)")
        if policy != "compact":
            return x.flatten(2).mean(2) if policy == "mean" else x.flatten(2).amax(2)
        return _blocks(x) if math.prod(x.shape[1:]) > COMPACT_FEATURES else x
    mask = None if padding is None else padding.mask(x.shape[2])
    if mask is None:
        if policy in ("first", "last"):
            return x[:, :, 0 if policy == "first" else -1].clone()  # a view would keep all tokens in memory
        return x.amax(2) if policy == "max" else x.mean(2)
    mask = mask.to(x.device)
    if policy in ("first", "last"):
        token = (
            mask.int().argmax(1) if policy == "first" else mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
        )
        return x[torch.arange(len(x), device=x.device), :, token]
    if policy == "max":
        return x.masked_fill(~mask[:, None], -math.inf).amax(2).where(mask.any(1)[:, None], 0)
    return x.masked_fill(~mask[:, None], 0).sum(2) / mask.sum(1, keepdim=True).clamp(min=1)


def _blocks(x: Tensor) -> Tensor:
    """Average feature maps (n, c, positions) over blocks of positions, to at most `COMPACT_FEATURES`."""
    side = max(1, math.floor((COMPACT_FEATURES / x.shape[1]) ** (1 / (x.ndim - 2)) + 1e-9))
    sides: Any = [min(side, length) for length in x.shape[2:]]
    return adaptive_avg_pool2d(x, sides) if x.ndim == 4 else adaptive_avg_pool3d(x, sides)


def flatten_output(x: Tensor) -> Tensor:
    """Flatten (n, ...) to (n, d); a vector (n,) becomes (n, 1)."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


@dataclass(frozen=True, eq=False, repr=False)
class CaptureResult:
    """Layer outputs for n rows, in the order of the batches.

    Attributes
    ----------
    outputs : dict of str to Tensor (n, d)
        One CPU tensor per layer, in order of execution; empty if a `consume` function took them.
    labels, indices : Tensor (n,), numpy.ndarray (n,) or None
        As the batches gave them: integers as int64, strings as a NumPy array; None if not given.
    """

    outputs: dict[str, Tensor]
    labels: Column | None
    indices: Column | None

    def __repr__(self) -> str:
        layers = ", ".join(f"{name} {tuple(rows.shape)}" for name, rows in self.outputs.items())
        return f"CaptureResult({layers or 'no outputs held'})"


@default_settings()
def capture(
    model: nn.Module,
    batches: Any,
    layers: str | Iterable[str | EllipsisType] | None = None,
    *,
    pool: Pool = None,
    batch_size: int = 512,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    consume: Consumer | None = None,
) -> CaptureResult:
    """Capture the outputs of any layers of any model, all of them in one forward pass per batch.

    The model runs in eval mode and without gradients; code of torch.compile is not used. Its training flags,
    parameters, buffers, attributes, hooks and torch's random state are as before afterwards, also when an
    exception is raised. Outputs are copied at once, so that a later in-place operation does not change them.

    The first batch is run with fewer rows, too. The dimension that changes is that of the rows, wherever it
    is: in the output of a recurrent layer with time first it is the second. Outputs without such a dimension,
    such as weights, masks and tables of positions, are no layers.

    Parameters
    ----------
    model : nn.Module
        Not moved: the batches go to its device, and floating-point inputs to its dtype.
    batches : array, tuple of arrays, mapping, Dataset, DataLoader or iterable of batches
        An array x, a tuple (x, y) or (x, y, index) of arrays, or a mapping of arrays is whole data and is
        cut into batches; anything else is iterated over for batches x, (x, y), (x, y, index) or dicts. A
        dict without ``labels`` or ``label``, and ``index`` becomes the model's keyword arguments; a tuple in
        place of x its positional arguments. NumPy or torch.
    layers : str or iterable of str or ..., optional
        Names or glob patterns, see `list_layers`. Default: the input (unless it is token ids) and the
        output of every nonlinearity; in a model without any, of every module without children, except the
        head; ``...`` among several patterns is this default. ``"output"`` is the network's own output.
    pool : str, callable or mapping, optional
        Default: flatten each output to (n, d). ``"mean"`` or ``"max"`` over the positions of feature maps or
        the tokens of sequences; ``"first"`` or ``"last"`` token; ``"compact"``: the mean of the tokens, and
        feature maps of more than 1,024 numbers averaged over neighbouring positions. The operations around
        an output show where its channels are: (n, c, h, w) of a convolution, (n, t, c) of a linear layer.
        Padding is left out: the inputs called ``*attention_mask`` (true for tokens), ``*padding_mask`` (true
        for padding) or ``*lengths`` show it, or inputs of other names with such
        values. Where channels or padding are not known, a policy by name is an
        error, except that "compact" flattens an output whose channels are not known. Outputs (n, c) are not
        pooled, and the input only by "compact" or a pattern of its own. A callable takes the output, rows
        first, and returns n rows. A mapping from layer patterns to policies: the first match counts, else
        flatten.
    batch_size : int
        Rows of a batch cut from whole arrays.
    device : torch.device or str, optional
        Where the batches go, for a model without parameters and buffers.
    dtype : torch.dtype, optional
        Of the outputs. Default: float32 for half precision and integer inputs, else the output's own.
    consume : callable, optional
        Called as ``consume(outputs, labels, indices)`` after each batch, with outputs on the model's device;
        they are then not held. Streams them to a `ClassMoments`, for example.

    Returns
    -------
    CaptureResult
        outputs, name -> (n, d) on the CPU, in order of execution; labels; indices.

    Raises
    ------
    InputError
        If the batches cannot be read, or the model cannot be called with them.
    LayerError
        If a pattern matches no layer or one that cannot be captured, if a layer does not run in every
        batch, or if its dimension changes.
    """
    tracer = Tracer(model)
    selection = Selection(layers)
    check_pool(pool)
    check_count("batch_size", batch_size)
    if consume is not None and not callable(consume):
        raise InputError(f"expected consume as a function of (outputs, labels, indices), got {consume!r:.80}")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise InputError(f"expected dtype as a floating-point torch.dtype, got {dtype!r}")
    device, model_dtype = device_and_dtype(model, device)
    collector = RowCollector(count_rows(batches))
    read = read_batches(batches, batch_size, device, model_dtype, model=model)
    with unchanged(model):
        for number, batch in enumerate(read, start=1):
            outputs = _run(tracer, batch, number, selection, pool, dtype)
            if consume is not None:
                with outer_settings(gradients=True):
                    consume(outputs, batch.labels, batch.indices)
            collector.add({} if consume is not None else outputs, batch.labels, batch.indices)
    return collector.result()


def _run(
    tracer: Tracer, batch: Batch, number: int, selection: Selection, pool: Pool, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Run one batch and return the chosen layers' rows, name -> (n, d)."""
    outputs: dict[str, Tensor] = {}
    padding = _Padding(tracer, batch) if pool is not None else None

    def visit(site: LayerSite, tensor: Tensor) -> None:
        if selection.wants(site):
            if tensor.is_meta:
                raise LayerError(f"layer {site.name!r} is on the meta device, without values")
            wide = tensor.is_floating_point() and tensor.itemsize >= 4
            copied = tensor.to(dtype or (tensor.dtype if wide else torch.float32), copy=True)
            outputs[site.name] = _to_rows(copied, _policy(pool, site.name), site, padding)

    trace = tracer.run(batch, visit)
    names = selection.settle(trace, number)
    if isinstance(pool, Mapping):
        _require_matches(pool, trace.sites)
        for pattern in pool:
            if not isinstance(pattern, OptionalPattern) and not any(matches(n, pattern) for n in names):
                raise LayerError(
                    f"pool= has {pattern!r}, which matches none of the chosen layers, "
                    f"{', '.join(map(repr, names[:10]))}{', ...' * (len(names) > 10)}: choose it by layers="
                )
    return {name: outputs[name] for name in names}


class RowCollector:
    """Collects the outputs of all batches, in one CPU tensor (n, d) per layer.

    A buffer is allocated once if the number of rows is known; else it doubles (a system commits only the
    memory that was written to, so that the unused end costs nothing).

    Parameters
    ----------
    rows : int, optional
        Number of rows n, if it is known.
    order : ndarray of shape (n,), int64, optional
        Row i of the result is the row of index ``order[i]``. Default: the order of the batches.
    dtype : torch.dtype, optional
        Of the result. Default: that of the batches.
    """

    def __init__(
        self, rows: int | None = None, order: np.ndarray | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.expected = (rows or 0) if order is None else len(order)
        self.dtype = dtype
        self.places = None if order is None else torch.from_numpy(np.argsort(order))
        self.buffers: dict[str, Tensor] = {}
        self.labels: list[Column | None] = []
        self.indices: list[Column | None] = []
        self.count = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the rows so far."""
        return sum(buffer[: self.count].nbytes for buffer in self.buffers.values())

    @property
    def dimensions(self) -> dict[str, int]:
        """Number of features d of each layer."""
        return {name: buffer.shape[1] for name, buffer in self.buffers.items()}

    def add(self, outputs: Mapping[str, Tensor], labels: Column | None, indices: Column | None) -> None:
        """Add a batch.

        Parameters
        ----------
        outputs : mapping of str to Tensor (b, d)
            The same layers in each batch.
        labels, indices : Tensor (b,), ndarray (b,) or None
        """
        if self.places is not None and indices is None:
            raise InputError("expected the index of each row, to put the rows into the given order")
        self.labels.append(labels)
        self.indices.append(indices)
        end = self.count + len(next(iter(outputs.values()), ()))
        places: Any = slice(self.count, end)
        if self.places is not None:
            places = self.places[torch.as_tensor(np.asarray(indices))]
        for name, rows in outputs.items():
            buffer = self.buffers.get(name)
            if buffer is None:
                buffer = torch.empty(max(self.expected, end), rows.shape[1], dtype=self.dtype or rows.dtype)
            if rows.shape[1] != buffer.shape[1]:
                raise LayerError(
                    f"layer {name!r} has {rows.shape[1]} features per row in batch {len(self.labels)} and "
                    f"{buffer.shape[1]} before; pad all batches to one length, or pool by pool="
                )
            if end > len(buffer):
                wider = torch.empty(max(end, 2 * len(buffer)), rows.shape[1], dtype=buffer.dtype)
                wider[: self.count] = buffer[: self.count]
                buffer = wider
            buffer[places] = rows.to("cpu", buffer.dtype)
            self.buffers[name] = buffer
        self.count = end

    def result(self) -> CaptureResult:
        """Return all rows; raise if there is an order of more or fewer rows."""
        if self.places is not None and self.count != len(self.places):
            raise InputError(f"expected {len(self.places)} rows as in the given order, got {self.count}")
        outputs = {name: buffer[: self.count] for name, buffer in self.buffers.items()}
        if self.places is not None:
            return CaptureResult(outputs, None, None)
        return CaptureResult(outputs, join(self.labels), join(self.indices))
