"""probe(): from a model and data to a tidy table of what every layer knows, in one call."""

from layerprobe.probing.running import probe
from layerprobe.probing.table import ProbeTable

__all__ = ["ProbeTable", "probe"]
