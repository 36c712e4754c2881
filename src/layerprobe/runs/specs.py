"""What one training run is, to the last number: a frozen record, its canonical JSON, and a key from that."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Literal, Self

import numpy as np

from layerprobe.data import ImageSet, human_labels, load, noise
from layerprobe.errors import InputError
from layerprobe.runs.head_edit import Edit
from layerprobe.runs.pairs import pair as pair_of
from layerprobe.training import Recipe, Seeds

__all__ = ["Protocol", "RunSpec", "run_data"]

Protocol = Literal["independent", "published"]
Location = str | os.PathLike[str] | None
_WHOLE = ("init_seed", "order_seed", "noise_seed", "seed", "subset", "test_subset")
# Fields that a spec's record leaves out where they are None: runs from before they existed keep their keys.
_LATER = ("test_subset", "edit")


@dataclass(frozen=True)
class RunSpec:
    """One network to train. Equal specs train equal networks; use `of` to make one from a single seed.

    Attributes
    ----------
    pair : str
        One of `layerprobe.runs.pairs.PAIRS`.
    corruption : float or None
        Probability p in [0, 1] that a training label is redrawn uniformly; None for human labels.
    recipe : Recipe
        Optimiser, batch size, stop rule and whether batches are shuffled.
    init_seed, order_seed : int
        Draw the initial weights; the batch order and dropout.
    noise_seed : int or None
        Draws the corrupted labels. None for the noise kinds that draw none.
    noise : str
        "uniform" (`noise.uniform`), "published" (`noise.published`, the draw that all published runs share),
        or human labels as "cifar-10n:worst".
    subset : int or None
        Train on so many images, a fixed choice balanced over the true classes; None takes them all. Noise is
        drawn for the whole set first, so an image has the same label in every subset.
    test_subset : int, optional
        Test on so many test images, a fixed choice balanced over the classes; None takes them all.
    options : tuple of (str, value)
        The network's options, as dropout; a mapping is taken as well.
    seed : int or None
        The one seed that the others derive from, if they do.
    edit : Edit, optional
        An edit of the last layer on the way.
    """

    pair: str
    corruption: float | None
    recipe: Recipe
    init_seed: int
    order_seed: int
    noise_seed: int | None = None
    noise: str = "uniform"
    subset: int | None = None
    options: tuple[tuple[str, Any], ...] = ()
    seed: int | None = None
    test_subset: int | None = None
    edit: Edit | None = None

    def __post_init__(self) -> None:
        pair_of(self.pair)
        human = ":" in self.noise
        named = re.fullmatch(r"[\w-]+:\w+", self.noise)
        if not (named if human else self.noise in ("uniform", "published")):
            raise InputError(
                "noise must be 'uniform', 'published' or human labels as 'cifar-10n:worst', "
                f"got {self.noise!r}"
            )
        if human != (self.corruption is None):
            raise InputError(
                "corruption must be a probability for drawn noise and None for human labels, "
                f"got {self.corruption!r} with noise {self.noise!r}"
            )
        number = self.corruption is None or isinstance(self.corruption, Real)
        if not number or (self.corruption is not None and not 0 <= self.corruption <= 1):
            raise InputError(f"corruption must be a probability in [0, 1], got {self.corruption!r}")
        if (self.noise == "uniform") != (self.noise_seed is not None):
            raise InputError(
                "noise_seed must be given for uniform noise and None for any other, "
                f"got {self.noise_seed!r} with noise {self.noise!r}"
            )
        for name in _WHOLE:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, Integral) or value < 0):
                raise InputError(f"{name} must not be negative and a whole number, got {value!r}")
        if self.seed is not None:
            derived = Seeds.derive(self.seed)
            drawn = derived.noise if self.noise == "uniform" else None
            if (self.noise_seed, self.init_seed, self.order_seed) != (drawn, derived.init, derived.order):
                raise InputError(f"seed must be None unless the other seeds derive from it, got {self.seed}")
        if self.edit and self.edit.epoch >= self.recipe.max_epochs:
            raise InputError(
                f"the edit's epoch must be below max_epochs, {self.recipe.max_epochs}, got {self.edit.epoch}"
            )
        self._spell_numbers()

    def _spell_numbers(self) -> None:
        """Give every number one spelling: 1, 1.0 and NumPy's 1.0 are the same run and need the same key."""
        exact: dict[str, Any] = {
            name: None if getattr(self, name) is None else int(getattr(self, name)) for name in _WHOLE
        }
        exact["corruption"] = None if self.corruption is None else float(self.corruption) + 0.0  # -0.0 is 0.0
        exact["options"] = tuple(sorted((name, _frozen(value)) for name, value in dict(self.options).items()))
        for name, value in exact.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(
        cls,
        pair: str,
        corruption: float | None,
        seed: int,
        *,
        protocol: Protocol = "independent",
        noise: str | None = None,
        subset: int | None = None,
        test_subset: int | None = None,
        options: Mapping[str, Any] | None = None,
        edit: Edit | None = None,
        **overrides: Any,
    ) -> Self:
        """Return the spec of a pair's run by one of the two protocols.

        Parameters
        ----------
        pair : str
            One of `layerprobe.runs.pairs.PAIRS`.
        corruption : float or None
            As in the class.
        seed : int
            The noise, initialisation and order seeds are those of ``Seeds.derive(seed)``.
        protocol : {"independent", "published"}
            "independent": each run draws its own noise, initial weights and batch order. "published": the
            noise is the published draw and the batches are never shuffled; the initial weights alone differ.
        noise, subset, test_subset, options, edit
            As in the class; `noise` is the protocol's if not given.
        **overrides
            Fields of `Recipe` to change, as ``optimizer="adam"``; None leaves the pair's own.

        Raises
        ------
        InputError
            If a name is unknown, a number is out of its range, or the protocol is not one of the two.
        """
        if protocol not in ("independent", "published"):
            raise InputError(f"protocol must be 'independent' or 'published', got {protocol!r}")
        changes = {name: value for name, value in overrides.items() if value is not None}
        unknown = changes.keys() - {field.name for field in fields(Recipe)}
        if unknown:
            raise InputError(
                f"Unknown: {', '.join(sorted(unknown))}. A recipe has "
                f"{', '.join(field.name for field in fields(Recipe))}."
            )
        if changes.get("optimizer") == "adam":
            changes = {"momentum": 0.0} | changes
        if protocol == "published":
            changes = {"shuffle": False} | changes
        noise = noise or ("published" if protocol == "published" else "uniform")
        seeds = Seeds.derive(seed)
        return cls(
            pair=pair,
            corruption=corruption,
            recipe=replace(pair_of(pair).recipe, **changes),
            init_seed=seeds.init,
            order_seed=seeds.order,
            noise_seed=seeds.noise if noise == "uniform" else None,
            noise=noise,
            subset=subset,
            test_subset=test_subset,
            options=tuple((options or {}).items()),
            seed=seed,
            edit=edit,
        )

    @property
    def protocol(self) -> Protocol:
        """The protocol that noise and batch order follow together."""
        published = self.noise == "published" and not self.recipe.shuffle
        return "published" if published else "independent"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able form that `from_dict` takes back."""
        record = asdict(self) | {"options": dict(self.options)}
        return {name: value for name, value in record.items() if value is not None or name not in _LATER}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Return the spec that `to_dict` made this of."""
        edit = record.get("edit") and Edit(**record["edit"])
        return cls(**{**record, "recipe": Recipe(**record["recipe"]), "edit": edit})

    def canonical_json(self) -> str:
        """Return the one JSON text of this spec: sorted keys, no spaces, shortest exact numbers."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @property
    def key(self) -> str:
        """SHA-256 (hexadecimal) of the canonical JSON."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()

    @property
    def folder_name(self) -> str:
        """A name that people can read and that no other spec has, as "p0.8-s0-1f0c3a5b7d9e"."""
        noise = self.noise.replace(":", "-") if self.corruption is None else f"p{self.corruption:g}"
        seed = [] if self.seed is None else [f"s{self.seed}"]
        return "-".join([noise, *seed, self.key[:12]])


