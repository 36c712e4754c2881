"""From the tables and figures that somebody wants to the runs and experiments that they are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from layerprobe.errors import InputError
from layerprobe.paper.experiments import EXPERIMENTS
from layerprobe.paper.figures import FIGURES
from layerprobe.paper.scales import DEGREES, StudyScale
from layerprobe.paper.tables import TABLES
from layerprobe.runs.head_edit import Edit
from layerprobe.runs.pairs import pair as pair_of
from layerprobe.runs.specs import RunSpec
from layerprobe.training import Seeds

__all__ = ["FAMILIES", "Plan", "plan", "targets"]

Family = Callable[[StudyScale, Sequence[str]], list[RunSpec]]
ONE_DEGREE = 0.4  # where one degree has to stand for all
HUMAN = {  # natural noise is studied on these pairs; `layerprobe paper train --noise` takes any other
    "cnn-cifar10": ("cifar-10n:aggre", "cifar-10n:random1", "cifar-10n:worst"),
    "alexnet-cifar100": ("cifar-100n:noisy",),
}
FOLLOWED = ("mlp-mnist", "cnn-cifar10", "mlp-digits")  # whose checkpoints are kept for the dynamics
EDITED = "cnn-cifar10"
EDIT_EPOCHS, LAST_EPOCH = (10, 40), 100  # of the midway edit (METHOD section 5)


def _cells(degrees: Sequence[float]) -> Family:
    def family(scale: StudyScale, pairs: Sequence[str]) -> list[RunSpec]:
        return [scale.spec(pair, p, seed) for pair in pairs for p in degrees for seed in scale.seeds_of(pair)]

    return family


def _adam(scale: StudyScale, pairs: Sequence[str]) -> list[RunSpec]:
    """Return the MLPs with Adam instead of SGD."""
    mlps = [pair for pair in pairs if pair_of(pair).recipe.optimizer == "sgd" and pair.startswith("mlp")]
    return [
        scale.spec(pair, ONE_DEGREE, seed, optimizer="adam", learning_rate=1e-4)
        for pair in mlps
        for seed in scale.seeds_of(pair)
    ]


def _one_seed_varied(scale: StudyScale, pairs: Sequence[str]) -> list[RunSpec]:
    """Return the first pair with its noise, initial weights or batch order drawn anew and the rest kept."""
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


def _human(scale: StudyScale, pairs: Sequence[str]) -> list[RunSpec]:
    return [
        scale.spec(pair, None, seed, noise=noise)
        for pair in pairs
        for noise in HUMAN.get(pair, ())
        for seed in scale.seeds_of(pair)
    ]


def _followed(scale: StudyScale, pairs: Sequence[str]) -> list[RunSpec]:
    """Return the runs that keep checkpoints, whatever they are trained for."""
    return [scale.spec(pair, ONE_DEGREE, 0) for pair in pairs if pair in FOLLOWED]


def _midway(scale: StudyScale, pairs: Sequence[str]) -> list[RunSpec]:
    """Return runs whose head is edited midway, and one without an edit, all to the same last epoch."""
    edited = EDITED if EDITED in pairs else pairs[0]
    never = {"target": 2.0, "max_epochs": LAST_EPOCH}
    return [
        scale.spec(edited, ONE_DEGREE, 0, **never, **({"edit": Edit(epoch)} if epoch else {}))
        for epoch in (None, *EDIT_EPOCHS)
    ]


FAMILIES: dict[str, Family] = {
    "clean": _cells([0.0]),
    "grid": _cells(DEGREES),
    "shuffled": _cells([1.0]),
    "adam": _adam,
    "seeds": _one_seed_varied,
    "human": _human,
    "followed": _followed,
    "midway": _midway,
}
_ALL_DEGREES = ("clean", "grid", "shuffled")
# The families of runs that a table or figure shows, where that is not the grid of Table 1.
_SHOWN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        [
            "table2",
            "table3",
            "figure2",
            "figure3",
            "figure12",
            "figure13",
            "figure15",
            "figure17",
            "components",
        ],
        _ALL_DEGREES,
    ),
    **dict.fromkeys(["layers", "thresholds", "probes"], ("clean", "grid")),
    "latent": ("clean",),
    "similarity": ("clean", "grid"),
    "controls": ("grid", "adam"),
    "sensitivity": ("seeds", "grid"),
    "natural": ("human",),
    "dynamics": ("followed",),
    "midway": ("midway",),
}


@dataclass(frozen=True)
class Plan:
    """What a reproduction does.

    Attributes
    ----------
    scale : StudyScale
        Its size.
    targets : tuple of str
        The tables and figures that it writes.
    work : dict of RunSpec to tuple of str
        The runs, and the experiments on each.
    checkpoints : frozenset of RunSpec
        The runs that keep the weights of chosen epochs.
    shown : dict of str to tuple of RunSpec
        The runs that each target shows.
    """

    scale: StudyScale
    targets: tuple[str, ...]
    work: dict[RunSpec, tuple[str, ...]]
    checkpoints: frozenset[RunSpec]
    shown: dict[str, tuple[RunSpec, ...]]


def targets(names: Sequence[str]) -> tuple[str, ...]:
    """Return the tables and figures of these names, each once; "all" is every one.

    Raises
    ------
    InputError
        If there is no such table or figure.
    """
    known = [*TABLES, *(name for name in FIGURES if name not in TABLES)]
    if unknown := [name for name in names if name not in (*known, "all")]:
        raise InputError(f"Unknown: {', '.join(unknown)}. Available: all, {', '.join(known)}.")
    return tuple(known) if "all" in names else tuple(dict.fromkeys(names))


def plan(names: Sequence[str], scale: StudyScale, pairs: Sequence[str]) -> Plan:
    """Return what tables and figures of these names take.

    Parameters
    ----------
    names : sequence of str
        Of tables and figures, or "all".
    scale : StudyScale
        How large.
    pairs : sequence of str
        Networks and data sets.

    Raises
    ------
    InputError
        If a name is unknown or there is no pair.
    """
    if not pairs:
        raise InputError("expected at least one pair of network and data set")
    chosen = targets(names)
    wanted: dict[RunSpec, dict[str, None]] = {}
    shown: dict[str, tuple[RunSpec, ...]] = {}
    for name in chosen:
        needs = chain.from_iterable(
            registry[name].needs for registry in (TABLES, FIGURES) if name in registry
        )
        experiments = dict.fromkeys(needs)
        families = (FAMILIES[family](scale, pairs) for family in _SHOWN.get(name, ("grid",)))
        shown[name] = tuple(dict.fromkeys(chain.from_iterable(families)))
        for spec in shown[name]:
            wanted.setdefault(spec, {}).update(experiments)
    if not wanted:
        raise InputError(
            f"{', '.join(chosen)} shows other pairs; there is nothing to do for {', '.join(pairs)}"
        )
    followed = frozenset(_followed(scale, pairs)) & wanted.keys()
    work = {
        spec: tuple(
            name
            for name, experiment in EXPERIMENTS.items()
            if name in experiments and experiment.suits(spec) and (name != "dynamics" or spec in followed)
        )
        for spec, experiments in wanted.items()
    }
    return Plan(scale, chosen, work, followed, shown)
