"""MASC with the noise taken out of the second moments, `MASC(noise=p)`; not in the paper.

p is the corruption degree of the run. In practice it is an estimate, so it is also taken 0.1 too low and 0.1
too high, from 0 to `LARGEST`.
"""

from collections.abc import Iterable

from layerprobe.paper.experiments.probe_comparison import is_affordable
from layerprobe.paper.experiments.relabelling import relabel_and_retrain
from layerprobe.paper.experiments.subspaces import fit_probes, network_records, probe_records
from layerprobe.paper.rows import Records, measured_as
from layerprobe.paper.run_outputs import FinishedRun, LayerData
from layerprobe.probes import MASC

SETTINGS = {"p": 0.0, "p - 0.1": -0.1, "p + 0.1": 0.1}  # by what p is wrong
LARGEST = 0.99  # noise that is taken out, also at a larger p of the run
# Limit of K d^3 on a subset, for all layers of the MLPs and CNNs: a fit takes at most 1.5 min on one core.
LIMIT_OF_SUBSET = 3e11


@measured_as("corrected_subspaces")
def corrected_subspaces(finished: FinishedRun) -> Records:
    """Measure MASC with noisy subspaces whose moments are without the noise, and the network itself.

    The column setting says which p is taken. A layer of d features and n rows decomposes one matrix of
    min(n, d) rows per class; layers where this takes too long have no rows of MASC.
    """
    yield from network_records(finished, finished.outputs)
    for layer, data in finished.outputs.items():
        fitted = fit_probes(finished, layer, data, _corrected(finished, data, SETTINGS), ["noisy"])
        for record in probe_records(finished, fitted, data):
            yield {**record, "setting": record["probe"], "probe": "masc"}


@measured_as("corrected_retraining")
def corrected_retraining(finished: FinishedRun) -> Records:
    """Relabel the training data by these subspaces at their best layer, and continue training.

    As `layerprobe.paper.experiments.retraining` does by the subspaces of the paper. Layers whose
    decompositions take too long cannot be chosen.

    Raises
    ------
    DataError
        If there are too few test images to split, or no layer can be chosen.
    """
    return relabel_and_retrain(finished, lambda data: _corrected(finished, data, ["p"]), ["noisy"])


def _corrected(finished: FinishedRun, data: LayerData, settings: Iterable[str]) -> dict[str, MASC]:
    if not is_affordable(finished, min(data.train.shape), LIMIT_OF_SUBSET):
        return {}
    p = finished.spec.corruption or 0.0
    return {name: MASC(noise=min(max(p + SETTINGS[name], 0.0), LARGEST)) for name in settings}
