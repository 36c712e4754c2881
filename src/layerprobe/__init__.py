"""layerprobe: find the layer of a trained network that knows better than its head."""

from layerprobe.core import ClassMoments, Subspaces
from layerprobe.errors import LayerprobeError, LayerprobeWarning
from layerprobe.layers import capture, list_layers
from layerprobe.probes import MASC
from layerprobe.probing import ProbeTable, probe

__all__ = [
    "MASC",
    "ClassMoments",
    "LayerprobeError",
    "LayerprobeWarning",
    "ProbeTable",
    "Subspaces",
    "capture",
    "list_layers",
    "probe",
]
__version__ = "0.1.0"
