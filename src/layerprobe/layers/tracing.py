"""Forward passes that give every layer output to a visitor and leave the model as it was."""

import copy
import math
import re
import sys
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.nn.modules import activation
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from layerprobe.errors import InputError, LayerError, LayerprobeWarning, warn
from layerprobe.layers.batches import (
    Batch,
    forward_signature,
    named_tensors,
    squares_of,
    with_pixels_scaled,
)
from layerprobe.utils.settings import default_settings, evaluation_mode, outer_settings


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


NONLINEARITIES = _names(
    "relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish glu sigmoid logsigmoid hardsigmoid tanh "
    "hardtanh hardswish softplus softsign hardshrink softshrink tanhshrink threshold"
)
# Other operations whose results are layers.
OPERATIONS = _names(
    "linear bilinear embedding conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d "
    "matmul mm bmm einsum add mul clamp cat concat flatten mean sum amax "
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "batch_norm layer_norm group_norm instance_norm rms_norm normalize "
    "softmax log_softmax scaled_dot_product_attention"
)
# A module that calls only elementwise functions is a nonlinearity if one of them is a curve.
CURVES = NONLINEARITIES | _names(
    "erf exp expm1 log log1p logaddexp pow rpow square sqrt rsqrt abs sign sin cos atan maximum minimum "
    "where clamp clamp_min clamp_max clip"
)
ELEMENTWISE = CURVES | _names(
    "add radd sub rsub subtract mul rmul multiply div rdiv divide truediv rtruediv true_divide reciprocal "
    "neg negative positive addcmul lerp dropout gt ge lt le eq ne to float half double bfloat16 type type_as "
    "clone contiguous detach data getitem chunk split narrow masked_fill tensor zeros_like ones_like "
    "full_like empty_like"
)

# Operations by the place of the channels in what they take and give: in the last dimension; in dimension 1
# (convolutions and pooling have their own rule); in any, all channels alike, although the shape may change.
FEATURES_LAST = _names(
    "linear bilinear embedding layer_norm rms_norm multi_head_attention_forward rnn_tanh rnn_relu gru lstm "
    "pad_packed_sequence"
)
CHANNELS_FIRST = _names(
    "batch_norm group_norm instance_norm local_response_norm interpolate upsample pixel_shuffle"
)
SLICES = _names("cat concat pad repeat getitem narrow chunk split expand index_select glu")
PERMUTATIONS = _names("permute transpose swapaxes swapdims movedim moveaxis t T mT")
RESHAPES = _names("reshape view flatten unflatten squeeze unsqueeze reshape_as view_as")
REDUCTIONS = _names("mean sum amax amin max min std var logsumexp select")
PRODUCTS = _names("matmul mm bmm addmm addbmm baddbmm einsum tensordot")
CALLED_LOGITS = re.compile("logit", re.IGNORECASE)  # names of the parts of an output that are logits
SPATIAL = re.compile(r"(conv|conv_transpose|\w*pool)(\d)d")

_FUNCTIONS = {  # F.relu, torch.relu_ and Tensor.relu are all relu
    getattr(namespace, spelling): name
    for name in NONLINEARITIES | OPERATIONS
    for namespace in (torch, Tensor, functional)
    for spelling in (name, f"{name}_")
    if hasattr(namespace, spelling)
}
_ACTIVATION_MODULES = tuple(
    getattr(activation, name)
    for name in activation.__all__
    if "Softm" not in name and name not in ("LogSoftmax", "MultiheadAttention")
)
_CONTAINERS = (dict, OrderedDict, defaultdict, Counter, list, set, deque)


@dataclass(frozen=True)
class LayerSite:
    """One output of a module or functional operation in the forward pass."""

    name: str
    kind: str  # class of the module, or "F." and the function's name, or "input"
    shape: tuple[int, ...]  # of one row
    dtype: torch.dtype
    nonlinear: bool  # whether it is the output of an activation function
    leaf: bool  # whether it is the main output of a module without children
    obstacle: str | None  # reason why the tensor cannot be captured
    channels: int | None  # their dimension in the tensor with rows first; None if it is not known


