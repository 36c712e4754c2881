"""The functional operations that count as layers, each known under every spelling torch has for it."""

from collections.abc import Callable, Iterator

import torch
from torch.nn import functional

__all__ = ["NONLINEARITIES", "OPERATIONS", "names_of_functions"]

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


def names_of_functions() -> dict[Callable, str]:
    """Map each function to its name: ``F.relu``, ``torch.relu_``, ``Tensor.relu`` are all ``relu``."""

    def spellings(name: str) -> Iterator[Callable]:
        for space in (torch, torch.Tensor, functional):
            for spelling in (name, f"{name}_"):
                if hasattr(space, spelling):
                    yield getattr(space, spelling)

    return {function: name for name in NONLINEARITIES | OPERATIONS for function in spellings(name)}
