"""The images of a run and the labels that it is trained on."""

import hashlib
from typing import Any

import numpy as np

from layerprobe.data import ImageSet, human_labels, load, noise
from layerprobe.errors import InputError
from layerprobe.runs.folders import Location
from layerprobe.runs.pairs import pair as pair_of
from layerprobe.runs.specs import RunSpec


def run_data(spec: RunSpec, data_root: Location | None = None) -> tuple[ImageSet, np.ndarray]:
    """Return the images of a run and the labels that it is trained on.

    A subset for a network with fewer classes than the data set, by its option ``num_classes``, has images of
    the first classes only, if the noise is drawn for this run.

    Parameters
    ----------
    spec : RunSpec
    data_root : path, optional

    Returns
    -------
    images : ImageSet
        The images to train on and to test on, with their true labels.
    labels : array of shape (n,), int64
        The labels to train on.

    Raises
    ------
    DataError
        If the data set is missing; see `layerprobe.data.load`.
    InputError
        If only a part of the data set is present and the spec does not name a subset, if that part is too
        small for the published draw or the subset, or if human labels belong to another data set.
    """
    pair = pair_of(spec.pair)
    images = load(pair.dataset, data_root)
    K = dict(spec.options).get("num_classes", images.num_classes)
    if spec.subset is not None and spec.noise_seed is not None and K in range(2, images.num_classes):
        images = images.first_classes(K)
    labels, K, present = images.train_labels, images.num_classes, len(images.train_labels)
    if spec.subset is None and present != pair.train_size:
        advice = "get the whole set" if spec.weights else "name a subset, or get the whole set"
        if present > pair.train_size:
            advice = "name a subset, or make a pair of that train_size"
        raise InputError(
            f"{pair.name} trains on {pair.train_size} images, but {present} of {images.name!r} are present: "
            f"{advice}"
        )
    if spec.corruption is None:
        name, annotation = spec.noise.split(":", 1)
        human = human_labels(name, annotation, data_root)
        same_size = human.labels.shape == labels.shape
        if not (same_size and np.array_equal(human.changed, human.labels != labels)):
            raise InputError(f"The human labels {spec.noise!r} do not belong to the images {images.name!r}.")
        labels = human.labels
    elif spec.noise_seed is not None:
        labels = noise.drawn(spec.noise, labels, spec.corruption, K, spec.noise_seed)
    elif present != pair.train_size:
        raise InputError(
            f"The published draw needs all {pair.train_size} training images of {images.name!r}, but only "
            f"{present} are present. Get the whole set, or use uniform noise."
        )
    else:
        labels = noise.published(labels, spec.corruption, K).labels
    if spec.subset is None and spec.test_subset is None:
        return images, labels
    chosen = images.subset(spec.subset, test=spec.test_subset)
    return chosen, labels[np.isin(images.train_index, chosen.train_index)]


def data_record(images: ImageSet, labels: np.ndarray) -> dict[str, Any]:
    """Return the fingerprint of the data of a run, for run.json.

    Parameters
    ----------
    images : ImageSet
    labels : ndarray of shape (n,)
        The labels to train on.
    """
    return {
        "name": images.name,
        "sha256": images.fingerprint,
        "labels_sha256": hashlib.sha256(labels.tobytes()).hexdigest(),
        "train_images": len(images.train_images),
        "test_images": len(images.test_images),
    }
