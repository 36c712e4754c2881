"""The paper's multilayer perceptron."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

__all__ = ["MLP"]


class MLP(nn.Sequential):
    """A fully connected ReLU network on inputs of any shape (n, ...), giving logits (n, K).

    The layers that the paper probes are the modules ``fc1``, ``fc2``, ...: the ReLU after ``linear1``,
    ``linear2``, ...; the last linear layer is ``head``. The defaults are the paper's (METHOD section 3):
    784-128-512-2048-2048-10 has 5,433,994 parameters.

    Parameters
    ----------
    in_features : int
        Features of one flattened input, d.
    hidden : sequence of int
        Units of each hidden layer, from the input on.
    num_classes : int
        Classes K.
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
