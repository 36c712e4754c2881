"""The paper's ResNet-18 for images of 32 x 32 pixels."""

from collections import OrderedDict

from torch import Tensor, nn


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
