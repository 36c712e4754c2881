"""The image set: images and labels of training and test data, from any source."""

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any, Self

import numpy as np

from layerprobe.errors import InputError


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Images and true labels, in the order of the publisher's files. The arrays are read-only.

    Attributes
    ----------
    name : str
        The name that `load` knows the set by, or the one given to it.
    train_images, test_images : ndarray of shape (n, h, w) or (n, h, w, 3), uint8
        Grey or RGB pixels, 0 to `max_value`. There may be no test images.
    train_labels, test_labels : ndarray of shape (n,), int64
        Class indices in 0..K-1, positions in `class_names`.
    class_names : tuple of str
        The K class names.
    max_value : int
        The pixel value of full intensity: 255, but 16 for "digits". Divide by it to scale pixels to [0, 1].
    train_index : ndarray of shape (n,), int64
        The rows of these images among the training images of the whole set: 0..n-1 unless `subset` chose
        them. Noise of the whole set has the labels ``noise.labels[train_index]`` here.

    Raises
    ------
    InputError
        If shapes, types or labels do not fit together.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    max_value: int = 255
    train_index: np.ndarray = None  # type: ignore[assignment]  # set in __post_init__

    def __post_init__(self) -> None:
        if self.train_index is None:
            object.__setattr__(self, "train_index", np.arange(len(self.train_images)))
        arrays = ("train_images", "train_labels", "test_images", "test_labels", "train_index")
        for field in arrays:
            if not isinstance(value := getattr(self, field), np.ndarray):
                raise InputError(f"{field} must be a NumPy array, got {type(value).__name__}")
        self._check("train", self.train_images, self.train_labels)
        self._check("test", self.test_images, self.test_labels)
        if len(self.train_index) != len(self.train_images):
            raise InputError(
                f"train_index must have one row for each of the {len(self.train_images)} training images, "
                f"got {len(self.train_index)}. Leave it out for a whole set."
            )
        for field in arrays:
            kind = np.uint8 if field.endswith("images") else np.int64
            view = getattr(self, field).astype(kind, copy=False).view()
            view.flags.writeable = False
            object.__setattr__(self, field, view)

    def _check(self, split: str, images: np.ndarray, labels: np.ndarray) -> None:
        size = self.train_images.shape[1:]
        if images.dtype != np.uint8 or len(size) not in (2, 3) or size[2:] not in ((), (3,)):
            raise InputError(
                f"{split}_images must be uint8 of shape (n, h, w) or (n, h, w, 3), "
                f"got {images.dtype} of shape {images.shape}."
            )
        if images.shape[1:] != size:
            raise InputError(
                f"test_images must have the size {size} of train_images, got {images.shape[1:]}."
            )
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise InputError(
                f"{split}_labels must be integers, one for each of {len(images)} images, "
                f"got {labels.dtype} of shape {labels.shape}."
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise InputError(
                f"{split}_labels must lie in 0..{self.num_classes - 1}, one for each class name, "
                f"got {labels.min()}..{labels.max()}."
            )

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of the shapes and values of images and labels, the same on every machine."""
        digest = hashlib.sha256()
        for images, labels in ((self.train_images, self.train_labels), (self.test_images, self.test_labels)):
            digest.update(repr(images.shape).encode())
            digest.update(np.ascontiguousarray(images).data)
            digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
        return digest.hexdigest()

    def subset(self, n: int | None, *, seed: int = 0, test: int | None = None) -> Self:
        """Return a class-balanced subset of n training images in the order of this set.

        The choice depends on the labels, `n` and `seed` only. For a fixed seed it is nested: a larger subset
        contains every image of a smaller one.

        Parameters
        ----------
        n : int or None
            The number of training images, at least K. If K does not divide n, the first classes get one more.
            None keeps all.
        seed : int
            Seed of NumPy's default generator, not negative.
        test : int, optional
            The number of test images, chosen in the same way. By default the test set stays complete.

        Returns
        -------
        ImageSet
            It has the same name; its `train_index` lists the chosen images.

        Raises
        ------
        InputError
            If a class has too few images, or an argument is out of its range.
        """
        rows = slice(None) if n is None else self._balanced_rows("train", self.train_labels, n, seed)
        kept = slice(None) if test is None else self._balanced_rows("test", self.test_labels, test, seed)
        return self._select(rows, kept)

    def first_classes(self, K: int) -> Self:
        """Return the images of the first K classes, in the order of this set.

        Parameters
        ----------
        K : int
            From 1 to the number of classes.

        Returns
        -------
        ImageSet
            It has the same name; its `train_index` lists the chosen images.

        Raises
        ------
        InputError
            If K is out of its range.
        """
        if not isinstance(K, Integral) or not 1 <= K <= self.num_classes:
            raise InputError(f"K must be an integer from 1 to {self.num_classes}, got {K!r}.")
        return self._select(self.train_labels < K, self.test_labels < K, class_names=self.class_names[:K])

    def _select(self, train: slice | np.ndarray, test: slice | np.ndarray, **changes: Any) -> Self:
        return dataclasses.replace(
            self,
            train_images=self.train_images[train],
            train_labels=self.train_labels[train],
            train_index=self.train_index[train],
            test_images=self.test_images[test],
            test_labels=self.test_labels[test],
            **changes,
        )

    def _balanced_rows(self, split: str, labels: np.ndarray, n: int, seed: int) -> np.ndarray:
        if not isinstance(n, Integral) or n < self.num_classes:
            raise InputError(
                f"A subset must be an integer of at least {self.num_classes}, one image per class, got {n!r}."
            )
        if not isinstance(seed, Integral) or seed < 0:
            raise InputError(f"seed must be an integer that is not negative, got {seed!r}.")
        classes = np.arange(self.num_classes)
        shares = n // len(classes) + (classes < n % len(classes))  # (K,)
        counts = np.bincount(labels, minlength=len(classes))  # (K,)
        if (shares > counts).any():
            k = int((shares > counts).argmax())
            raise InputError(
                f"A class-balanced subset of {n} {split} images needs {shares[k]} of class "
                f"{self.class_names[k]!r}, but {self.name!r} has {counts[k]}. "
                f"Choose at most {counts.min() * len(classes)}."
            )
        order = np.random.default_rng(int(seed)).permutation(len(labels))
        return np.sort(np.concatenate([order[labels[order] == k][: shares[k]] for k in classes]))  # (n,)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.train_images.shape[1:]))
        return (
            f"ImageSet({self.name!r}: {len(self.train_images)} train and {len(self.test_images)} test images "
            f"of {size}, {self.num_classes} classes)"
        )
