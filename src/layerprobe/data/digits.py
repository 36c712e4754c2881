"""scikit-learn's bundled 8x8 digits, for examples and tests that must not wait for a download."""

from pathlib import Path

import numpy as np

from layerprobe.data.imagesets import ImageSet
from layerprobe.data.progress import Progress

__all__ = ["read_digits"]


def read_digits(name: str, _folder: Path, _progress: bool | Progress) -> ImageSet:
    """Split the 1,797 images, pixels 0..16, into 1,437 train and 360 test images."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
    train.sort()  # keep the order of the file
    test.sort()
    class_names = tuple(map(str, bunch.target_names))
    return ImageSet(name, images[train], labels[train], images[test], labels[test], class_names, max_value=16)
