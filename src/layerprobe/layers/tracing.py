"""One forward pass that passes every layer output to a visitor and leaves the model as it was."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import activation
from torch.overrides import TorchFunctionMode

from layerprobe.errors import InputError
from layerprobe.layers.batches import Batch, named_tensors
from layerprobe.utils.settings import default_settings, outer_settings

# fmt: off
NONLINEARITIES = frozenset((
    "relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish", "glu",
    "sigmoid", "logsigmoid", "hardsigmoid", "tanh", "hardtanh", "hardswish",
    "softplus", "softsign", "hardshrink", "softshrink", "tanhshrink", "threshold",
))

OPERATIONS = frozenset((
    "linear", "bilinear", "embedding",
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "matmul", "mm", "bmm", "einsum", "add", "mul", "clamp", "cat", "concat", "flatten", "mean", "sum", "amax",
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "normalize",
    "softmax", "log_softmax", "scaled_dot_product_attention",
))
# fmt: on


def _function_names() -> dict[Callable, str]:
    """Map each function to its name: ``F.relu``, ``torch.relu_``, ``Tensor.relu`` are all ``relu``."""

    def spellings(name: str) -> Iterator[Callable]:
        for namespace in (torch, torch.Tensor, functional):
            for spelling in (name, f"{name}_"):
                if hasattr(namespace, spelling):
                    yield getattr(namespace, spelling)

    return {function: name for name in NONLINEARITIES | OPERATIONS for function in spellings(name)}


_FUNCTIONS = _function_names()

_ACTIVATION_MODULES = tuple(
    getattr(activation, name)
    for name in activation.__all__
    if "Softm" not in name and name not in ("LogSoftmax", "MultiheadAttention")
)


@dataclass(frozen=True)
class LayerSite:
    """One output of a module or functional operation in the forward pass.

    Attributes
    ----------
    name : str
    kind : str
        Class of the module, or "F." and the function's name, or "input".
    shape : tuple of int
        Of one row.
    dtype : torch.dtype
    nonlinear : bool
        Whether it is the output of an activation function.
    leaf : bool
        Whether it is the main output of a module without children.
    obstacle : str or None
        Reason why the tensor cannot be captured.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    nonlinear: bool
    leaf: bool
    obstacle: str | None


@dataclass(frozen=True)
class Trace:
    """All layer outputs in order of execution, and the name of the network's head."""

    sites: list[LayerSite]
    head: str | None


Visitor = Callable[[LayerSite, Tensor], None]


