"""The paper's two small AlexNets."""

from collections import OrderedDict

from torch import nn


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
