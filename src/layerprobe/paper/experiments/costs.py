"""The cost of probes: operations by formula, seconds and memory by measurement.

The paper's operation counts for fitting MASC use the variance threshold as the number of components. Here a
class of n_k rows costs n_k d^2 for its second moment (the symmetric half) and 22/3 d^3 for the
eigendecomposition. Where n_k < d, its Gram matrix costs n_k^2 d + 22/3 n_k^3 + 2 n_k d r_k instead.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from layerprobe.errors import DegenerateWarning
from layerprobe.paper.experiments.probe_comparison import OF_THE_PAPER, affordable_probes
from layerprobe.paper.rows import tidy
from layerprobe.paper.run_outputs import FinishedRun, LayerData
from layerprobe.probes import AdamLogisticRegression, LinearProbe, Probe, create
from layerprobe.utils.peak_memory import peak_bytes

EIGH = 22 / 3  # operations of a symmetric eigendecomposition over d^3


def cost(finished: FinishedRun) -> pd.DataFrame:
    """Measure operations, seconds and peak memory of fitting on noisy labels and of predicting the test rows.

    Seconds and bytes are those of one thread of this machine, each measured once after a warm-up on a few
    rows. Bytes are in addition to those of the data; they are measured on Linux only and absent elsewhere.
    """
    records: list[dict[str, Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        for layer, data in finished.outputs.items():
            for name in affordable_probes(finished, data.train.shape[1]):
                records += [
                    {"layer": layer, "probe": name, "metric": metric, "value": value}
                    for metric, value in _measure(name, data, finished.noisy).items()
                ]
    return tidy({"experiment": "cost", "fitted_on": "noisy", **record} for record in records)


def fit_flops(probe: Probe, counts: np.ndarray, d: int) -> float:
    """Return the floating point operations of fitting, to leading order.

    Parameters
    ----------
    probe : Probe
    counts : ndarray of shape (K,)
        Training rows n_k per class; n is their sum.
    d : int

    Returns
    -------
    float
        MASC and VeLPIC: `masc_fit_flops`. Nearest class mean: n d. Logistic regression: 4 n d K per epoch,
        the product with the weights and that for their gradient; rows have no gradient.
        LDA: two singular value decompositions, of (n, d) and (K, d), at 6 a b^2 + 20 b^3 for the sides
        a >= b. QDA: 2 n_k d^2 + 22/3 d^3 per class. kNN stores its rows: 0. NaN for other probes.
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
    counts : sequence of int, K long
        Training rows n_k per class.
    d : int
    ranks : sequence of int, K long
        Components r_k per class.
    """
    return float(
        sum(
            n_k * d**2 + EIGH * d**3 if n_k >= d else n_k**2 * d + EIGH * n_k**3 + 2 * n_k * d * r_k
            for n_k, r_k in zip(map(int, counts), map(int, ranks), strict=True)
        )
    )


def predict_flops(probe: Probe, m: int, n: int, d: int) -> float:
    """Return the floating point operations of predicting m rows, to leading order.

    Parameters
    ----------
    probe : Probe
    m, n : int
        Rows to predict, and training rows.
    d : int

    Returns
    -------
    float
        MASC: 2 m d sum of r_k. Linear probes: 2 m d K. QDA: 2 m d^2 K. kNN: 2 m n d. NaN for other probes.
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
    measured: dict[str, float] = {"fit_seconds": fit_seconds, "predict_seconds": predict_seconds}
    if fit_peak is not None and predict_peak is not None:
        measured["peak_bytes"] = max(fit_peak, predict_peak)
    n, d = data.train.shape
    counts = np.unique(labels, return_counts=True)[1]
    measured["fit_flops"] = fit_flops(probe, counts, d)
    measured["predict_flops"] = predict_flops(probe, len(data.test), n, d)
    return measured


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