class Trace(NamedTuple):
    """Layer outputs of a pass in order of execution, the head's name, and modules of torch.jit by name."""

    sites: list[LayerSite]
    head: str | None
    opaque: list[str]


Visitor = Callable[[LayerSite, Tensor], None]


def check_model(model: Any) -> None:
    """Raise an InputError unless the model is an ``nn.Module`` with a forward method."""
    if isinstance(model, nn.Module):
        scripted = isinstance(model, torch.jit.ScriptModule)
        if not scripted and type(model).forward is nn.Module.forward and "forward" not in vars(model):
            raise InputError(f"expected a model with a forward method, {type(model).__name__} has none")
        return
    got = f"a {type(model).__name__}"
    if isinstance(model, type):
        got = f"the class {model.__name__}; call it to make a network"
    elif callable(model):
        got = f"{got}; call it in the forward of an nn.Module"
    elif isinstance(model, list | tuple):
        got = f"{got}; nn.Sequential makes one network of several layers"
    raise InputError(f"expected the model as a torch.nn.Module, got {got}")


def device_and_dtype(
    model: nn.Module, device: torch.device | str | None = None
) -> tuple[torch.device | None, torch.dtype | None]:
    """Return the device and the floating-point dtype of the model's tensors; None where it has none.

    Parameters
    ----------
    model : nn.Module
    device : torch.device or str, optional
        A device to return instead; InputError if there is no such device.
    """
    tensors = [*model.parameters(), *model.buffers()]
    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)
    if device is None:
        return tensors[0].device if tensors else None, dtype
    try:
        torch.empty(0, device=device)
        return torch.device(device), dtype
    except (RuntimeError, TypeError, AssertionError) as error:
        raise InputError(
            f'expected a device such as "cpu" or "cuda:0", got {device!r}: {_first_line(error)}'
        ) from error


