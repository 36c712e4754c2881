"""The paper's convolutional network."""

from collections import OrderedDict

from torch import nn

from layerprobe.errors import InputError

__all__ = ["CNN"]


class CNN(nn.Sequential):
    """Six 3x3 convolutions and three hidden linear layers, on images (n, c, h, w), giving logits (n, K).

    The layers that the paper probes are ``flatten`` and the ReLUs ``fc1``, ``fc2``, ``fc3`` after
    ``linear1``, ``linear2``, ``linear3``; the last linear layer, without bias, is ``head``. With the paper's
    images (METHOD section 3) of 1 x 28 x 28 it has 344,042 parameters, of 3 x 32 x 32 456,330.

    Parameters
    ----------
    channels : int
        Channels c of an image.
    size : int
        Height and width of an image, at least 8.
    dropout : float
        Probability of dropping a unit of ``fc1``, ``fc2``, ``fc3`` while training, 0 <= dropout < 1; the
        paper's is 0.
    num_classes : int
        Classes K.

    Raises
    ------
    InputError
        If `dropout` is no such probability.
    """

    def __init__(self, channels: int, size: int, *, dropout: float = 0.0, num_classes: int = 10) -> None:
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be a probability, 0 <= dropout < 1, got {dropout!r}.")
        modules: dict[str, nn.Module] = {}
        for i, width in enumerate((16, 16, 32, 32, 64, 64), start=1):
            modules[f"conv{i}"] = nn.Conv2d(channels, width, 3, padding=1)
            if i % 2 == 0:  # pooling before ReLU gives the same numbers for a quarter of ReLU's work
                modules[f"pool{i // 2}"] = nn.MaxPool2d(2)
            modules[f"relu{i}"] = nn.ReLU()
            channels = width
        modules["flatten"] = nn.Flatten()
        features = channels * (size // 8) ** 2
        for i in (1, 2, 3):
            modules[f"linear{i}"] = nn.Linear(features, 250)
            modules[f"fc{i}"] = nn.ReLU()
            if dropout:
                modules[f"dropout{i}"] = nn.Dropout(dropout)
            features = 250
        modules["head"] = nn.Linear(features, num_classes, bias=False)
        super().__init__(OrderedDict(modules))
        self.probed_layers = {name: name for name in ("input", "flatten", "fc1", "fc2", "fc3")}
        self.published_names = {"linear1": "fcs.0", "linear2": "fcs.1", "linear3": "fcs.2", "head": "fc3"}
