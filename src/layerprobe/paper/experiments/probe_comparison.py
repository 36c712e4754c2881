"""The paper's probes on every layer: their accuracies and their costs.

The paper's operation counts for fitting MASC use the variance threshold as the number of components. Here a
class of n_k rows costs n_k d^2 for its second moment (the symmetric half) and 22/3 d^3 for the
eigendecomposition. Where n_k < d, its Gram matrix costs n_k^2 d + 22/3 n_k^3 + 2 n_k d r_k instead.
"""

import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from sklearn.base import ClassifierMixin, clone

from layerprobe.errors import DegenerateWarning
from layerprobe.paper.experiments.subspaces import fit_probes, network_records, probe_records
from layerprobe.paper.rows import Records, measured_as
from layerprobe.paper.run_outputs import FinishedRun, LayerData
from layerprobe.probes import AdamLogisticRegression, LinearProbe, Probe, create
from layerprobe.utils.peak_memory import peak_bytes

# The probes of the paper and of its follow-up. Further probes of the registry are not part of the study.
PROBES = ("masc", "ncm", "logistic", "lda", "qda", "knn", "velpic")
SEEDED = ("logistic",)  # probes whose accuracy depends on a seed of their own, by up to 3 points
PROBE_SEEDS = range(3)
OF_THE_PAPER = {"logistic": "logistic_adam"}  # names in the registry, where the paper has its own recipe
EIGH = 22 / 3  # operations of a symmetric eigendecomposition over d^3
# Limits of K d^3 for the decompositions of K matrices (d, d), as of QDA. On a whole data set of ten classes
# the limit is at d = 7900 and takes about 15 minutes; on a subset it is at d = 1250 and takes some seconds.
MOST_CUBES, MOST_CUBES_OF_SUBSET = 5e12, 2e10


@measured_as("probes")
def probes(finished: FinishedRun) -> Records:
    """Measure each of `PROBES` on every layer, and the network itself.

    The probes in `SEEDED` are fitted with each of `PROBE_SEEDS`, which the column setting names.
    QDA decomposes one (d, d) matrix per class. Layers where this takes too long have no rows of QDA; see
    `affordable_probes`.
    """
    yield from network_records(finished, finished.outputs)
    for layer, data in finished.outputs.items():
        affordable: dict[str, ClassifierMixin] = {}
        for name in affordable_probes(finished, data.train.shape[1]):
            probe = create(OF_THE_PAPER.get(name, name))
            if name in SEEDED:
                affordable |= {f"{name} {s}": clone(probe).set_params(random_state=s) for s in PROBE_SEEDS}
            else:
                affordable[name] = probe
        for record in probe_records(finished, fit_probes(finished, layer, data, affordable), data):
            name, _, seed = record["probe"].partition(" ")
            yield {**record, "probe": name, "setting": f"seed {seed}" if seed else ""}


@measured_as("probes")
def further_probe(finished: FinishedRun, name: str) -> Records:
    """Measure one further probe on every layer, as `probes` does with its own.

    Parameters
    ----------
    finished, name
        The name is one of `layerprobe.probes.available`.
    """
    for layer, data in finished.outputs.items():
        yield from probe_records(finished, fit_probes(finished, layer, data, {name: create(name)}), data)


def affordable_probes(finished: FinishedRun, d: int) -> list[str]:
    """Return the probes to fit on a layer; QDA only where K d^3 is below a limit.

    Parameters
    ----------
    finished, d
    """
    return [name for name in PROBES if name != "qda" or is_affordable(finished, d)]


def is_affordable(finished: FinishedRun, d: int, most_of_subset: float = MOST_CUBES_OF_SUBSET) -> bool:
    """Return whether decomposing one (d, d) matrix per class does not take too long.

    Parameters
    ----------
    finished, d
        The run gives the number of classes K.
    most_of_subset : float
        Limit of K d^3 for a run on a subset of the data.
    """
    limit = MOST_CUBES if finished.spec.subset is None else most_of_subset
    return finished.images.num_classes * d**3 <= limit


@measured_as("cost", fitted_on="noisy")
def cost(finished: FinishedRun) -> Records:
    """Measure operations, seconds and peak memory of fitting on noisy labels and of predicting the test rows.

    Seconds and bytes are those of one thread of this machine, each measured once after a warm-up on a few
    rows. Bytes are in addition to those of the data; they are measured on Linux only and absent elsewhere.
    """
    with warnings.catch_warnings(action="ignore", category=DegenerateWarning):
        for layer, data in finished.outputs.items():
            for name in affordable_probes(finished, data.train.shape[1]):
                for metric, value in _measure(name, data, finished.noisy).items():
                    yield {"layer": layer, "probe": name, "metric": metric, "value": value}


