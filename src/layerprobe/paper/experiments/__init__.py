"""The paper's experiments and our own: each a function from a finished run to tidy rows."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from layerprobe.paper.experiments.controls import controls
from layerprobe.paper.experiments.cost import cost
from layerprobe.paper.experiments.dynamics import dynamics
from layerprobe.paper.experiments.edits import weight_edit
from layerprobe.paper.experiments.probes import probes
from layerprobe.paper.experiments.retraining import relabel_statistics, retraining
from layerprobe.paper.experiments.similarity import similarity
from layerprobe.paper.experiments.subspaces import latent_memorisation, noisy_subspaces, true_subspaces
from layerprobe.paper.run_outputs import Subject
from layerprobe.runs.specs import RunSpec

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "controls",
    "cost",
    "dynamics",
    "latent_memorisation",
    "noisy_subspaces",
    "probes",
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
        From a `Subject` to rows as `layerprobe.paper.rows.tidy` makes them.
    suits : callable
        Whether a run is one that the experiment is for.
    """

    measure: Callable[[Subject], pd.DataFrame]
    suits: Callable[[RunSpec], bool] = lambda spec: True


def _is_generalised(spec: RunSpec) -> bool:
    return spec.corruption == 0


def _is_memorised(spec: RunSpec) -> bool:
    return spec.corruption != 0


EXPERIMENTS: dict[str, Experiment] = {
    "noisy_subspaces": Experiment(noisy_subspaces),
    "true_subspaces": Experiment(true_subspaces, _is_memorised),
    "latent_memorisation": Experiment(latent_memorisation, _is_generalised),
    "controls": Experiment(controls),
    "probes": Experiment(probes),
    "retraining": Experiment(retraining, _is_memorised),
    "weight_edit": Experiment(weight_edit),
    "similarity": Experiment(similarity, _is_memorised),
    "dynamics": Experiment(dynamics),
    "cost": Experiment(cost, _is_memorised),
}
