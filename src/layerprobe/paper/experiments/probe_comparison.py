"""The paper's probes on every layer, fitted on noisy and on true labels."""

from typing import Any

import pandas as pd
from sklearn.base import ClassifierMixin, clone

from layerprobe.paper.experiments.subspaces import fit_probes, network_records, probe_records
from layerprobe.paper.rows import tidy
from layerprobe.paper.run_outputs import FinishedRun
from layerprobe.probes import create

# The probes of the paper and of its follow-up. Further probes of the registry are not part of the study.
PROBES = ("masc", "ncm", "logistic", "lda", "qda", "knn", "velpic")
SEEDED = ("logistic",)  # probes whose accuracy depends on a seed of their own, by up to 3 points
PROBE_SEEDS = range(3)
OF_THE_PAPER = {"logistic": "logistic_adam"}  # names in the registry, where the paper has its own recipe

# Limits of K d^3 for the decompositions of QDA. On a whole data set of ten classes the limit is at d = 7900
# and takes about 15 minutes; on a subset it is at d = 1250 and takes some seconds.
MOST_CUBES, MOST_CUBES_OF_SUBSET = 5e12, 2e10


def probes(finished: FinishedRun) -> pd.DataFrame:
    """Measure each of `PROBES` on every layer, and the network itself.

    The probes in `SEEDED` are fitted with each of `PROBE_SEEDS`, which the column setting names.
    QDA decomposes one (d, d) matrix per class. Layers where this takes too long have no rows of QDA; see
    `affordable_probes`.
    """
    records: list[dict[str, Any]] = network_records(finished, finished.outputs)
    for layer, data in finished.outputs.items():
        names = affordable_probes(finished, data.train.shape[1])
        affordable: dict[str, ClassifierMixin] = {}
        for name in names:
            probe = create(OF_THE_PAPER.get(name, name))
            if name in SEEDED:
                affordable |= {f"{name} {s}": clone(probe).set_params(random_state=s) for s in PROBE_SEEDS}
            else:
                affordable[name] = probe
        for record in probe_records(finished, fit_probes(finished, layer, data, affordable), data):
            name, _, seed = record["probe"].partition(" ")
            records.append({**record, "probe": name, "setting": f"seed {seed}" if seed else ""})
    return tidy({"experiment": "probes", **record} for record in records)


def further_probe(finished: FinishedRun, name: str) -> pd.DataFrame:
    """Measure one further probe on every layer, as `probes` does with its own.

    Parameters
    ----------
    finished : FinishedRun
    name : str
        A name of `layerprobe.probes.available`.
    """
    records: list[dict[str, Any]] = []
    for layer, data in finished.outputs.items():
        records += probe_records(finished, fit_probes(finished, layer, data, {name: create(name)}), data)
    return tidy({"experiment": "probes", **record} for record in records)


def affordable_probes(finished: FinishedRun, d: int) -> list[str]:
    """Return the probes to fit on a layer; QDA only where K d^3 is below a limit.

    Parameters
    ----------
    finished : FinishedRun
        The run, which gives the number of classes K and the limit.
    d : int
    """
    limit = MOST_CUBES if finished.spec.subset is None else MOST_CUBES_OF_SUBSET
    too_long = finished.images.num_classes * d**3 > limit
    return [name for name in PROBES if name != "qda" or not too_long]
