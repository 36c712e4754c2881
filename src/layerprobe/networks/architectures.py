"""The paper's networks: perceptron, convolutional network, two AlexNets and ResNet-18."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from layerprobe.errors import InputError


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
        hidden_layers = range(1, len(widths))
        self.probed_layers = {name: name for name in ("input", *(f"fc{i}" for i in hidden_layers))}
        self.published_names = {f"linear{i}": f"fc{i}" for i in hidden_layers} | {"head": "output"}


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


class AlexNet(nn.Sequential):
    """Five convolutions and two hidden linear layers: RGB images (n, 3, h, w) to logits (n, K).

    The paper probes ``flatten`` and the ReLUs ``fc1`` and ``fc2`` after ``linear1`` and ``linear2``; the last
    linear layer is ``head``. Kernels and strides must reduce the images to one pixel before ``flatten``.
    Other AlexNets have dropout; this one has none.

    Parameters
    ----------
    conv1 : (int, int, int)
        Kernel size, stride and padding of the first convolution.
    conv2 : (int, int)
        Kernel size and padding of the second convolution.
    num_classes : int
        Number of classes K.

    Examples
    --------
    >>> cifar100 = AlexNet((3, 2, 1), (3, 1), num_classes=100)  # 32 x 32 pixels; 20,495,268 parameters
    >>> tiny_imagenet = AlexNet((11, 4, 2), (5, 2), num_classes=200)  # 64 x 64 pixels; 21,123,080 parameters
    """

    def __init__(self, conv1: tuple[int, int, int], conv2: tuple[int, int], *, num_classes: int) -> None:
        kernel, stride, padding = conv1
        super().__init__(
            # Pooling before the ReLU gives equal values with a quarter of the ReLU operations.
            OrderedDict(
                conv1=nn.Conv2d(3, 64, kernel, stride, padding),
                pool1=nn.MaxPool2d(3, 2),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(64, 192, conv2[0], padding=conv2[1]),
                pool2=nn.MaxPool2d(3, 2),
                relu2=nn.ReLU(),
                conv3=nn.Conv2d(192, 384, 3, padding=1),
                relu3=nn.ReLU(),
                conv4=nn.Conv2d(384, 256, 3, padding=1),
                relu4=nn.ReLU(),
                conv5=nn.Conv2d(256, 256, 3, padding=1),
                pool3=nn.MaxPool2d(3, 2),
                relu5=nn.ReLU(),
                flatten=nn.Flatten(),
                linear1=nn.Linear(256, 4096),
                fc1=nn.ReLU(),
                linear2=nn.Linear(4096, 4096),
                fc2=nn.ReLU(),
                head=nn.Linear(4096, num_classes),
            )
        )
        self.probed_layers = {name: name for name in ("flatten", "fc1", "fc2")}
        self.published_names = {f"conv{i}": f"features.{j}" for i, j in enumerate((0, 3, 6, 8, 10), start=1)}
        self.published_names |= {"linear1": "fc1", "linear2": "fc2", "head": "fc3"}
        self.published_unused = ("classifier",)  # layers that the published code makes and does not apply


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, with a ReLU after the first convolution and after the sum."""

    def __init__(self, d_in: int, d_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(d_in, d_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(d_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(d_out, d_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(d_out)
        self.relu2 = nn.ReLU()
        self.downsample = nn.Sequential()  # the identity
        if stride != 1 or d_in != d_out:
            self.downsample.append(nn.Conv2d(d_in, d_out, 1, stride, bias=False))
            self.downsample.append(nn.BatchNorm2d(d_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, d_in, h, w) to (n, d_out, h / stride, w / stride)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet18(nn.Sequential):
    """ResNet-18 with a 3x3 first convolution: RGB images (n, 3, h, w) to logits (n, K).

    The ``state_dict`` has torchvision's keys. `probed_layers` maps the paper's layer names to modules: ``l0``
    before the first stage, ``l0_1`` to ``l0_3`` after each ReLU in it, ``l1`` to ``l4`` after each stage, and
    ``avgpool``. With ten classes the network has 11,173,962 parameters.

    Parameters
    ----------
    maxpool : bool
        Halve the image size before the first stage, as in the paper.
    num_classes : int
        Number of classes K.
    """

    def __init__(self, *, maxpool: bool = True, num_classes: int = 10) -> None:
        modules: dict[str, nn.Module] = {
            "conv1": nn.Conv2d(3, 64, 3, padding=1, bias=False),
            "bn1": nn.BatchNorm2d(64),
            "relu": nn.ReLU(),
        }
        if maxpool:
            modules["maxpool"] = nn.MaxPool2d(3, 2, padding=1)
        d_in = 64
        for i, (d_out, stride) in enumerate(((64, 1), (128, 2), (256, 2), (512, 2)), start=1):
            modules[f"layer{i}"] = nn.Sequential(BasicBlock(d_in, d_out, stride), BasicBlock(d_out, d_out, 1))
            d_in = d_out
        modules |= {
            "avgpool": nn.AdaptiveAvgPool2d(1),
            "flatten": nn.Flatten(),
            "fc": nn.Linear(512, num_classes),
        }
        super().__init__(OrderedDict(modules))
        self.probed_layers = {
            "l0": "maxpool" if maxpool else "relu",
            "l0_1": "layer1.0.relu1",
            "l0_2": "layer1.0.relu2",
            "l0_3": "layer1.1.relu1",
            **{f"l{i}": f"layer{i}.1.relu2" for i in (1, 2, 3, 4)},
            "avgpool": "avgpool",
        }
        self.published_names = {
            f"layer{i}.0.downsample.{j}": f"layer{i}.0.shortcut.{j}" for i in (2, 3, 4) for j in (0, 1)
        }
