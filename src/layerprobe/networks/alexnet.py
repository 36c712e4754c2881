"""The paper's two small AlexNets."""

from collections import OrderedDict

from torch import nn

__all__ = ["AlexNet"]


class AlexNet(nn.Sequential):
    """Five convolutions and two hidden linear layers, on RGB images (n, 3, h, w), giving logits (n, K).

    The layers that the paper probes are ``flatten`` and the ReLUs ``fc1``, ``fc2`` after ``linear1``,
    ``linear2``; the last linear layer is ``head``. The images must shrink to one pixel before ``flatten``,
    as the paper's do (METHOD section 3). There is no dropout, unlike in other AlexNets.

    Parameters
    ----------
    conv1 : (int, int, int)
        Kernel, stride and padding of the first convolution.
    conv2 : (int, int)
        Kernel and padding of the second.
    num_classes : int
        Classes K.

    Examples
    --------
    >>> cifar100 = AlexNet((3, 2, 1), (3, 1), num_classes=100)  # of 32 x 32 pixels; 20,495,268 parameters
    >>> tiny_imagenet = AlexNet((11, 4, 2), (5, 2), num_classes=200)  # of 64 x 64 pixels; 21,123,080
    """

    def __init__(self, conv1: tuple[int, int, int], conv2: tuple[int, int], *, num_classes: int) -> None:
        kernel, stride, padding = conv1
        super().__init__(
            # Pooling before ReLU gives the same numbers for a quarter of ReLU's work.
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