def takes_bytes(model: nn.Module, pixels: Tensor) -> bool:
    """Return whether a network runs on uint8 pixels (b, ...) as they are, by the rule of `Tracer`.

    Parameters
    ----------
    model : nn.Module
    pixels : Tensor
    """
    tracer, x = Tracer(model), pixels[:2].to(device_and_dtype(model)[0])
    with unchanged(model), warnings.catch_warnings(action="ignore"):
        try:
            tracer.run(Batch(x, None, None, len(x), x), lambda *_: None)
        except Exception:  # the pass over the data raises it again
            return False
    return not tracer.scales_pixels


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore the model's buffers and attributes and the state of torch's random generators at the end.

    Attributes are those of the user's modules: numbers, texts, objects, and the contents of lists, dicts and
    sets. Objects that forward changes inside stay changed, as do parameters of lazy modules. Modules of torch
    have no other state than tensors, and wrappers for several devices set up theirs once.
    """
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if not is_lazy(buffer)
    ]
    attributes = [
        (now, dict(now), {key: copy.copy(value) for key, value in now.items() if type(value) in _CONTAINERS})
        for module in model.modules()
        if not type(module).__module__.startswith("torch.")
        and not any(is_lazy(tensor) for tensor in (*module.parameters(False), *module.buffers(False)))
        and (now := vars(module)) is not None
    ]
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.is_cuda}
    try:
        with torch.random.fork_rng([device.index or 0 for device in devices]):
            yield
    finally:
        for now, before, contents in attributes:
            now.clear()
            now.update(before)
            for key, content in contents.items():
                now[key].clear()
                (now[key].update if hasattr(content, "update") else now[key].extend)(content)
        for module, name, buffer, value in buffers:
            if getattr(module, name) is not buffer:
                setattr(module, name, buffer)
            if not torch.equal(buffer, value):
                with torch.inference_mode(buffer.is_inference()):
                    buffer.copy_(value)


class _Dim:
    """A dimension that the tensors of one forward pass share."""

    def __init__(self) -> None:
        self.same: _Dim | None = None  # another object for the same dimension
        self.shown = math.inf  # number of the operation that shows that it holds channels

    def root(self) -> "_Dim":
        dim = self
        while dim.same is not None:
            dim = dim.same
        return dim


def _channels(dims: list[_Dim]) -> int | None:
    """Return the place of the dimension that was shown first to hold channels; None if none was."""
    shown = [dim.root().shown for dim in dims]
    return None if min(shown, default=math.inf) == math.inf else shown.index(min(shown))


class _Dims:
    """The dimensions of all tensors of one forward pass, and which of them hold channels.

    An operation shows where the channels of its input and result are, or that the two share dimensions.
    """

    def __init__(self) -> None:
        self._dims = WeakTensorKeyDictionary()
        self._operations = 0

    def of(self, tensor: Tensor) -> list[_Dim]:
        """Return the dimensions of a tensor."""
        dims = self._dims.get(tensor)
        if dims is None or len(dims) != tensor.ndim:  # it can be reshaped in place
            dims = self._dims[tensor] = [_Dim() for _ in range(tensor.ndim)]
        return dims

    def follow(self, name: str, func: Callable, args: tuple, kwargs: Mapping[str, Any], result: Any) -> None:
        """Record what one operation shows.

        Parameters
        ----------
        name : str
            Of the operation, without underscores at its ends.
        func, args, kwargs
            The function and its arguments.
        result
            A tensor, or a tuple of them.
        """
        listed = args[0] if args and isinstance(args[0], tuple | list) else ()
        returned = result if isinstance(result, tuple | list) else [result]
        inputs = [x for x in (*args[:3], *kwargs.values(), *listed) if isinstance(x, Tensor)]
        results = [y for y in returned if isinstance(y, Tensor)]
        if not inputs or not results or any(is_lazy(x) or x.is_nested for x in (*inputs, *results)):
            return
        if name in ("addmm", "addbmm", "baddbmm"):  # a bias comes first
            inputs = inputs[1:]
        x, y = inputs[0], results[0]
        if y is x:
            return
        self._operations += 1
        dims, last = self.of(x), x.ndim - 1
        if (spatial := SPATIAL.match(name)) is not None:
            if spatial[1].startswith("conv") or _channels(dims) is None:
                self._show(x, last - int(spatial[2]))
                self._show(y, y.ndim - 1 - int(spatial[2]))
            else:
                self._share(x, y)
        elif name in CHANNELS_FIRST and x.ndim == y.ndim > 1:
            self._show(x, 1)
            self._share(x, y)
        elif name == "embedding":
            self._show(y, -1)
        elif name in ("layer_norm", "rms_norm"):
            if len(kwargs.get("normalized_shape") or args[1]) == 1:
                self._show(x, -1)
            self._share(x, y)
        elif name in FEATURES_LAST:
            self._show(x, -1)
            if _channels(dims) == last or name == "pad_packed_sequence":
                self._show(y, -1)
        elif name in PERMUTATIONS and args and args[0] is x:
            # the same permutation of dimensions that differ shows where each dimension goes
            sizes = func(torch.empty(tuple(range(x.ndim)), device="meta"), *args[1:], **kwargs).shape
            self._dims[y] = [dims[size] for size in sizes]
        elif (name in REDUCTIONS or name == "getitem") and y.ndim < x.ndim:
            kept = _kept(x, args[1] if len(args) > 1 else kwargs.get("dim"), indexed=name == "getitem")
            if len(kept) == y.ndim:
                self._dims[y] = [dims[dim] for dim in kept]
        elif name in RESHAPES:
            first = _count_equal(x.shape, y.shape)
            end = min(_count_equal(x.shape[::-1], y.shape[::-1]), x.ndim - first, y.ndim - first)
            middle = [_Dim() for _ in range(y.ndim - first - end)]
            self._dims[y] = [*dims[:first], *middle, *dims[x.ndim - end :]]
        elif name in PRODUCTS:
            second = inputs[1] if len(inputs) > 1 and name != "einsum" else None
            if second is not None and second.ndim == 2 and _channels(dims) in (None, last):
                self._show(x, -1)
                self._show(y, -1)
            elif second is not None and _channels(self.of(second)) == second.ndim - 1:
                self._show(y, -1)  # attention weights by values
        else:
            alike = [x for x in inputs if x.shape == y.shape or (name in SLICES and x.ndim == y.ndim)]
            if len({_channels(self.of(x)) for x in alike} - {None}) < 2:
                for x in alike:
                    for y in results:
                        if x.ndim == y.ndim:
                            self._share(x, y)

    def _show(self, tensor: Tensor, dim: int) -> None:
        """Record that a dimension holds channels, unless another one of this tensor does."""
        if tensor.ndim and _channels(self.of(tensor)) is None:
            self.of(tensor)[dim].root().shown = self._operations

    def _share(self, x: Tensor, y: Tensor) -> None:
        """Record that two tensors have the same dimensions."""
        for one, other in zip(self.of(x), self.of(y), strict=True):
            one, other = one.root(), other.root()
            if one is not other:
                other.same, one.shown = one, min(one.shown, other.shown)


def _count_equal(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Return how many numbers at the beginning are equal."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _kept(x: Tensor, which: Any, indexed: bool) -> list[int]:
    """Return the dimensions that remain after a reduction over some, or after an index; none if unknown."""
    if not indexed:
        reduced = [
            dim % x.ndim for dim in (which if isinstance(which, tuple | list) else [which]) if dim is not None
        ]
        return [dim for dim in range(x.ndim) if dim not in reduced]
    index = list(which) if isinstance(which, tuple) else [which]
    if any(not isinstance(one, int | slice) and one is not ... for one in index):
        return []
    place = index.index(...) if ... in index else len(index)
    index[place : place + 1] = [slice(None)] * (x.ndim - len(index) + (... in index))
    return [dim for dim, one in enumerate(index) if isinstance(one, slice)]


class _Compared(NamedTuple):
    """A layer output of the pass with another number of rows."""

    size: int
    shape: tuple[int, ...]
    dims: list[_Dim]


class _Axes(NamedTuple):
    """The dimension of the rows, and that of the channels once rows are first; None if there is none."""

    rows: int | None
    channels: int | None = None
    several: bool = False
    row: tuple[int, ...] = ()  # shape of one row


class Tracer:
    """Runs a model on batches and names its layers.

    The first batch is run with fewer rows, too. A dimension of an output that changes with the number of rows
    is the dimension of the rows. Later batches do not change this decision.

    Parameters
    ----------
    model : nn.Module
    """

    def __init__(self, model: nn.Module) -> None:
        check_model(model)
        self.model = getattr(model, "_orig_mod", model)  # of torch.compile
        self.makes_mask = False  # whether forward hides padding that it finds by itself
        self.scales_pixels = False
        """Whether uint8 pixels become floats in [0, 1], since the network does not run on whole numbers."""
        self._compared: dict[str, _Compared] = {}
        self._lists: set[str] | None = None
        self._axes: dict[str, _Axes] = {}
        self._squares = True

    def run(self, batch: Batch, visit: Visitor) -> Trace:
        """Run the model on one batch, in eval mode without gradients, and call a visitor with each output.

        Raise an InputError if the batch does not fit the signature of forward, or a LayerError if a layer
        cannot be computed for it.

        Parameters
        ----------
        batch : Batch
        visit : callable
            Called with the `LayerSite` and the tensor, rows first, of each output that can be captured, as
            soon as it is computed; a later in-place operation may overwrite the tensor.
        """
        if self.scales_pixels:
            batch = with_pixels_scaled(batch)
        note = None if self._compared else self._compare(batch)
        if note is not None and not self._axes and (scaled := with_pixels_scaled(batch)) is not batch:
            other = self._compare(scaled)
            if self._compared:
                self.scales_pixels, note, batch = True, other, scaled

        def axes_of(name: str, tensor: Tensor) -> _Axes:
            if name not in self._axes:
                self._axes[name] = _decide(tuple(tensor.shape), batch.size, self._compared.get(name))
            return self._axes[name]

        trace = self._pass(batch.inputs, _Recorder(self.model, batch.size, axes_of, visit, self._lists))
        if note is not None:
            warn(note, LayerprobeWarning)
        return trace

    def cuts_squares(self, batch: Batch) -> bool:
        """Return whether inputs (b, b, ...) beside the main one have rows.

        Raise if the model runs on no other number of these rows: they cannot be shared by processes.
        """
        if squares_of(batch.inputs, batch.size) and (note := self._compare(batch)) is not None:
            raise InputError(f"{note}: run it in one process")
        return self._squares

    def _compare(self, batch: Batch) -> str | None:
        """Run the model with another number of rows; return a note if it takes no other number.

        An input (b, b, ...) beside the main one may have rows or be shared by all rows, as the adjacency
        matrix of a graph is. If the model runs both with and without cutting it, the pass in which more
        outputs have exactly one dimension that follows the number of rows decides.
        """
        self._compared = {}
        errors: list[str] = []
        passes: list[tuple[dict[str, _Compared], set[str], bool, bool]] = []

        def attempt(size: int, *, squares: bool) -> None:
            found: dict[str, _Compared] = {}
            dims = _Dims()

            def record(name: str, tensor: Tensor) -> _Axes:
                found[name] = _Compared(size, tuple(tensor.shape), dims.of(tensor))
                return _Axes(None)

            recorder = _Recorder(self.model, size, record, dims=dims)
            main = None if squares else named_tensors(batch.inputs)[0][1]
            try:
                with unchanged(self.model):
                    self._pass(_resized(batch.inputs, batch.size, size, main), recorder)
                passes.append((found, recorder.stacked, recorder.makes_mask, squares))
            except Exception as error:  # errors that do not depend on the number of rows are raised again
                errors.append(_first_line(error))

        other = rows_to_compare(batch.size)
        attempt(other, squares=True)
        if squares_of(batch.inputs, batch.size):
            attempt(other, squares=False)
        takes_other = bool(passes)
        if len(passes) != 1:
            attempt(batch.size, squares=True)
        if len(passes) == 3:
            whole = passes.pop()[0]
            passes.sort(key=lambda one: _count_rows(one[0], whole), reverse=True)
        if passes:
            self._compared, self._lists, self.makes_mask, self._squares = passes[0]
        if takes_other:
            return None
        return (
            f"the network cannot be run with {other} rows in the place of {batch.size} ({errors[0]}), so "
            f"that outputs whose first dimension is {batch.size} are taken for rows"
        )

    def _pass(self, inputs: Any, recorder: "_Recorder") -> Trace:
        handles = []
        try:
            for module in self.model.modules():
                if module in recorder.paths and module is not self.model:
                    handles.append(module.register_forward_pre_hook(recorder.enter, prepend=True))
                    handles.append(module.register_forward_hook(recorder.leave, always_call=True))
            # the compiled code of modules would not call hooks
            compiles = "torch._dynamo" in sys.modules
            stance = torch.compiler.set_stance("force_eager") if compiles else nullcontext()
            with evaluation_mode(self.model), stance, recorder:
                return recorder.run(inputs)
        except (RuntimeError, ValueError, IndexError) as error:
            if (message := recorder.explanation(error)) is not None:
                raise LayerError(message) from error
            raise
        finally:
            for handle in handles:
                handle.remove()


def _decide(shape: tuple[int, ...], size: int, other: _Compared | None) -> _Axes:
    """Decide by the shapes for two numbers of rows; if only one is known, by the first dimension."""
    if other is None or other.size == size:
        rows = [0] if shape[:1] == (size,) else []
    elif size == 1 and len(other.shape) == len(shape) + 1:  # squeezed
        dims = range(len(other.shape))
        rows = [d for d in dims if (shape[:d], shape[d:]) == (other.shape[:d], other.shape[d + 1 :])]
    else:
        rows = _rows(shape, size, other)
    if len(rows) != 1:
        return _Axes(None, several=len(rows) > 1)
    (dim,) = rows
    channels = None if other is None else _channels(other.dims)
    if channels is not None:  # counted with rows first
        channels = None if channels == dim else channels + (channels < dim)
    row = shape if other is None else other.shape
    return _Axes(dim, channels, row=row[:dim] + row[dim + 1 :])


def _rows(shape: tuple[int, ...], size: int, other: _Compared) -> list[int]:
    """Return the dimensions that follow the number of rows."""
    pairs = zip(shape, other.shape, strict=False)
    return [dim for dim, pair in enumerate(pairs) if pair == (size, other.size)]


def _count_rows(some: Mapping[str, _Compared], whole: Mapping[str, _Compared]) -> int:
    """Return the number of outputs, without inputs, in which exactly one dimension follows that of rows."""
    outputs = [name for name in some if name in whole and name.partition(".")[0] != "input"]
    return sum(len(_rows(whole[name].shape, whole[name].size, some[name])) == 1 for name in outputs)


def rows_to_compare(size: int) -> int:
    """Return the number of rows of the pass that is compared with one of `size` rows: few, but several."""
    return min(size - 1, 64) if size > 2 else size + 1


def _resized(value: Any, size: int, other: int, main: Tensor | None) -> Any:
    """Return a copy of inputs with another number of rows; with `main`, other squares stay whole."""
    if isinstance(value, Mapping):
        return {key: _resized(item, size, other, main) for key, item in value.items()}
    rows = [min(row, size - 1) for row in range(other)]
    if isinstance(value, tuple | list):
        if len(value) == size and not named_tensors(value):  # texts
            return type(value)(value[row] for row in rows)
        return type(value)(_resized(item, size, other, main) for item in value)
    if not isinstance(value, Tensor):
        return value
    square = main is not None and value is not main and value.shape[1:2] == (size,)
    return value[rows] if value.shape[:1] == (size,) and not square else value.clone()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class _Event(NamedTuple):
    """A reported value, its source, and the module that was running."""

    value: Any
    source: nn.Module | str | None
    caller: nn.Module | None


@dataclass
class _Frame:
    """A running module: the shape of its input, its first inner layer, and the functions that it calls."""

    module: nn.Module
    shape: tuple[int, ...] | None
    start: int
    elementwise: bool = True
    curved: bool = False


class _Recorder(TorchFunctionMode):
    """Records module outputs by hooks and functional operations by torch's function mode."""

    def __init__(
        self,
        model: nn.Module,
        size: int,
        axes_of: Callable[[str, Tensor], _Axes],
        visit: Visitor | None = None,
        lists: set[str] | None = None,
        dims: _Dims | None = None,
    ) -> None:
        super().__init__()
        self.model, self.size, self.axes_of, self.visit, self.dims = model, size, axes_of, visit, dims
        self.paths = {  # without the modules that only call a compiled one, and those that take no hooks
            module: ".".join(part for part in path.split(".") if part != "_orig_mod")
            for path, module in model.named_modules()
            if module is model
            or not (hasattr(module, "_orig_mod") or isinstance(module, torch.jit.ScriptModule))
        }
        self.frames = [_Frame(model, None, 0)]
        self.reporting = False
        self.sites: list[LayerSite] = []
        self.calls = Counter(output=1)  # the plain name is reserved for the model's own output
        self.last = _Event(None, None, None)
        self.linears: dict[StorageWeakRef, tuple[str, int]] = {}  # name and size, by the memory of the output
        self.lists, self.stacked = lists, set[str]()
        self.makes_mask = False
        self.failure: tuple[BaseException, str] | None = None
        self.foreign: Exception | None = None  # raised by the visitor

    def run(self, inputs: Any) -> Trace:
        tensors = named_tensors(inputs)
        self.frames[0].shape = tuple(tensors[0][1].shape) if tensors else None
        self.report("input", inputs, "input")
        result = _call(self.model, inputs)
        self.calls["output"] = 0
        source: nn.Module = self.model
        last = self.last.source
        if isinstance(last, nn.Module) and self.paths[last] == "output" and self.last.value is result:
            source = last  # a submodule called output is one layer with the output, not two
            self.sites.pop()
        self.report("output", result, source)
        scripts = [p for p, one in self.model.named_modules() if isinstance(one, torch.jit.ScriptModule)]
        return Trace(self.sites, self._head(result), [""] if "" in scripts else scripts)

    def enter(self, module: nn.Module, args: Any) -> None:
        shape = next((tuple(x.shape) for x in args if isinstance(x, Tensor) and not x.is_nested), None)
        self.frames.append(_Frame(module, shape, len(self.sites)))

    def leave(self, module: nn.Module, _: Any, output: Any) -> None:
        frame = self.frames.pop()
        error = sys.exception()
        if error is not None and (self.failure is None or self.failure[0] is not error) and _is_torch(module):
            self.failure = error, self._place(frame)
        self.report(self.paths[module], output, module, frame)
        self.frames[-1].elementwise &= frame.elementwise
        self.frames[-1].curved |= frame.curved

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.reporting:
            return func(*args, **kwargs)
        name = _FUNCTIONS.get(func) or getattr(func, "__name__", "").strip("_")
        if name == "get":  # a property
            name = getattr(getattr(func, "__self__", None), "__name__", name)
        frame = self.frames[-1]
        try:
            result = func(*args, **kwargs)
        except Exception as error:
            self.failure = error, self._place(frame)
            raise
        if not isinstance(result, Tensor | tuple | list) or isinstance(result, torch.Size):
            return result
        frame.elementwise &= name in ELEMENTWISE
        frame.curved |= name in CURVES
        if self.dims is not None:
            self.dims.follow(name, func, args, kwargs, result)
            self.makes_mask |= name == "pack_padded_sequence" or kwargs.get("key_padding_mask") is not None
        # nn.ReLU calls F.relu, which is no layer of its own
        hidden = _is_torch(frame.module) and not any(frame.module.children())
        if func in _FUNCTIONS and not hidden:
            path = self.paths[frame.module]
            self.report(f"{path}.F.{name}" if path else f"F.{name}", result, f"F.{name}")
        return result

    def report(self, name: str, value: Any, source: nn.Module | str, frame: _Frame | None = None) -> None:
        self.reporting = True  # operations of the visitor are no part of the model
        nonlinear = self._is_nonlinear(value, source, frame)
        try:
            for key, tensor in named_tensors(self._by_row(name, value)):
                site, tensor = self._site(name + key, tensor, source, nonlinear, main=not key)
                self.sites.append(site)
                if site.obstacle is None and self.visit is not None:
                    with default_settings():
                        self.visit(site, tensor)
                if isinstance(source, nn.Linear) and site.obstacle is None:
                    self.linears[StorageWeakRef(tensor.untyped_storage())] = (site.name, tensor.numel())
        except Exception as error:
            self.foreign = error
            raise
        finally:
            self.reporting = False
        self.last = _Event(value, source, self.frames[-1].module)

    def explanation(self, error: Exception) -> str | None:
        """Return where an operation of torch failed, or None if the error is one of the model's own."""
        if self.failure is None or self.failure[0] is not error or error is self.foreign:
            return None
        return None if "memory" in str(error) else f"{self.failure[1]}: {_first_line(error)}"

    def _place(self, frame: _Frame) -> str:
        path, kind = self.paths[frame.module], type(frame.module).__name__
        place = f"layer {path!r} ({kind})" if path else f"the network ({kind})"
        return f"{place} cannot be computed for an input of shape {frame.shape}"

    def _by_row(self, name: str, value: Any) -> Any:
        """Return a list of one record per row as one record of stacked tensors."""
        known = self.lists is None or name in self.lists
        if type(value) not in (list, tuple) or len(value) != self.size or not known:
            return value
        records = [dict(named_tensors(item)) for item in value]
        if not records[0] or any(record.keys() != records[0].keys() for record in records):
            return value
        self.stacked.add(name)
        stacked, ragged = {}, {}
        for key in records[0] if len(records[0]) == 1 else [*records[0]][1:]:
            column = [record[key] for record in records]
            if len({tensor.shape for tensor in column}) == 1:
                stacked[key[1:]] = torch.stack(column)
            else:
                ragged[key[1:]] = column[0]
        return stacked[""] if "" in stacked else stacked | ragged

    def _is_nonlinear(self, value: Any, source: nn.Module | str, frame: _Frame | None) -> bool:
        """Return whether a value is the output of a nonlinearity.

        A module that returns the result of its own ``F.relu`` replaces it: ``fc1`` instead of ``fc1.F.relu``.
        So does a module of elementwise functions: a hand-written activation, of which they are parts.
        """
        if isinstance(source, str):
            return source.removeprefix("F.") in NONLINEARITIES
        last = self.last
        returned = value is last.value and isinstance(last.source, str) and source is last.caller
        start = None
        if source is not self.model and returned and self.sites[-1].nonlinear:
            start = len(self.sites) - 1
        elif frame is not None and frame.elementwise and frame.curved and not _is_torch(source):
            start = frame.start if returned or value is not last.value else None
        if start is None:
            return isinstance(source, _ACTIVATION_MODULES)
        self.sites[start:] = [replace(site, nonlinear=False) for site in self.sites[start:]]
        return True

    def _site(
        self, name: str, tensor: Tensor, source: nn.Module | str, nonlinear: bool, main: bool
    ) -> tuple[LayerSite, Tensor]:
        """Return the site of an output, and its tensor with rows first."""
        self.calls[name] += 1
        name = name if self.calls[name] == 1 else f"{name}:{self.calls[name]}"
        kind = source if isinstance(source, str) else type(source).__name__
        leaf = main and not isinstance(source, str) and not any(source.children())
        obstacle, axes = None, _Axes(None)
        if tensor.is_quantized:
            tensor = tensor.dequantize()
        if tensor.is_nested or tensor.layout is not torch.strided:
            obstacle = "it is not a dense tensor"
        elif not tensor.is_floating_point() and (source != "input" or tensor.is_complex()):
            obstacle = f"it holds {tensor.dtype} values, not real floating-point features"
        else:
            axes, shape = self.axes_of(name, tensor), tuple(tensor.shape)
            if axes.rows is not None and self.size == 1 and shape == axes.row:  # squeezed by the model
                tensor, shape = tensor.unsqueeze(axes.rows), (*shape[: axes.rows], 1, *shape[axes.rows :])
            if axes.several:
                obstacle = f"several dimensions of its shape {shape} follow the number of rows, {self.size}"
            elif axes.rows is None or shape[axes.rows : axes.rows + 1] != (self.size,):
                obstacle = f"no dimension of its shape {shape} follows the number of rows, {self.size}"
            else:
                tensor = tensor.movedim(axes.rows, 0)
        shape = () if tensor.is_nested else tuple(tensor.shape[1:])
        return LayerSite(name, kind, shape, tensor.dtype, nonlinear, leaf, obstacle, axes.channels), tensor

    def _head(self, result: Any) -> str | None:
        """Return the linear layer of the output, of several that of the logits; None if that is not clear."""
        tensors = named_tensors(result)
        if not tensors:
            return None
        parts = tensors[len(tensors) > 1 :]  # the main one is listed again by its name
        heads = set()
        for _, one in [part for part in parts if CALLED_LOGITS.search(part[0])] or parts:
            if one.is_nested or one.layout is not torch.strided:
                continue
            linear, size = self.linears.get(StorageWeakRef(one.untyped_storage()), ("", 0))
            if linear and size == one.numel():  # the output may be a view of it, in another shape
                heads.add(linear)
        if heads:
            return heads.pop() if len(heads) == 1 else None
        return "output" if tensors[0][1].ndim == 2 else None


def _call(model: nn.Module, inputs: Any) -> Any:
    args, kwargs = ((), inputs) if isinstance(inputs, Mapping) else (inputs, {})
    args = args if isinstance(args, tuple) else (args,)
    try:
        with outer_settings():
            return model(*args, **kwargs)
    except TypeError as error:
        if (signature := forward_signature(model)) is not None:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as misfit:
                given = f"the keywords {', '.join(kwargs)}" if kwargs else f"{len(args)} input(s)"
                raise InputError(
                    f"{type(model).__name__}.forward{signature} was given {given}: {misfit}. Give batches "
                    "as dicts, whose items become keyword arguments, or as ((x1, x2), y), or wrap the model "
                    "in a module that fits"
                ) from error
        raise


def _is_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")
