"""The paper's experiments and our own: each is a function from a finished run to tidy rows."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from layerprobe.errors import InputError
from layerprobe.paper.experiments.corrected import corrected_retraining, corrected_subspaces
from layerprobe.paper.experiments.follow_up import DYNAMICS_PROBES, EDIT_PROBES, dynamics, weight_edit
from layerprobe.paper.experiments.network_similarity import similarity
from layerprobe.paper.experiments.probe_comparison import PROBES, cost, further_probe, probes
from layerprobe.paper.experiments.relabelling import relabel_statistics, retraining
from layerprobe.paper.experiments.subspaces import (
    controls,
    flipped_rows,
    latent_memorisation,
    noisy_subspaces,
    true_subspaces,
)
from layerprobe.paper.run_outputs import FinishedRun
from layerprobe.probes import REGISTRY as KNOWN_PROBES
from layerprobe.runs.specs import RunSpec
from layerprobe.utils.registry import Registry, calling_module, takes

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "controls",
    "corrected_retraining",
    "corrected_subspaces",
    "cost",
    "dynamics",
    "experiment_of",
    "flipped_rows",
    "further",
    "latent_memorisation",
    "noisy_subspaces",
    "origin_of",
    "probes",
    "probes_of",
    "register_experiment",
    "relabel_statistics",
    "retraining",
    "similarity",
    "true_subspaces",
    "weight_edit",
]


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes
    ----------
    measure : callable
        Return rows of `layerprobe.paper.rows.tidy`, given a `FinishedRun`.
    suits : callable
        Return whether the experiment applies to a run, given a `RunSpec`.
    probes : tuple of str
        The probes that it fits.
    trains : bool
        Whether it trains the network or needs its training, and so cannot be done on published weights.
    """

    measure: Callable[[FinishedRun], pd.DataFrame]
    suits: Callable[[RunSpec], bool] = lambda spec: True
    probes: tuple[str, ...] = ()
    trains: bool = False

    def applies(self, spec: RunSpec) -> bool:
        """Return whether the experiment can be done on a run."""
        return self.suits(spec) and not (self.trains and spec.weights)


def _is_generalised(spec: RunSpec) -> bool:
    return spec.corruption == 0


def _is_memorised(spec: RunSpec) -> bool:
    return spec.corruption != 0


def _has_uniform_noise(spec: RunSpec) -> bool:
    return spec.noise in ("uniform", "published") and 0 < (spec.corruption or 0) < 1


def _check(name: str, experiment: Any) -> Experiment:
    if not name.isidentifier():
        raise InputError(f"expected a name of letters, digits and _ for an experiment, got {name!r}")
    if isinstance(experiment, Experiment):
        return experiment
    if not takes(experiment, 1):
        raise InputError(
            f"expected a function from a finished run to rows as the experiment {name!r}, "
            f"got {experiment!r:.80}"
        )
    return Experiment(experiment)


MASC = ("masc",)
EXPERIMENTS: Registry[Experiment] = Registry("experiment", "layerprobe.experiments", _check)
EXPERIMENTS.own(
    {
        "noisy_subspaces": Experiment(noisy_subspaces, probes=MASC),
        "true_subspaces": Experiment(true_subspaces, _is_memorised, MASC),
        "latent_memorisation": Experiment(latent_memorisation, _is_generalised, MASC),
        "controls": Experiment(controls, probes=MASC),
        "probes": Experiment(probes, probes=PROBES),
        "retraining": Experiment(retraining, probes=MASC, trains=True),
        "flipped_rows": Experiment(flipped_rows, _is_memorised, MASC),
        "weight_edit": Experiment(weight_edit, probes=EDIT_PROBES),
        "similarity": Experiment(similarity, _is_memorised, MASC),
        "dynamics": Experiment(dynamics, probes=DYNAMICS_PROBES, trains=True),
        "corrected_subspaces": Experiment(corrected_subspaces, _has_uniform_noise, MASC),
        "corrected_retraining": Experiment(corrected_retraining, _has_uniform_noise, MASC, trains=True),
        "cost": Experiment(cost, _is_memorised, PROBES),
    }
)
FURTHER = "probes-"  # begins the names of experiments on one further probe

EXTENSIBLE = (
    f"Only the experiment named probes takes --probes. It always fits {', '.join(PROBES)}; --probes adds "
    "others of layerprobe.probes.available(). Every other experiment has fixed probes."
)
"""The statement on --probes in help, messages and docs."""


def register_experiment(name: str, experiment: Callable[[FinishedRun], pd.DataFrame] | Experiment) -> None:
    """Register an experiment of your own, for `layerprobe.paper.analysis.analyse`.

    Installed packages register theirs by the entry points "layerprobe.experiments".

    Parameters
    ----------
    name : str
        A Python identifier; the column experiment of its rows.
    experiment : callable, or Experiment
        Return rows of `layerprobe.paper.rows.tidy`, given a `FinishedRun`. With an `Experiment` it can be
        limited to some runs.

    Raises
    ------
    InputError
        If the name is one of layerprobe's own experiments, or `experiment` is not callable.
    """
    EXPERIMENTS.register(name, experiment, calling_module())


def experiment_of(name: str) -> Experiment:
    """Return the experiment of a name; "probes-NAME" is the experiment probes with the probe NAME alone.

    Raises
    ------
    InputError
        If there is no such experiment, or no such probe.
    """
    if not name.startswith(FURTHER):
        return EXPERIMENTS[name]
    probe = name.removeprefix(FURTHER)
    KNOWN_PROBES[probe]  # raises if it is unknown
    return Experiment(partial(further_probe, name=probe), probes=(probe,))


def origin_of(name: str) -> dict[str, str]:
    """Return the module and version of an experiment or of its further probe; empty for our own."""
    return EXPERIMENTS.origin(name) or KNOWN_PROBES.origin(name.removeprefix(FURTHER))


def further(probes: Sequence[str], experiments: Collection[str]) -> tuple[str, ...]:
    """Return the experiments that measure further probes, for --probes.

    Parameters
    ----------
    probes : sequence of str
        Names of probes; those that the experiment `probes` fits anyway are left out.
    experiments : collection of str
        The experiments to do.

    Raises
    ------
    InputError
        If there are probes and no experiment takes them, or a probe is unknown.
    """
    for name in probes:
        KNOWN_PROBES[name]  # raises if it is unknown
    if probes and "probes" not in experiments:
        raise InputError(f"--probes is for the experiment probes, which is not done here. {EXTENSIBLE}")
    return tuple(f"{FURTHER}{name}" for name in dict.fromkeys(probes) if name not in PROBES)


def probes_of() -> pd.DataFrame:
    """Return which probes each experiment fits, with the columns experiment, probes and further."""
    lines = [
        (name, ", ".join(experiment.probes) or "none", "by --probes" if name == "probes" else "")
        for name, experiment in EXPERIMENTS.items()
    ]
    return pd.DataFrame(lines, columns=["experiment", "probes", "further"])
