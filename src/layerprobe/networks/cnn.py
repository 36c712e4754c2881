"""The paper's convolutional network."""

from collections import OrderedDict

from torch import nn

from layerprobe.errors import InputError


class CNN(nn.Sequential):
    """Six 3x3 convolutions and three hidden linear layers: images (n, c, h, w) to logits (n, K).

    The paper probes ``flatten`` and the ReLUs ``fc1``, ``fc2`` and ``fc3`` after ``linear1``, ``linear2`` and
    ``linear3``; the last linear layer, without bias, is ``head``. The network has 344,042 parameters for
    images of 1 x 28 x 28 and 456,330 for 3 x 32 x 32.

    Parameters
    ----------
    channels : int
        Number of channels c of an image.
    size : int
        Height and width of an image, at least 8.
    dropout : float
        Dropout probability of the units of ``fc1``, ``fc2`` and ``fc3`` in training, 0 <= dropout < 1; 0 in
        the paper.
    num_classes : int
        Number of classes K.

    Raises
    ------
    InputError
        If `dropout` is outside [0, 1).
    """

    def __init__(self, channels: int, size: int, *, dropout: float = 0.0, num_classes: int = 10) -> None:
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be a probability, 0 <= dropout < 1, got {dropout!r}.")
        modules: dict[str, nn.Module] = {}
        for i, width in enumerate((16, 16, 32, 32, 64, 64), start=1):
            modules[f"conv{i}"] = nn.Conv2d(channels, width, 3, padding=1)
            if i % 2 == 0:  # before the ReLU: equal values with a quarter of its operations
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
