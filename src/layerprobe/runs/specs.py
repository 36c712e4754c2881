"""The specification of one training run: a frozen record, its canonical JSON, and the key of that JSON."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Literal, Self

from layerprobe.core.checks import check_count
from layerprobe.data import noise as noises
from layerprobe.data.human import check_annotation
from layerprobe.editing import Bias, check_bias, linear_probe
from layerprobe.errors import InputError, UnknownNameError
from layerprobe.runs.pairs import pair as pair_of
from layerprobe.training import Recipe, Seeds

Protocol = Literal["independent", "published"]
WHOLE = ("init_seed", "order_seed", "noise_seed", "seed", "subset", "test_subset")
# Fields that are left out of the record where they are None, which keeps the keys of runs without them.
OPTIONAL = ("test_subset", "edit", "weights")


@dataclass(frozen=True)
class Edit:
    """An edit of a network's last layer during training, which continues with a fresh optimiser.

    Attributes
    ----------
    epoch : int
        The edit follows this epoch, from 1 on. The target of the recipe applies to later epochs only.
    probe, bias : str
        As for `layerprobe.edit_head`. The probe is fitted on the labels that the network is trained on.
    """

    epoch: int
    probe: str = "velpic"
    bias: Bias = "probe"

    def __post_init__(self) -> None:
        check_count("an edit's epoch", self.epoch)
        object.__setattr__(self, "epoch", int(self.epoch))
        linear_probe(self.probe)
        check_bias(self.bias)


@dataclass(frozen=True)
class RunSpec:
    """One network to train. Equal specs train equal networks. `of` derives all seeds from one.

    Attributes
    ----------
    pair : str
        A name in `layerprobe.runs.pairs.PAIRS`.
    corruption : float or None
        Probability p in [0, 1] that a training label is redrawn uniformly; None for human labels.
    recipe : Recipe
        Optimiser, batch size, stop rule and whether batches are shuffled.
    init_seed, order_seed : int
        Seeds of the initial weights, and of the batch order and dropout.
    noise_seed : int or None
        Seed of the noise; None for published noise and human labels.
    noise : str
        "uniform" (`noise.uniform`), "pair_flip", a noise of `layerprobe.data.register_noise`, "published"
        (`noise.published`, the draw that all published runs share), or human labels as "cifar-10n:worst".
    subset : int or None
        Number of training images, a fixed choice balanced over the true classes; None for all. Noise is
        drawn for the whole set first, so an image has the same label in every subset.
    test_subset : int, optional
        Number of test images, a fixed choice balanced over the classes; None for all.
    options : tuple of (str, value), or mapping
        Options of the network, such as dropout. With a ``num_classes`` below that of the data set a subset
        has images of the first classes only.
    seed : int or None
        The seed from which the others are derived, if they are.
    edit : Edit, optional
        An edit of the last layer during training.
    weights : "published", optional
        The weights are the published ones, which `layerprobe.paper.released.import_weights` reads, and are
        not trained here. `seed` is then the number of the published run; its seeds are unknown.
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
    weights: str | None = None

    def __post_init__(self) -> None:
        pair_of(self.pair)
        human = re.fullmatch(r"[\w-]+:\w+", self.noise) is not None  # no other noise has a colon
        if human:
            check_annotation(*self.noise.split(":"))
        elif self.noise != "published" and self.noise not in noises.REGISTRY:
            known = ", ".join([*noises.REGISTRY, "published"])
            raise UnknownNameError(
                f"noise must be one of {known}, or human labels as 'cifar-10n:worst', got {self.noise!r}"
            )
        p = self.corruption
        if human != (p is None):
            raise InputError(
                "corruption must be a probability for drawn noise and None for human labels, "
                f"got {p!r} with noise {self.noise!r}"
            )
        if p is not None and not (isinstance(p, Real) and 0 <= p <= 1):
            raise InputError(f"corruption must be a probability in [0, 1], got {p!r}")
        if _is_seeded(self.noise) != (self.noise_seed is not None):
            raise InputError(
                "noise_seed must be given for seeded noise and None for any other (published, human labels), "
                f"got {self.noise_seed!r} with noise {self.noise!r}"
            )
        # Every number gets one type: 1, 1.0 and NumPy's 1.0 are the same run and need the same key.
        exact: dict[str, Any] = {"corruption": None if p is None else float(p) + 0.0}  # -0.0 is 0.0
        for name in WHOLE:
            value = getattr(self, name)
            least = int(name.endswith("subset"))
            if value is not None and (not isinstance(value, Integral) or not least <= int(value) < 2**63):
                limits = f"of at least {least} and below 2^63"
                raise InputError(f"{name} must be a whole number {limits}, got {value!r}")
            exact[name] = None if value is None else int(value)
        if self.seed is not None and not _seeds(self.seed, self.noise).items() <= vars(self).items():
            raise InputError(f"seed must be None unless the other seeds derive from it, got {self.seed}")
        if self.edit and self.edit.epoch >= self.recipe.max_epochs:
            raise InputError(
                f"the edit's epoch must be below max_epochs, {self.recipe.max_epochs}, got {self.edit.epoch}"
            )
        changed = bool(self.options) or self.subset is not None or self.edit is not None
        if self.weights is not None and (changed or self.weights != "published" or self.noise != "published"):
            raise InputError(
                "weights must be None, or 'published' for a network of the pair's own options on all "
                f"images with published noise; got {self.weights!r}"
            )
        options = {name: _as_tuples(value) for name, value in dict(self.options).items()}
        exact["options"] = tuple(sorted(options.items()))
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
        weights: str | None = None,
        **overrides: Any,
    ) -> Self:
        """Return the spec of a run by one of the two protocols.

        Parameters
        ----------
        pair : str
            A name in `layerprobe.runs.pairs.PAIRS`.
        corruption : float or None
        seed : int
            The seed from which ``Seeds.derive`` derives those of noise, initial weights and batch order.
        protocol : {"independent", "published"}
            "independent": each run draws its own noise, initial weights and batch order. "published": the
            noise is the published draw and batches are never shuffled; only the initial weights differ.
        noise, subset, test_subset, options, edit, weights
            As in the class; by default `noise` is that of the protocol.
        **overrides
            Fields of `Recipe` to change, as ``optimizer="adam"``; None keeps the value of the pair.

        Raises
        ------
        InputError
            If a name is unknown, a number is out of its range, or the protocol is not one of the two.
        """
        if protocol not in ("independent", "published"):
            raise InputError(f"protocol must be 'independent' or 'published', got {protocol!r}")
        changes = {name: value for name, value in overrides.items() if value is not None}
        known = [field.name for field in fields(Recipe)]
        if unknown := ", ".join(sorted(changes.keys() - set(known))):
            raise InputError(f"Unknown: {unknown}. A recipe has {', '.join(known)}.")
        if changes.get("optimizer") == "adam":
            changes = {"momentum": 0.0} | changes
        if protocol == "published":
            changes = {"shuffle": False} | changes
        if noise is None:
            noise = "published" if protocol == "published" else "uniform"
        seeds = _seeds(seed, noise)
        return cls(
            pair=pair,
            corruption=corruption,
            recipe=replace(pair_of(pair).recipe, **changes),
            noise=noise,
            subset=subset,
            test_subset=test_subset,
            options=tuple((options or {}).items()),
            seed=seed,
            edit=edit,
            weights=weights,
            **seeds,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as a dictionary for JSON."""
        record = asdict(self) | {"options": dict(self.options)}
        return {name: value for name, value in record.items() if value is not None or name not in OPTIONAL}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Return the spec of a dictionary that `to_dict` returned."""
        edit = record.get("edit") and Edit(**record["edit"])
        return cls(**{**record, "recipe": Recipe(**record["recipe"]), "edit": edit})

    def canonical_json(self) -> str:
        """Return the JSON text with sorted keys, no spaces, and the shortest exact numbers."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @property
    def key(self) -> str:
        """SHA-256 (hexadecimal) of the canonical JSON."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()

    @property
    def folder_name(self) -> str:
        """The unique name of the run's folder, as "p0.8-s0-1f0c3a5b7d9e"."""
        noise = self.noise.replace(":", "-") if self.corruption is None else f"p{self.corruption:g}"
        seed = [] if self.seed is None else [f"s{self.seed}"]
        return "-".join([noise, *seed, self.key[:12]])


def _is_seeded(noise: str) -> bool:
    """Return whether a kind of noise is drawn with the seed of a run."""
    return noise != "published" and ":" not in noise


def _seeds(seed: int, noise: str) -> dict[str, Any]:
    """Return the fields of the seeds that derive from one."""
    seeds = Seeds.derive(seed)
    noise_seed = seeds.noise if _is_seeded(noise) else None
    return {"noise_seed": noise_seed, "init_seed": seeds.init, "order_seed": seeds.order}


def _as_tuples(value: Any) -> Any:
    """Turn lists, as JSON has them, into tuples."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value
