"""The runs and experiments that tables and figures need, at the paper's scale or a smaller one.

The scales `small` and `medium` train the same networks on a fixed, class-balanced subset of the training
images, with fewer seeds and with optimiser settings that memorise few images quickly. The paper's effects
need about 10,000 images: `medium` shows them, `small` is for a first trial. Their numbers are not comparable
with the paper's, and every table and figure made from them says so.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, product
from typing import Any

import torch

from layerprobe.errors import InputError, unknown_name
from layerprobe.paper import published
from layerprobe.paper.experiments import EXPERIMENTS, further
from layerprobe.paper.figures import FIGURES
from layerprobe.paper.pairs import PAIRS
from layerprobe.paper.selection import DEGREES, EVERY_DEGREE, MEDIUM
from layerprobe.paper.tables import TABLES
from layerprobe.runs.grid import operations
from layerprobe.runs.scheduler import Location
from layerprobe.runs.specs import Edit, RunSpec
from layerprobe.runs.states import so_far
from layerprobe.training import Seeds
from layerprobe.training.recipe import NEVER
from layerprobe.utils.settings import one_thread

ONE_DEGREE = 0.4  # of experiments at a single degree
# Pairs with human labels; `layerprobe paper train --noise` trains any other.
HUMAN = {
    "cnn-cifar10": ("cifar-10n:aggre", "cifar-10n:random1", "cifar-10n:worst"),
    "alexnet-cifar100": ("cifar-100n:noisy",),
}
# Pairs, degrees and numbers of training images of the figure `training_images`, beside those of the scale.
SIZED_PAIRS, SIZED_DEGREES, SIZES = ("mlp-mnist", "cnn-fashion-mnist"), (0.4, 0.8), (1000, 3000, 10_000)
DYNAMICS_PAIRS = ("mlp-mnist", "cnn-cifar10", "mlp-digits")  # pairs whose checkpoints are kept
EDITED_PAIR = "cnn-cifar10"
EDIT_EPOCHS, LAST_EPOCH = (10, 40), 100  # of the edit midway in the follow-up study (arXiv 2603.19865)
EFFICIENCY = 0.6  # training speed over matrix-product speed, between that of the MLPs and of the CNNs


@dataclass(frozen=True)
class StudyScale:
    """The size of the runs of a study."""

    name: str
    seeds: int  # independent seeds per cell, for pairs without an entry in `settings`
    # differences from a pair's own recipe and data: keywords of `RunSpec.of`, and possibly "seeds"
    settings: Mapping[str, Mapping[str, Any]]
    released: bool = False  # whether the runs are published weights

    def spec(self, pair: str, corruption: float | None, seed: int, **changes: Any) -> RunSpec:
        """Return a run of this scale.

        Parameters
        ----------
        pair, corruption, seed, **changes
            As in `RunSpec.of`.
        """
        own = {name: value for name, value in self.settings.get(pair, {}).items() if name != "seeds"}
        return RunSpec.of(pair, corruption, seed, **{**own, **changes})

    def specs(self, pairs: Sequence[str], degrees: Sequence[float | None], **changes: Any) -> list[RunSpec]:
        """Return the runs of pairs at corruption degrees (None: human labels) with all their seeds.

        Parameters
        ----------
        pairs, degrees, **changes
            As in `spec`.
        """
        specs = []
        for pair in pairs:
            seeds = self.settings.get(pair, {}).get("seeds", self.seeds)
            cells = product(degrees, range(seeds) if isinstance(seeds, int) else seeds)
            specs += [self.spec(pair, p, seed, **changes) for p, seed in cells]
        return specs


_MLP = {"learning_rate": 1e-2, "target": 0.99}
_CNN = {"learning_rate": 1e-3, "batch_size": 64, "target": 0.99}
# AlexNet starts with a long plateau; small batches leave it after fewer images.
_ALEXNET = {"learning_rate": 5e-4, "batch_size": 25, "target": 0.99, "seeds": 1}
# The first 20 of 200 classes, for 25 or 250 images per class instead of 2.5 or 25.
_TINY_IMAGENET = {**_ALEXNET, "options": {"num_classes": 20}}
_RESNET = {"learning_rate": 1e-2, "target": 0.99, "seeds": 1}
_DIGITS = {"target": 0.99}  # not a pair of the paper: for a quick trial of everything
# By pair: training and test images at small scale, training images at medium scale, other settings. All test
# images are used at medium scale.
_SETTINGS: dict[str, tuple[tuple[int, int], int | None, dict[str, Any]]] = {
    "mlp-mnist": ((1000, 2000), 10_000, _MLP),
    "mlp-cifar10": ((1000, 2000), 10_000, _MLP),
    "cnn-mnist": ((1000, 2000), 10_000, _CNN),
    "cnn-fashion-mnist": ((1000, 2000), 10_000, _CNN),
    "cnn-cifar10": ((1000, 2000), 10_000, _CNN),
    "alexnet-cifar100": ((1000, 1000), 6000, _ALEXNET),
    "alexnet-tiny-imagenet": ((500, 1000), 5000, _TINY_IMAGENET),
    "resnet18-cifar10": ((500, 500), 10_000, _RESNET),
    "mlp-digits": ((300, 200), None, _DIGITS),
}
_SMALL = {
    pair: {"subset": few, "test_subset": tested, **own} for pair, ((few, tested), _, own) in _SETTINGS.items()
}
# With 10,000 images and a learning rate of 1e-3, accuracy on the training labels of a CNN rises to 0.96 and
# then fluctuates for hundreds of epochs; with 5e-4 it reaches the target. With batches of 25 at 5e-4 an
# AlexNet on 5,000 images stays at chance for the first three epochs. With batches of 64, its accuracy on
# CIFAR-100 fluctuates below 0.99 for 120 epochs.
_SLOWER = {
    "cnn": {"learning_rate": 5e-4},
    "alexnet-cifar100": {"learning_rate": 2e-4, "batch_size": 128},
    "alexnet-tiny-imagenet": {"learning_rate": 2e-4, "batch_size": 64},
}
_MEDIUM = {
    pair: {"subset": subset, **own, **_SLOWER.get("cnn" if pair.startswith("cnn") else pair, {})}
    for pair, (_, subset, own) in _SETTINGS.items()
}
SCALES = {
    "full": StudyScale("full", 3, {}),
    "medium": StudyScale("medium", 2, _MEDIUM),
    "small": StudyScale("small", 2, _SMALL),
}


def released_scale(pair: str, runs: Sequence[int]) -> StudyScale:
    """Return the scale of published weights: all images, the published noise draw.

    Parameters
    ----------
    pair, runs
        The numbers of the runs.
    """
    settings = {"protocol": "published", "weights": "published", "seeds": tuple(runs)}
    return StudyScale("full", len(runs), {pair: settings}, released=True)


def _mlps(scale: StudyScale, pairs: Sequence[str], **changes: Any) -> list[RunSpec]:
    """Return the MLPs of the paper at every degree."""
    names = [name for name in pairs if name.startswith("mlp") and PAIRS[name].recipe.optimizer == "sgd"]
    return scale.specs(names, EVERY_DEGREE, **changes)


def _one_seed_varied(scale: StudyScale, pairs: Sequence[str]) -> list[RunSpec]:
    """Return runs of the first pair in which the seed of noise, initial weights or batch order differs."""
    base = scale.spec(pairs[0], ONE_DEGREE, 0)
    specs = [base]
    for other in range(1, 3):
        drawn = Seeds.derive(other)
        specs += [
            replace(base, seed=None, noise_seed=drawn.noise),
            replace(base, seed=None, init_seed=drawn.init),
            replace(base, seed=None, order_seed=drawn.order),
        ]
    return specs


def _other_sizes(scale: StudyScale, pairs: Sequence[str]) -> list[RunSpec]:
    """Return runs on fewer images than all others of the scale, and on all images by the recipe of the paper.

    The recipe of medium scale does not memorise 60,000 images. At small scale there are none.
    """
    specs = []
    for pair in (name for name in SIZED_PAIRS if name in pairs):
        whole = PAIRS[pair].train_size
        own = scale.settings.get(pair, {}).get("subset") or whole
        if own >= MEDIUM:
            specs += [scale.spec(pair, p, 0, subset=n) for p in SIZED_DEGREES for n in SIZES if n < own]
            specs += [RunSpec.of(pair, p, 0) for p in SIZED_DEGREES if own < whole]
    return specs


def _human(scale: StudyScale, pairs: Sequence[str]) -> list[RunSpec]:
    """Return runs on human labels."""
    noises = [(pair, noise) for pair in pairs for noise in HUMAN.get(pair, ())]
    return [spec for pair, noise in noises for spec in scale.specs([pair], [None], noise=noise)]


def _checkpointed(scale: StudyScale, pairs: Sequence[str]) -> list[RunSpec]:
    """Return the runs whose weights are kept during training."""
    return [scale.spec(pair, ONE_DEGREE, 0) for pair in pairs if pair in DYNAMICS_PAIRS]


def _midway(scale: StudyScale, pairs: Sequence[str]) -> list[RunSpec]:
    """Return runs whose last layer is edited midway, and one without an edit, all to the same last epoch."""
    pair = EDITED_PAIR if EDITED_PAIR in pairs else pairs[0]
    unreachable = {"target": NEVER, "max_epochs": LAST_EPOCH}
    edits = [scale.spec(pair, ONE_DEGREE, 0, **unreachable, edit=Edit(epoch)) for epoch in EDIT_EPOCHS]
    return [scale.spec(pair, ONE_DEGREE, 0, **unreachable), *edits]


# Families of runs, each a function from a scale and pairs to runs.
FAMILIES: dict[str, Callable[[StudyScale, Sequence[str]], list[RunSpec]]] = {
    "clean": lambda scale, pairs: scale.specs(pairs, [0.0]),
    "grid": lambda scale, pairs: scale.specs(pairs, DEGREES),
    "shuffled": lambda scale, pairs: scale.specs(pairs, [1.0]),
    "sgd": _mlps,
    "adam": partial(_mlps, optimizer="adam", learning_rate=1e-4),
    "seeds": _one_seed_varied,
    "images": _other_sizes,
    "human": _human,
    "checkpoints": _checkpointed,
    "midway": _midway,
}
OTHER = "it shows other pairs"  # why a table or figure has no runs
RELEASED = {"clean", "grid", "shuffled"}  # families that published weights can be of
# Families of runs by the tables and figures that show them; all others show "grid".
_AT_EVERY_DEGREE = ["table2", "table3", "figure2", "figure3", "figure12", "figure13", "figure15"]
_AT_EVERY_DEGREE += ["noisy_subspaces", "true_subspaces", "components", "untrained"]
_AT_EVERY_DEGREE += ["figure4", "figure27", "figure31", "retraining", "retraining_epochs", "history"]
_SHOWN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_AT_EVERY_DEGREE, ("clean", "grid", "shuffled")),
    **dict.fromkeys(["figure17", "flipped"], ("grid", "shuffled")),
    "supplementary_table1": (),
    **dict.fromkeys(["layers", "thresholds", "probes", "similarity"], ("clean", "grid")),
    "latent": ("clean",),
    "controls": ("clean", "grid", "shuffled", "adam"),
    "optimizers": ("sgd", "adam"),
    "sensitivity": ("seeds", "grid"),
    "training_images": ("grid", "images"),
    "natural": ("human",),
    "dynamics": ("checkpoints",),
    "midway": ("midway",),
}


@dataclass(frozen=True)
class ReproductionPlan:
    """The runs, experiments, tables and figures of a reproduction."""

    scale: StudyScale
    targets: tuple[str, ...]  # the tables and figures that it writes
    work: dict[RunSpec, tuple[str, ...]]  # the runs, and the experiments on each
    checkpoints: frozenset[RunSpec]  # the runs that keep the weights of chosen epochs
    shown: dict[str, tuple[RunSpec, ...]]  # the runs that each target shows
    pairs: tuple[str, ...]
    left_out: dict[str, str]  # the targets that cannot show these pairs, with the reasons


def targets(names: Sequence[str]) -> tuple[str, ...]:
    """Return the tables and figures of these names without repeats; "all" stands for every one.

    Raises
    ------
    InputError
        If there is no such table or figure.
    """
    known = dict.fromkeys([*TABLES, *FIGURES])
    for name in names:
        if name not in (*known, "all"):
            raise unknown_name("table or figure", name, ["all", *known])
    return tuple(known) if "all" in names else tuple(dict.fromkeys(names))


def plan(
    names: Sequence[str], scale: StudyScale, pairs: Sequence[str], probes: Sequence[str] = ()
) -> ReproductionPlan:
    """Return the runs and experiments that tables and figures need.

    Parameters
    ----------
    names : sequence of str
        Names of tables and figures, or "all".
    scale, pairs
    probes : sequence of str
        Further probes for the experiment `probes`.

    Raises
    ------
    InputError
        If a name is unknown, there is no pair or nothing to do, or no experiment takes further probes.
    """
    if not pairs:
        raise InputError("expected at least one pair of network and data set")
    chosen = targets(names)
    needed: dict[RunSpec, set[str]] = {}
    shown: dict[str, tuple[RunSpec, ...]] = {}
    left_out: dict[str, str] = {}
    for name in chosen:
        entries = [registry[name] for registry in (TABLES, FIGURES) if name in registry]
        needs = {experiment for entry in entries for experiment in entry.needs}
        needs |= {*FIGURES[name].also} if name in FIGURES else set()
        kinds = [kind for kind in _SHOWN.get(name, ("grid",)) if not scale.released or kind in RELEASED]
        trains = any(entry.history for entry in entries) or any(EXPERIMENTS[need].trains for need in needs)
        fitting = pairs if name in TABLES else [pair for pair in pairs if FIGURES[name].shows(pair)]
        possible = fitting and not (scale.released and trains)
        families = (FAMILIES[kind](scale, fitting) for kind in kinds if possible)
        shown[name] = tuple(dict.fromkeys(chain.from_iterable(families)))
        for spec in shown[name]:
            needed.setdefault(spec, set()).update(needs)
        if not shown[name] and name != "supplementary_table1":
            untrained = scale.released and (trains or not kinds)
            left_out[name] = (
                "it needs training, not done on weights trained elsewhere" if untrained else OTHER
            )
    if left_out and len(left_out) == len(chosen):
        reasons = (f"{name}: {reason}" for name, reason in left_out.items())
        raise InputError(f"there is nothing to do for {', '.join(pairs)}; {'; '.join(reasons)}")
    checkpoints = frozenset(_checkpointed(scale, pairs)) & needed.keys()
    added = further(probes, set(chain.from_iterable(needed.values())))
    work: dict[RunSpec, tuple[str, ...]] = {}
    for spec, wanted in needed.items():
        excluded = set() if spec in checkpoints else {"dynamics"}
        own = [name for name in EXPERIMENTS if name in wanted - excluded and EXPERIMENTS[name].applies(spec)]
        work[spec] = (*own, *(added if "probes" in wanted else ()))
    return ReproductionPlan(scale, chosen, work, checkpoints, shown, tuple(pairs), left_out)


def seconds_left(specs: Sequence[RunSpec], root: Location) -> float:
    """Return an estimate of the seconds that one core of this machine needs to finish these runs.

    It is infinite if a run is of a data set of unknown size. Epochs that are done are not counted.

    Parameters
    ----------
    specs, root
    """
    rate = EFFICIENCY * _operations_per_second() if specs else 1.0
    left = ((max(0, epochs_expected(spec) - so_far(root, spec)[0]), operations(spec)) for spec in specs)
    return sum(epochs * per_epoch / rate for epochs, per_epoch in left if epochs)


def epochs_expected(spec: RunSpec) -> float:
    """Return an estimate of the epochs of a run: those of the published runs, or those of ours for subsets.

    Small subsets were memorised after about 20 epochs without noise and 100 at p = 0.8.
    """
    degree = 0.4 if spec.corruption is None else spec.corruption
    guess = 20 + 100 * degree
    if spec.subset is None:
        rows = published.training()
        same = rows[(rows["pair"] == spec.pair) & ((rows["corruption"] - degree).abs() < 0.11)]
        guess = float(same["last_epoch"].mean()) if len(same) else 200.0
    return min(guess, spec.recipe.max_epochs) if spec.recipe.target <= 1 else spec.recipe.max_epochs


def _operations_per_second() -> float:
    """Return the speed of float32 matrix products on one thread, as if its core were idle."""
    x = torch.ones(1024, 1024)
    with one_thread():
        x @ x
        start = time.thread_time()
        for _ in range(3):
            x @ x
        return 3 * 2 * 1024**3 / (time.thread_time() - start)
