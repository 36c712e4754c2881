"""The paper's experiments and our own: each is a function from a finished run to tidy rows."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from layerprobe.paper.experiments.baselines import controls
from layerprobe.paper.experiments.costs import cost
from layerprobe.paper.experiments.follow_up import dynamics, weight_edit
from layerprobe.paper.experiments.network_similarity import similarity
from layerprobe.paper.experiments.probe_comparison import probes
from layerprobe.paper.experiments.relabelling import relabel_statistics, retraining
from layerprobe.paper.experiments.subspaces import latent_memorisation, noisy_subspaces, true_subspaces
from layerprobe.paper.run_outputs import FinishedRun
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
    """One experiment."""

    # from a `FinishedRun` to rows of `layerprobe.paper.rows.tidy`
    measure: Callable[[FinishedRun], pd.DataFrame]
    # from a `RunSpec` to whether the experiment applies to this run
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
