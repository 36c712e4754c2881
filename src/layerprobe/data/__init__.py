"""Image sets with verified download, readers of other datasets, a text set, and label noise."""

from layerprobe.data import noise
from layerprobe.data.download import fetch
from layerprobe.data.human import human_labels
from layerprobe.data.image_readers import from_dataset, from_hf, image_folder
from layerprobe.data.imagesets import ImageSet
from layerprobe.data.noise import register_noise
from layerprobe.data.registry import available, load, register_dataset
from layerprobe.data.texts import TextSet, docstrings

__all__ = [
    "ImageSet",
    "TextSet",
    "available",
    "docstrings",
    "fetch",
    "from_dataset",
    "from_hf",
    "human_labels",
    "image_folder",
    "load",
    "noise",
    "register_dataset",
    "register_noise",
]
