"""CPU seconds of the optional fast paths of core/kernels.py beside their plain twin, on one thread.

    python benchmarks/kernels.py [--repeats 3] [--out benchmarks/kernels.csv]

Each decomposes a second moment in float64 and keeps d / 16 eigenvectors; the plain twin is torch.linalg.eigh.
"""

import argparse
import statistics
import time

import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from layerprobe.core.kernels import eigh_leading, eigh_nonzero
from layerprobe.core.linalg import eigenpairs


def seconds(function) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for kernel, d, zeros in (
        ("eigh_leading", 1200, 0),
        ("eigh_leading", 2048, 0),
        ("eigh_nonzero", 784, 160),
    ):
        X = torch.randn(d + 100, d, dtype=torch.float64).relu()
        X[:, :zeros] = 0
        moment, r = X.T @ X, d // 16
        jobs = {
            "fast": lambda m=moment, r=r: eigh_leading(m)[1](r),
            "plain": lambda m=moment: torch.linalg.eigh(m),
        }
        if zeros:
            jobs["fast"] = lambda m=moment, r=r: eigh_nonzero(m, eigenpairs)[1](r)
        with threadpool_limits(1):
            times = {name: [] for name in jobs}
            for _ in range(arguments.repeats):
                for name, job in jobs.items():
                    times[name].append(seconds(job))
        fast, plain = (statistics.median(times[name]) for name in ("fast", "plain"))
        rows.append({"kernel": kernel, "d": d, "zero_features": zeros, "fast": fast, "plain": plain})
        rows[-1]["gain"] = plain / fast
    table = pd.DataFrame(rows).round(3)
    print(table.to_string(index=False))
    if arguments.out:
        table.to_csv(arguments.out, index=False)


if __name__ == "__main__":
    main()
