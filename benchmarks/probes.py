"""The closed-form probes against one n x d x d matrix product of the same rows.

    python benchmarks/probes.py [--repeats 3] [--out benchmarks/probes.csv]

Synthetic ReLU features, n = 50,000, d = 1024, K = 10, float32; one thread; CPU seconds, the median of
interleaved repeats. Nearest neighbours are searched among a fifth of the rows.
"""

import argparse
import statistics
from collections import defaultdict

import pandas as pd
import torch
from core_jobs import relu_features

from core import cpu_seconds
from layerprobe.probes import MASC, Ridge, ShrinkageLDA, WhitenedKNN

N, D, K = 50_000, 1024, 10
STRENGTHS = [1e-3, 1e-2, 0.1, 1.0, 10.0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    X, y = relu_features(N, D, K)
    few, few_y = X[: N // 5], y[: N // 5]
    matrix = torch.randn(D, D, generator=torch.Generator().manual_seed(0))
    ridge, knn = Ridge().fit(X, y), WhitenedKNN().fit(few, few_y)
    jobs = {
        "matrix product": lambda: X @ matrix,
        "Ridge fit": lambda: Ridge().fit(X, y),
        "Ridge leave-one-out": lambda: ridge.loo_scores(X, y),
        "Ridge scores at five strengths": lambda: list(ridge.staged_scores(X, STRENGTHS)),
        "ShrinkageLDA fit": lambda: ShrinkageLDA().fit(X, y),
        "MASC fit": lambda: MASC().fit(X, y),
        "MASC fit, noise corrected": lambda: MASC(noise=0.4).fit(X, y),
        f"WhitenedKNN leave-one-out, n = {N // 5:,}": lambda: knn.loo_scores(few, few_y),
    }
    seconds = defaultdict(list)
    for _ in range(arguments.repeats):
        for job, work in jobs.items():
            seconds[job].append(cpu_seconds(work))
    table = pd.DataFrame(
        [
            {"n": N, "d": D, "K": K, "job": job, "cpu_seconds": statistics.median(s)}
            for job, s in seconds.items()
        ]
    )
    table["products"] = table["cpu_seconds"] / table["cpu_seconds"].iloc[0]
    table = table.round({"cpu_seconds": 2, "products": 2})
    print(table.to_string(index=False))
    if arguments.out:
        table.to_csv(arguments.out, index=False)


if __name__ == "__main__":
    main()