def _frozen(value: Any) -> Any:
    """Turn the lists of a network's option, as JSON has them, into tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def run_data(spec: RunSpec, data_root: Location = None) -> tuple[ImageSet, np.ndarray]:
    """Return the images that a run trains on and tests on, and the labels (n,), int64, that it learns.

    Raises
    ------
    DataError
        If the data set is not there; see `layerprobe.data.load`.
    InputError
        If only a part of the data set is here and the spec does not name a subset, if that part is too small
        for the published draw or the subset, or if human labels are not of this data set.
    """
    pair = pair_of(spec.pair)
    images = load(pair.dataset, data_root)
    if spec.subset is None and len(images.train_labels) != pair.train_size:
        raise InputError(
            f"{pair.name} trains on {pair.train_size} images, but only {len(images.train_labels)} of "
            f"{images.name!r} are here: name a subset of at most so many, or get the whole set"
        )
    if spec.corruption is None:
        labels = _human_labels(spec, images, data_root)
    elif spec.noise_seed is None:
        labels = _published_labels(spec.corruption, images, pair.train_size)
    else:
        labels = noise.uniform(
            images.train_labels, spec.corruption, images.num_classes, spec.noise_seed
        ).labels
    if spec.subset is None and spec.test_subset is None:
        return images, labels
    chosen = images.subset(spec.subset, test=spec.test_subset)
    return chosen, labels[np.isin(images.train_index, chosen.train_index)]


def _published_labels(degree: float, images: ImageSet, whole: int) -> np.ndarray:
    if len(images.train_labels) != whole:
        raise InputError(
            f"The published draw is one for all {whole} training images of {images.name!r}; here are "
            f"{len(images.train_labels)}. Get the whole set, or use uniform noise."
        )
    return noise.published(images.train_labels, degree, images.num_classes).labels


def _human_labels(spec: RunSpec, images: ImageSet, data_root: Location) -> np.ndarray:
    name, annotation = spec.noise.split(":", 1)
    given = human_labels(name, annotation, data_root)
    same_size = given.labels.shape == images.train_labels.shape
    if not (same_size and np.array_equal(given.changed, given.labels != images.train_labels)):
        raise InputError(f"The human labels {spec.noise!r} are not of the images {images.name!r}.")
    return given.labels
