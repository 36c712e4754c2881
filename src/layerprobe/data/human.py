"""Labels by human annotators: CIFAR-10N and CIFAR-100N (Wei et al., 2022), for CIFAR's training images.

Layout of the folder ``cifar-n``, every array uint8 (50000,) in the order of CIFAR's own files:

- ``cifar10n.npz``: ``clean``, and the annotations ``random1``, ``random2``, ``random3`` (one annotator each),
  ``aggre`` (their majority) and ``worst`` (a wrong one of the three if there is one);
- ``cifar100n.npz``: ``clean``, ``clean_coarse``, and the annotations ``noisy`` and ``noisy_coarse``.

The clean labels are compared with those of the images, which must therefore be in the same data folder: in
another order of the images these labels would be random. If ``cifar-100-binary`` holds a part of the set, its
``train_index.npy`` must list its rows of the whole set.
"""

import os
from pathlib import Path

import numpy as np

from layerprobe.data.arrays import load_npz
from layerprobe.data.cifar import CIFAR10, CIFAR100, CIFAR100_COARSE, read_index
from layerprobe.data.folders import data_folder
from layerprobe.data.noise import Noise
from layerprobe.errors import DataError, unknown_name

# By name and annotation: the file, its clean labels, and the labels of the images that these must equal.
_SETS = {
    "cifar-10n": dict.fromkeys(
        ("aggre", "random1", "random2", "random3", "worst"), ("cifar10n.npz", "clean", CIFAR10)
    ),
    "cifar-100n": {
        "noisy": ("cifar100n.npz", "clean", CIFAR100),
        "noisy_coarse": ("cifar100n.npz", "clean_coarse", CIFAR100_COARSE),
    },
}


def human_labels(name: str, annotation: str, root: str | os.PathLike[str] | None = None) -> Noise:
    """Read human labels of the training images of CIFAR-10 or CIFAR-100.

    Parameters
    ----------
    name : str
        "cifar-10n" or "cifar-100n".
    annotation : str
        "aggre", "random1", "random2", "random3" or "worst" of "cifar-10n"; "noisy" (for the image set
        "cifar-100") or "noisy_coarse" (for "cifar-100-coarse") of "cifar-100n".
    root : path, optional
        As for `load`; it holds the folder ``cifar-n`` and that of the images.

    Returns
    -------
    Noise
        One label per training image of `load`, in the same order.

    Raises
    ------
    InputError
        If the set or annotation is unknown.
    DataError
        If a file is missing or damaged, or the clean labels are not those of the images.
    """
    check_annotation(name, annotation)
    file, clean_name, layout = _SETS[name][annotation]
    path, folder = data_folder(root) / "cifar-n" / file, data_folder(root) / layout.folder
    clean, noisy = _read_arrays(path, (clean_name, annotation), layout.num_classes)  # (50000,) each
    true = layout.read_labels(folder)  # (n,)
    rows = _rows_of_whole(folder, len(true), len(clean))  # (n,)
    wrong = np.flatnonzero(clean[rows] != true)
    if len(wrong):
        raise DataError(
            f"{path}: the clean labels differ from the labels of {len(wrong)} of {len(true)} images in "
            f"{folder}, first of image {wrong[0]}. Both must be in the publisher's order."
        )
    labels = noisy[rows]
    changed = labels != true
    for array in (labels, changed):
        array.flags.writeable = False
    return Noise(labels, changed, {"kind": "human_labels", "name": name, "annotation": annotation})


def check_annotation(name: str, annotation: str) -> None:
    """Raise an InputError unless there are such human labels.

    Parameters
    ----------
    name, annotation : str
        As for :func:`human_labels`.
    """
    if name not in _SETS:
        raise unknown_name("set of human labels", name, _SETS)
    if annotation not in _SETS[name]:
        raise unknown_name(f"annotation of {name}", annotation, _SETS[name])


def _read_arrays(path: Path, names: tuple[str, ...], num_classes: int) -> list[np.ndarray]:
    columns = load_npz(path, *names)
    n = len(columns[names[0]])
    for name, labels in columns.items():
        if labels.dtype.kind not in "iu" or labels.shape != (n,) or not n:
            raise DataError(
                f"{path}: expected {name} to be integers, one for each image, "
                f"got {labels.dtype} of shape {labels.shape}."
            )
        if labels.min() < 0 or labels.max() >= num_classes:
            raise DataError(
                f"{path}: expected {name} in 0..{num_classes - 1}, got {labels.min()}..{labels.max()}."
            )
    return [labels.astype(np.int64) for labels in columns.values()]


def _rows_of_whole(folder: Path, n: int, whole: int) -> np.ndarray:
    """Return the positions of the folder's n images in the whole training set."""
    path = folder / "train_index.npy"
    if path.is_file():
        return read_index(path, n, whole)
    if n != whole:
        raise DataError(
            f"{folder} holds {n} training images, but there are human labels for {whole}. Place the "
            f"whole set there, or list the rows of these images in {path.name}."
        )
    return np.arange(n)
