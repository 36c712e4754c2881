"""The layer outputs of any nn.Module: which there are, and what they hold for a data set.

How layers are named
    ``input``              what the model is given
    ``fc1``, ``layer1.0``  what a submodule returns, by its path in ``model.named_modules()``
    ``layer1.0.F.relu``    what a functional operation returns, below the module whose forward calls it
    ``output``             what the model returns (its ``logits`` if it names them, else the first tensor)

A name that is taken gets ``:2``, ``:3``, ... in order of execution: the second call of a module, the second
``F.relu`` in one forward, a submodule that is itself called ``output``. If a value holds several tensors,
each is named by its place, ``lstm.0`` and ``lstm.1.0``, ``output.hidden``, and the plain name stands for
the main one: ``logits`` if there is such a key, else the first floating-point tensor.
"""

from layerprobe.layers.capturing import Captured, capture
from layerprobe.layers.listing import LayerList, LayerRow, list_layers

__all__ = ["Captured", "LayerList", "LayerRow", "capture", "list_layers"]
