"""CPU seconds of the core's jobs at two versions of the package, in turns on one machine.

    python benchmarks/core_versions.py --before /path/to/other/src [--shapes 128 784] [--out FILE.csv]

Each version runs in a process of its own with one thread; the jobs of both alternate. `before` and `after`
are medians of CPU seconds, `ratio` is after / before.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch
from core_jobs import SHAPES, VARIANCE, Problem, relu_features

from layerprobe.core import fit_subspaces

SHAPES = SHAPES | {4096: (30_000, 100)}  # two processes hold the rows
SMALL = {"fit 300 x 10, K = 3": 3, "fit 300 x 10, K = 10": 10}
JOBS = ("fit", "predict", "predict_six", "stream")


def serve(shape: int) -> None:
    """Run the jobs that standard input names; answer with their CPU seconds."""
    torch.set_num_threads(1)
    if shape:
        problem = Problem(shape, *SHAPES[shape])
        problem.fit()
        jobs = {name: getattr(problem, name) for name in JOBS}
    else:
        jobs = {}
        for name, K in SMALL.items():
            X, y = relu_features(300, 10, K)
            jobs[name] = lambda X=X, y=y, K=K: fit_subspaces(X, y, K, variance=VARIANCE)
            jobs[name]()
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.process_time()
        jobs[line.strip()]()
        print(time.process_time() - start, flush=True)


class Version:
    """A process that serves the jobs of one version.

    Parameters
    ----------
    source : str
        Folder that holds the package.
    shape : int
        Number of features, or 0 for the small problems.
    """

    def __init__(self, source: str, shape: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(shape)],
            env={**os.environ, "PYTHONPATH": source},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.process.stdout.readline()

    def seconds(self, job: str) -> float:
        """Return the CPU seconds of one run of a job."""
        self.process.stdin.write(job + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", help="folder that holds the other version of the package")
    parser.add_argument("--shapes", type=int, nargs="*", default=[0, *SHAPES], choices=[0, *SHAPES])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", help="also write the table there as CSV")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve(arguments.serve)
        return
    rows = []
    after = str(Path(__file__).resolve().parents[1] / "src")
    for shape in arguments.shapes:
        versions = {"before": Version(arguments.before, shape), "after": Version(after, shape)}
        for job in JOBS if shape else SMALL:
            times: dict[str, list[float]] = {name: [] for name in versions}
            for turn in range(arguments.repeats * (1 if shape else 20)):
                if turn and sum(times["before"]) > 60:
                    break
                for name, version in versions.items():
                    times[name].append(version.seconds(job))
            n, K = SHAPES[shape] if shape else (300, SMALL[job])
            medians = {name: statistics.median(values) for name, values in times.items()}
            rows.append({"job": job, "n": n, "d": shape or 10, "K": K, "repeats": len(times["before"])})
            rows[-1] |= medians | {"ratio": medians["after"] / medians["before"]}
            print(rows[-1], flush=True)
        for version in versions.values():
            version.process.stdin.close()
            version.process.wait()
    table = pd.DataFrame(rows).round({"before": 5, "after": 5, "ratio": 3})
    if arguments.out:
        table.to_csv(arguments.out, index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
