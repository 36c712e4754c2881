"""Image sets, their verified download, and label noise."""

from layerprobe.data import noise
from layerprobe.data.download import fetch
from layerprobe.data.imagesets import ImageSet, available, load

__all__ = ["ImageSet", "available", "fetch", "load", "noise"]
