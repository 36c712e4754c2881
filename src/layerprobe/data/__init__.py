"""Image sets, their verified download, adaptors, and label noise."""

from layerprobe.data import noise
from layerprobe.data.adaptors import from_dataset, from_hf
from layerprobe.data.download import fetch
from layerprobe.data.human import human_labels
from layerprobe.data.image_tree import image_folder
from layerprobe.data.imagesets import ImageSet
from layerprobe.data.registry import available, load

__all__ = [
    "ImageSet",
    "available",
    "fetch",
    "from_dataset",
    "from_hf",
    "human_labels",
    "image_folder",
    "load",
    "noise",
]
