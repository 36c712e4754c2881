"""Fitting and predicting with MASC against scikit-learn's PCA and the machine's own matrix-product peak.

    python benchmarks/core.py [--repeats 3] [--out benchmarks/core.csv]

Synthetic ReLU features (n, d, K); one thread; CPU seconds, the median of interleaved repeats. The peak is
that of one large float32 matrix product in the same run. Ranks and labels of both sides must be equal.
"""

import argparse
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from layerprobe.core import Subspaces, fit_subspaces

SHAPES = [(60_000, 128, 10), (60_000, 784, 10)]
VARIANCE = 0.99


def relu_features(n: int, d: int, K: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a random ReLU layer on clustered inputs, (n, d), and their classes, (n,)."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(K, (n,), generator=generator)
    inputs = torch.randn(K, 64, generator=generator)[codes] + torch.randn(n, 64, generator=generator)
    weights = torch.randn(64, d, generator=generator) / 8
    noise = 0.1 * torch.randn(n, d, generator=generator)
    return (inputs @ weights + noise).relu(), codes


def scikit_learn_fit(X: np.ndarray, codes: np.ndarray, K: int) -> list[np.ndarray]:
    """PCA of each class and its negatives, as the paper's text has it: components (r_k, d)."""
    bases = []
    for k in range(K):
        rows = X[codes == k]
        doubled = np.concatenate([rows, -rows])
        bases.append(PCA(VARIANCE, svd_solver="full").fit(doubled).components_)
    return bases


def scikit_learn_predict(X: np.ndarray, bases: list[np.ndarray]) -> np.ndarray:
    """Class of the largest projection."""
    return np.argmax([np.square(X @ basis.T).sum(1) for basis in bases], axis=0)


def cpu_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def measure(n: int, d: int, K: int, repeats: int) -> list[dict]:
    X, codes = relu_features(n, d, K)
    X_numpy, codes_numpy = X.numpy(), codes.numpy()
    ours: list[Subspaces] = [fit_subspaces(X, codes, K, variance=VARIANCE)]  # also warms up
    theirs: list[list[np.ndarray]] = [scikit_learn_fit(X_numpy, codes_numpy, K)]
    square = torch.randn(2048, 2048)
    jobs: dict[str, Callable[[], object]] = {
        "peak": lambda: square @ square,
        "fit": lambda: ours.__setitem__(0, fit_subspaces(X, codes, K, variance=VARIANCE)),
        "predict": lambda: ours[0].predict(X),
        "scikit-learn fit": lambda: theirs.__setitem__(0, scikit_learn_fit(X_numpy, codes_numpy, K)),
        "scikit-learn predict": lambda: scikit_learn_predict(X_numpy, theirs[0]),
    }
    times = defaultdict(list)
    for _ in range(repeats):
        for name, job in jobs.items():
            times[name].append(cpu_seconds(job))
    seconds = {name: statistics.median(values) for name, values in times.items()}

    ranks = np.array(ours[0].ranks)
    agree = np.mean(ours[0].predict(X).numpy() == scikit_learn_predict(X_numpy, theirs[0]))
    peak = 2 * 2048**3 / seconds["peak"]
    widths = np.minimum(ranks, d - ranks + (ranks <= d / 2) * d)  # the complement where it is shorter
    flops = {"fit": n * d * (d + 1), "predict": 2 * n * d * widths.sum()}
    return [
        {
            "n": n,
            "d": d,
            "K": K,
            "job": job,
            "cpu_seconds": round(seconds[job], 3),
            "times_faster_than_scikit_learn": round(seconds[f"scikit-learn {job}"] / seconds[job], 1),
            "share_of_peak": round(flops[job] / seconds[job] / peak, 3),
            "peak_gflops": round(peak / 1e9, 1),
            "equal_ranks": bool((ranks == [len(basis) for basis in theirs[0]]).all()),
            "equal_labels": round(float(agree), 6),
        }
        for job in ("fit", "predict")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", help="also write the table there as CSV")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        table = pd.DataFrame([row for shape in SHAPES for row in measure(*shape, arguments.repeats)])
    print(f"{platform.machine()}, torch {torch.__version__}, one thread, {arguments.repeats} repeats")
    print(table.to_string(index=False))
    if arguments.out:
        table.to_csv(arguments.out, index=False)


if __name__ == "__main__":
    main()