def device_and_dtype(model: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
    """Return the device and the floating-point dtype of the model's tensors; None where it has none."""
    tensors = [*model.parameters(), *model.buffers()]
    dtypes = (tensor.dtype for tensor in tensors if tensor.is_floating_point())
    return tensors[0].device if tensors else None, next(dtypes, None)


def observe(model: nn.Module, batch: Batch, visit: Visitor) -> Trace:
    """Run a model on one batch, in eval mode without gradients, and call a visitor with each output.

    Parameters
    ----------
    model : nn.Module
        Left as it was, also if it raises.
    batch : Batch
    visit : callable
        Called with the `LayerSite` and the tensor of each output that can be captured, as soon as it is
        computed; a later in-place operation may overwrite the tensor.

    Returns
    -------
    Trace
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile, whose graphs would not run hooks
    recorder = _Recorder(model, batch.size, visit)
    training = {module: module.training for module in model.modules()}
    handles = []
    try:
        for module in training:
            module.training = False  # not .eval(), which models may override
            if module is not model and not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
                handles.append(module.register_forward_pre_hook(recorder.enter, prepend=True))
                handles.append(module.register_forward_hook(recorder.leave, always_call=True))
        with recorder:
            return recorder.run(batch.inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, flag in training.items():
            module.training = flag


class _Event(NamedTuple):
    """A reported value, its source, and the module that was running."""

    value: Any
    source: nn.Module | str | None
    caller: nn.Module | None


class _Recorder(TorchFunctionMode):
    """Records module outputs by hooks and functional operations by torch's function mode."""

    def __init__(self, model: nn.Module, size: int, visit: Visitor) -> None:
        super().__init__()
        self.model, self.size, self.visit = model, size, visit
        self.paths = {module: path for path, module in model.named_modules()}
        self.running = [model]
        self.reporting = False
        self.sites: list[LayerSite] = []
        self.calls = Counter(output=1)  # the plain name is reserved for the model's own output
        self.last = _Event(None, None, None)
        self.last_linear: tuple[str, Tensor] | None = None

    def run(self, inputs: Any) -> Trace:
        self.report("input", inputs, "input")
        result = _call(self.model, inputs)
        self.calls["output"] = 0
        source: nn.Module = self.model
        last = self.last.source
        if isinstance(last, nn.Module) and self.paths[last] == "output" and self.last.value is result:
            source = last  # a submodule called output is one layer with the output, not two
            self.sites.pop()
        self.report("output", result, source)
        return Trace(self.sites, self._head(result))

    def enter(self, module: nn.Module, _: Any) -> None:
        self.running.append(module)

    def leave(self, module: nn.Module, _: Any, output: Any) -> None:
        self.running.pop()
        self.report(self.paths[module], output, module)

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.reporting and func in _FUNCTIONS and not _is_torch_leaf(self.running[-1]):
            kind = f"F.{_FUNCTIONS[func]}"
            path = self.paths[self.running[-1]]
            self.report(f"{path}.{kind}" if path else kind, result, kind)
        return result

    def report(self, name: str, value: Any, source: nn.Module | str) -> None:
        self.reporting = True  # operations of the visitor are no part of the model
        nonlinear = self._is_nonlinear(value, source)
        try:
            for key, tensor in named_tensors(value):
                site = self._site(name + key, tensor, source, nonlinear, main=not key)
                self.sites.append(site)
                if site.obstacle is None:
                    with default_settings():
                        self.visit(site, tensor)
                if isinstance(source, nn.Linear):
                    self.last_linear = (site.name, tensor)
        finally:
            self.reporting = False
        self.last = _Event(value, source, self.running[-1])

    def _is_nonlinear(self, value: Any, source: nn.Module | str) -> bool:
        """Return whether a value is the output of a nonlinearity.

        A module that returns the result of its own ``F.relu`` replaces it: ``fc1`` instead of ``fc1.F.relu``.
        """
        if isinstance(source, str):
            return source.removeprefix("F.") in NONLINEARITIES
        last = self.last
        returned = value is last.value and isinstance(last.source, str) and source is last.caller
        if returned and self.sites[-1].nonlinear and source is not self.model:
            self.sites[-1] = replace(self.sites[-1], nonlinear=False)
            return True
        return isinstance(source, _ACTIVATION_MODULES)

    def _site(
        self, name: str, tensor: Tensor, source: nn.Module | str, nonlinear: bool, main: bool
    ) -> LayerSite:
        self.calls[name] += 1
        if isinstance(source, nn.Module):
            kind, leaf = type(source).__name__, not any(source.children())
        else:
            kind, leaf = source, False
        return LayerSite(
            name=name if self.calls[name] == 1 else f"{name}:{self.calls[name]}",
            kind=kind,
            shape=() if tensor.is_nested else tuple(tensor.shape[1:]),
            dtype=tensor.dtype,
            nonlinear=nonlinear,
            leaf=main and leaf,
            obstacle=self._obstacle(tensor, source),
        )

    def _obstacle(self, tensor: Tensor, source: nn.Module | str) -> str | None:
        if tensor.is_nested or tensor.layout is not torch.strided:
            return "it is not a dense tensor"
        if not tensor.is_floating_point() and (source != "input" or tensor.is_complex()):
            return f"it holds {tensor.dtype} values, not real floating-point features"
        if not tensor.ndim or len(tensor) != self.size:
            return f"its shape {tuple(tensor.shape)} does not begin with the {self.size} rows of the batch"
        return None

    def _head(self, result: Any) -> str | None:
        tensors = named_tensors(result)
        if not tensors:
            return None
        if self.last_linear is not None and any(_is_view(self.last_linear[1], one) for _, one in tensors):
            return self.last_linear[0]
        return "output" if tensors[0][1].ndim == 2 else None


def _call(model: nn.Module, inputs: Any) -> Any:
    args, kwargs = ((), inputs) if isinstance(inputs, Mapping) else (inputs, {})
    args = args if isinstance(args, tuple) else (args,)
    try:
        with outer_settings():
            return model(*args, **kwargs)
    except TypeError as error:
        if (misfit := _misfit(model, args, kwargs)) is not None:
            raise InputError(
                f"{misfit}. Give batches as dicts, whose items become keyword arguments, or as "
                "((x1, x2), y), or wrap the model in a module that fits"
            ) from error
        raise


def _misfit(model: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> str | None:
    """Return a message if the arguments do not fit forward's signature, else None."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # not a Python function
        return None
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        given = f"the keywords {', '.join(kwargs)}" if kwargs else f"{len(args)} input(s)"
        return f"{type(model).__name__}.forward{signature} was given {given}: {error}"
    return None


def _is_torch_leaf(module: nn.Module) -> bool:
    """Return whether to hide a module's inner calls: nn.ReLU calls F.relu, which is no layer of its own."""
    return type(module).__module__.startswith("torch.nn.") and not any(module.children())


def _is_view(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors share all their numbers, possibly in another shape."""
    return (
        one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
        and one.numel() == other.numel()
    )