def fit_flops(probe: Probe, counts: np.ndarray, d: int) -> float:
    """Return the floating point operations of fitting, to leading order.

    MASC and VeLPIC: `masc_fit_flops`. Nearest class mean: n d. Logistic regression: 4 n d K per epoch, the
    product with the weights and that for their gradient; rows have no gradient. LDA: two singular value
    decompositions, of (n, d) and (K, d), at 6 a b^2 + 20 b^3 for the sides a >= b. QDA: 2 n_k d^2 + 22/3 d^3
    per class. kNN stores its rows: 0. NaN for other probes.

    Parameters
    ----------
    probe, counts, d
        Training rows n_k per class, (K,); n is their sum.
    """
    n, K = int(counts.sum()), len(counts)
    if hasattr(probe, "subspaces_"):
        return masc_fit_flops(counts, d, probe.subspaces_.ranks)
    if isinstance(probe, AdamLogisticRegression):
        return 4.0 * n * d * K * probe.epochs
    return {
        "VeLPIC": masc_fit_flops(counts, d, [1] * K) + 2.0 * n * d * K,
        "NearestClassMean": float(n * d),
        "LDA": _svd_flops(n, d) + _svd_flops(K, d),
        "QDA": 2.0 * n * d**2 + EIGH * K * d**3,
        "KNN": 0.0,
    }.get(type(probe).__name__, np.nan)


def masc_fit_flops(counts: np.ndarray | Sequence[int], d: int, ranks: Sequence[int]) -> float:
    """Return the operations of fitting K subspaces, with the cheaper of the two forms per class.

    Parameters
    ----------
    counts, d, ranks
        Training rows n_k and components r_k per class.
    """
    per_class = [
        n_k * d**2 + EIGH * d**3 if n_k >= d else n_k**2 * d + EIGH * n_k**3 + 2 * n_k * d * r_k
        for n_k, r_k in zip(map(int, counts), map(int, ranks), strict=True)
    ]
    return float(sum(per_class))


def predict_flops(probe: Probe, m: int, n: int, d: int) -> float:
    """Return the floating point operations of predicting m rows, to leading order.

    MASC: 2 m d sum of r_k. Linear probes: 2 m d K. QDA: 2 m d^2 K. kNN: 2 m n d. NaN for other probes.

    Parameters
    ----------
    probe, m, n, d
        n is the number of training rows.
    """
    K = len(probe.classes_)
    if hasattr(probe, "subspaces_"):
        return 2.0 * m * d * sum(probe.subspaces_.ranks)
    if isinstance(probe, LinearProbe):
        return 2.0 * m * d * K
    return {"QDA": 2.0 * m * d**2 * K, "KNN": 2.0 * m * n * d}.get(type(probe).__name__, np.nan)


def _measure(name: str, data: LayerData, labels: np.ndarray) -> dict[str, float]:
    """Return the cost of one probe on one layer by metric."""
    few = np.random.default_rng(0).random((64, 8), dtype=np.float32)
    name = OF_THE_PAPER.get(name, name)
    create(name).fit(few, np.arange(64) % 2).predict(few)  # imports and first calls are not measured
    probe = create(name)
    fit_seconds, fit_peak = _seconds_and_peak(lambda: probe.fit(data.train, labels))
    predict_seconds, predict_peak = _seconds_and_peak(lambda: probe.predict(data.test))
    peaks = {}
    if fit_peak is not None and predict_peak is not None:
        peaks["peak_bytes"] = max(fit_peak, predict_peak)
    n, d = data.train.shape
    return {
        "fit_seconds": fit_seconds,
        "predict_seconds": predict_seconds,
        **peaks,
        "fit_flops": fit_flops(probe, np.unique(labels, return_counts=True)[1], d),
        "predict_flops": predict_flops(probe, len(data.test), n, d),
    }


def _svd_flops(a: int, b: int) -> float:
    a, b = max(a, b), min(a, b)
    return 6.0 * a * b**2 + 20.0 * b**3


def _seconds_and_peak(work: Callable[[], object]) -> tuple[float, int | None]:
    seconds = 0.0

    def timed() -> None:
        nonlocal seconds
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start

    peak = peak_bytes(timed)
    return seconds, peak
