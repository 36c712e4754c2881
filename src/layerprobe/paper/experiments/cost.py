"""What probes cost: operations by formula, seconds and memory as measured (METHOD section 4, 8).

The published operations of fitting MASC took the variance threshold for a number of components. Here a class
of n_k rows is charged n_k d^2 for its second moment (the symmetric half of it) and 22/3 d^3 for the
eigendecomposition, or n_k^2 d + 22/3 n_k^3 + 2 n_k d r_k by its Gram matrix where n_k < d.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from layerprobe.errors import DegenerateWarning
from layerprobe.paper.experiments.probes import affordable
from layerprobe.paper.rows import tidy
from layerprobe.paper.run_outputs import LayerData, Subject
from layerprobe.probes import LinearProbe, LogisticRegression, Probe, create
from layerprobe.utils.peak_memory import peak_bytes

__all__ = ["cost", "fit_flops", "masc_fit_flops", "predict_flops"]

EIGH = 22 / 3  # operations of a symmetric eigendecomposition over d^3


def cost(subject: Subject) -> pd.DataFrame:
    """Operations, seconds and peak memory of fitting on the noisy labels and of predicting the test rows.

    Seconds and bytes are those of one thread of the machine that this runs on, each measured once after a
    trial on a few rows; bytes are beyond those of the data (Linux only, absent elsewhere).
    """
    labels = subject.noisy
    records: list[dict[str, Any]] = []
    for layer, data in subject.outputs.items():
        for name in affordable(subject, data.train.shape[1]):
            records += [
                {"layer": layer, "probe": name, "metric": metric, "value": value}
                for metric, value in _measure(name, data, labels)
            ]
    return tidy({"experiment": "cost", "fitted_on": "noisy", **record} for record in records)


def _measure(name: str, data: LayerData, labels: np.ndarray) -> Iterator[tuple[str, float]]:
    _quietly(lambda: _warm_up(name))
    probe = create(name)
    fitting, fit_peak = _timed(lambda: probe.fit(data.train, labels))
    predicting, predict_peak = _timed(lambda: probe.predict(data.test))
    yield "fit_seconds", fitting
    yield "predict_seconds", predicting
    if fit_peak is not None and predict_peak is not None:
        yield "peak_bytes", max(fit_peak, predict_peak)
    n, d = data.train.shape
    counts = np.unique(labels, return_counts=True)[1]
    yield "fit_flops", fit_flops(probe, counts, d)
    yield "predict_flops", predict_flops(probe, len(data.test), n, d)


def fit_flops(probe: Probe, counts: np.ndarray, d: int) -> float:
    """Return the floating point operations of fitting, to leading order.

    Parameters
    ----------
    probe : Probe
        Fitted.
    counts : ndarray of shape (K,)
        Training rows n_k of each class; n is their sum.
    d : int
        Features.

    Notes
    -----
    MASC and VeLPIC: `masc_fit_flops`. Nearest class mean: n d. Logistic regression: 6 n d K an epoch. LDA:
    two singular value decompositions, of (n, d) and (K, d), at 6 a b^2 + 20 b^3 for the sides a >= b. QDA:
    per class 2 n_k d^2 + 22/3 d^3. kNN only keeps its rows: 0. NaN for a probe that is not listed here.
    """
    n, K = int(counts.sum()), len(counts)
    name = type(probe).__name__
    if hasattr(probe, "subspaces_"):
        return masc_fit_flops(counts, d, probe.subspaces_.ranks)
    if isinstance(probe, LogisticRegression):
        return 6.0 * n * d * K * probe.epochs
    return {
        "VeLPIC": lambda: masc_fit_flops(counts, d, [1] * K) + 2.0 * n * d * K,
        "NearestClassMean": lambda: float(n * d),
        "LDA": lambda: _svd_flops(n, d) + _svd_flops(K, d),
        "QDA": lambda: 2.0 * n * d**2 + EIGH * K * d**3,
        "KNN": lambda: 0.0,
    }.get(name, lambda: np.nan)()


def masc_fit_flops(counts: Any, d: int, ranks: Any) -> float:
    """Return the operations of fitting K subspaces by the cheaper form for each class; see the module."""
    return float(
        sum(
            n_k * d**2 + EIGH * d**3 if n_k >= d else n_k**2 * d + EIGH * n_k**3 + 2 * n_k * d * r_k
            for n_k, r_k in zip(map(int, counts), map(int, ranks), strict=True)
        )
    )


def predict_flops(probe: Probe, m: int, n: int, d: int) -> float:
    """Return the floating point operations of predicting m rows of d features, to leading order.

    MASC: 2 m d sum of r_k. Linear probes: 2 m d K. QDA: 2 m d^2 K. kNN: 2 m n d. NaN for any other.
    """
    K = len(probe.classes_)
    name = type(probe).__name__
    if hasattr(probe, "subspaces_"):
        return 2.0 * m * d * sum(probe.subspaces_.ranks)
    if isinstance(probe, LinearProbe):
        return 2.0 * m * d * K
    return {"QDA": 2.0 * m * d**2 * K, "KNN": 2.0 * m * n * d}.get(name, np.nan)


def _svd_flops(a: int, b: int) -> float:
    a, b = max(a, b), min(a, b)
    return 6.0 * a * b**2 + 20.0 * b**3


def _timed(work: Callable[[], object]) -> tuple[float, int | None]:
    elapsed = 0.0

    def timed() -> None:
        nonlocal elapsed
        start = time.perf_counter()
        _quietly(work)
        elapsed = time.perf_counter() - start

    peak = peak_bytes(timed)
    return elapsed, peak


def _quietly(work: Callable[[], object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        work()


def _warm_up(name: str) -> None:
    """Fit and predict a little, so that imports and first calls are not charged."""
    rows = np.random.default_rng(0).random((64, 8), dtype=np.float32)
    create(name).fit(rows, np.arange(64) % 2).predict(rows)
