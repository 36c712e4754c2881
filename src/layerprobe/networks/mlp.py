"""The paper's multilayer perceptron."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn


class MLP(nn.Sequential):
    """Fully connected ReLU network: inputs of any shape (n, ...) to logits (n, K).

    The paper probes the input and the ReLUs ``fc1``, ``fc2``, ... after ``linear1``, ``linear2``, ...; the
    last linear layer is ``head``. The default widths are those of the paper: 784-128-512-2048-2048-10 has
    5,433,994 parameters.

    Parameters
    ----------
    in_features : int
        Number of features d of one flattened input.
    hidden : sequence of int
        Widths of the hidden layers, in forward order.
    num_classes : int
        Number of classes K.
    """

    def __init__(
        self, in_features: int, hidden: Sequence[int] = (128, 512, 2048, 2048), num_classes: int = 10
    ) -> None:
        widths = (in_features, *hidden)
        modules: dict[str, nn.Module] = {"flatten": nn.Flatten()}
        for i, (d_in, d_out) in enumerate(pairwise(widths), start=1):
            modules[f"linear{i}"] = nn.Linear(d_in, d_out)
            modules[f"fc{i}"] = nn.ReLU()
        modules["head"] = nn.Linear(widths[-1], num_classes)
        super().__init__(OrderedDict(modules))
        self.probed_layers = {name: name for name in ("input", *(f"fc{i}" for i in range(1, len(widths))))}
