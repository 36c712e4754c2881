"""List and capture the layer outputs of any nn.Module.

Names of layers
    ``input``              the model's input
    ``fc1``, ``layer1.0``  the output of a submodule, by its path in ``model.named_modules()``
    ``layer1.0.F.relu``    the result of a functional operation, below the module whose forward calls it
    ``output``             the model's output (its ``logits`` if it names them, else the first tensor)

A repeated name gets ``:2``, ``:3``, ... in order of execution: the second call of a module, the second
``F.relu`` in one forward, a submodule that is itself called ``output``. If a value has several tensors, each
is named by its key or position: ``lstm.0`` and ``lstm.1.0``, ``output.hidden``. The plain name is the main
tensor: ``logits`` if there is such a key, else the first floating-point tensor. So the last states of
recurrent layers are ``gru.1``, or ``lstm.1.0`` (h_n) and ``lstm.1.1`` (c_n). A list of one record per row is
one record of stacked tensors, ``output.scores``.
"""

from layerprobe.errors import renamed
from layerprobe.layers.capturing import CaptureResult, capture
from layerprobe.layers.listing import LayerList, LayerRow, list_layers

__all__ = ["CaptureResult", "LayerList", "LayerRow", "capture", "list_layers"]

__getattr__ = renamed(__name__, {"Captured": CaptureResult})
