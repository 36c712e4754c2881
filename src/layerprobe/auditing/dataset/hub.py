"""Rows from data sets of Hugging Face's `datasets`, which is imported only to read one from disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from layerprobe.auditing.dataset.found import Found
from layerprobe.data.adaptors import from_dataset, hub_column
from layerprobe.errors import DataError, InputError

__all__ = ["is_hub", "read_hub", "read_hub_folder"]


def is_hub(data: Any) -> bool:
    """Tell whether this is a data set of the hub, or the dictionary of its splits."""
    first = next(iter(data.values()), None) if isinstance(data, Mapping) else data
    return isinstance(getattr(first, "features", None), Mapping)


def read_hub(data: Any, text_column: str | None, label_column: str | None) -> Found:
    """Read images or texts and their labels.

    The content is the only column of type Image or, in a set without one, the only column of texts; labels
    are the only column of type ClassLabel.
    """
    if isinstance(data, Mapping):
        raise InputError(f"expected one split of the data set, got all of {', '.join(data)}; choose one.")
    features = data.features
    class_labels = [key for key in features if hasattr(features[key], "names")]
    label = hub_column(features, label_column, "label_column", class_labels)
    images = [key for key in features if type(features[key]).__name__ == "Image" and key != label]
    names = getattr(features[label], "names", None)
    labels = list(data[label])
    hidden = sum(isinstance(code, int) and code < 0 for code in labels) if names is not None else 0
    if hidden:
        raise InputError(
            f"{hidden} of {len(labels)} labels are negative, which stands for hidden. Use a split "
            "that has labels."
        )
    class_names = None if names is None else tuple(map(str, names))
    if images and text_column is None:
        image = images[0]
        if len(images) > 1:
            raise InputError(
                f"The image column is not clear: {', '.join(images)}. Keep one by data.select_columns(...)."
            )
        pixels = from_dataset((picture, 0) for picture in data[image]).train_images
        return Found(pixels, labels, class_names=class_names)
    kinds = {key: getattr(features[key], "dtype", None) for key in features if key != label}
    texts = [key for key, dtype in kinds.items() if dtype in ("string", "large_string")]
    column = hub_column(features, text_column, "text_column", texts)
    values = np.empty(len(data), object)
    values[:] = list(data[column])
    return Found(values, labels, class_names=class_names)


def read_hub_folder(path: Path, text_column: str | None, label_column: str | None) -> Found:
    """Read what ``save_to_disk`` wrote."""
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise DataError(
            f"{path} was saved by the package datasets, which is not installed: pip install 'layerprobe[hf]'."
        ) from error
    try:
        data = load_from_disk(str(path))
    except Exception as error:  # whatever a damaged folder makes of Arrow
        raise DataError(f"{path} cannot be read as a saved data set: {error}.") from error
    if isinstance(data, Mapping):
        raise DataError(f"{path} holds the splits {', '.join(data)}: name the folder of one, in it.")
    return read_hub(data, text_column, label_column)
