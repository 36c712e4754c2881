"""Fitting and predicting with MASC against the machine's limits, scikit-learn, torch and the paper's text.

    python benchmarks/core.py [--shapes 784 2048] [--repeats 3] [--out benchmarks/core.csv]

One thread; CPU seconds, the median of interleaved repeats; jobs of more than ten seconds run once, those of
less than half a second three times as often. The features are synthetic: a random ReLU layer over clustered
inputs, with ranks near those of trained networks. Where `share` is below one, only that share of the classes
(in a fit) or of the rows (in predicting) was computed and the seconds are divided by it.

scikit-learn decomposes a float32 covariance where d <= 1000, its default, and the rows themselves otherwise.
`limit` is the symmetric half of the moments (of the Gram matrices where n_k < d) at the rate of a
2048 x 2048 float32 product in the same run, and K times `torch.linalg.eigh` in float64. `peak` is that rate.
The literal algorithm per class doubles the data, takes the eigenvectors of their covariance in float64, then
the angles of batches of 100 rows: by tests/reference.py as it stands, with its loops over points and
directions, and in a second form with whole matrices, BLAS and nothing else changed.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from core_jobs import BATCH, SHAPES, Problem
from threadpoolctl import threadpool_limits

LONG, SHORT = 10, 0.5  # seconds


def cpu_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def peak_job() -> Callable[[], object]:
    square = torch.randn(2048, 2048)
    return lambda: square @ square


def time_jobs(problem: Problem, repeats: int) -> dict[str, list[float]]:
    """CPU seconds of every job, run in turns; a long job runs once."""
    problem.fit()  # warms up
    problem.predict()
    problem.matrix  # noqa: B018 (made once, outside of what is timed)
    jobs = {
        "peak": peak_job(),
        "eigh": lambda: torch.linalg.eigh(problem.matrix),
        "eigh_ours": problem.eigh_ours,
        "fit": problem.fit,
        "predict": problem.predict,
        "predict_six": problem.predict_six,
        "stream": problem.stream,
        "torch_fit": problem.torch_fit,
        "torch_fit32": problem.torch_fit32,
        "torch_predict": problem.torch_predict,
        "scikit_learn_fit": problem.scikit_learn_fit,
        "scikit_learn_predict": problem.scikit_learn_predict,
        **({"scikit_learn_fit_full": problem.scikit_learn_fit_full} if problem.d <= 1000 else {}),
        "literal_fit": problem.literal_fit,
        "literal_predict": problem.literal_predict,
        "oracle_fit": problem.oracle_fit,
        "oracle_predict": problem.oracle_predict,
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(3 * repeats):
        for name, job in jobs.items():
            if turn < _turns(name, times[name], repeats):
                times[name].append(cpu_seconds(job))
                print(f"  d = {problem.d}: {name} {times[name][-1]:.3f} s", flush=True)
    return times


def _turns(name: str, times: list[float], repeats: int) -> int:
    """How often a job that took so long the first time is run."""
    if not times:
        return 1
    if times[0] > LONG or name.startswith("oracle"):
        return 1
    return repeats if times[0] > SHORT else 3 * repeats


def table_rows(problem: Problem, times: dict[str, list[float]]) -> list[dict]:
    n, d, K = problem.n, problem.d, problem.K
    s = {name: statistics.median(values) for name, values in times.items()}
    ranks = np.array(problem.subspaces.ranks)
    peak = 2 * 2048**3 / s["peak"]
    fit_share, predict_share = problem.few_classes / K, len(problem.some) / len(problem.X)
    half = (n / K) * (n / K + 1) * d * K if problem.gram else n * d * (d + 1)
    width = int(np.minimum(ranks, d - ranks + (ranks <= d / 2) * d).sum())  # the complement where shorter
    ideal_predict = 2 * len(problem.some) * d * width / peak

    def whole(fit: str, predict: str, share: float = 1) -> float:
        return s[fit] / share + s[predict] / predict_share

    ours = whole("fit", "predict")
    literal = np.array(problem.literal_labels)
    best, _ = problem.subspaces.squared_cosines(problem.some).topk(2)
    clear = ((best[:, 0] - best[:, 1]) > 1e-4).numpy()
    equal = problem.labels.numpy() == literal
    literal_ranks = [basis.shape[1] for basis in problem.literal]
    shared = {
        "n": n,
        "d": d,
        "K": K,
        "mean_rank": round(float(ranks.mean()), 1),
        "peak_gflops": round(peak / 1e9, 1),
        "equal_ranks": literal_ranks == list(ranks[: len(literal_ranks)]),
        "equal_labels": round(float(equal.mean()), 6),
        "equal_clear_labels": bool(equal[clear].all()),
    }
    goals = {128: 15, 512: 7, 784: 6, 2048: 5, 4096: 12}

    def row(
        job: str,
        against: str,
        seconds: float,
        other: float,
        ratio: float,
        goal: str,
        share: float = 1,
        of: str = "",
    ) -> dict:
        return {
            "job": job,
            "against": against,
            "cpu_seconds": round(seconds, 3),
            "other_seconds": round(other, 3),
            "ratio": round(ratio, 3),
            "goal": goal,
            "share": f"{share:.2g} of {of}" if share < 1 else "1",
            "repeats": len(times[of_job[job]]),
            **shared,
        }

    of_job = {"fit": "fit", "predict": "predict", "whole job": "fit"}
    of_job |= {"six variances": "predict_six", "stream of 128": "stream"}
    limit, limit_ours = (half / peak + K * s[name] for name in ("eigh", "eigh_ours"))
    wide = d >= 512
    rows = [
        row("fit", "limit", s["fit"], limit, s["fit"] / limit, "<= 1.3" if d >= 784 else ""),
        row("fit", "limit with our eigh", s["fit"], limit_ours, s["fit"] / limit_ours, ""),
        row(
            "predict",
            "peak",
            s["predict"],
            ideal_predict,
            ideal_predict / s["predict"],
            ">= 0.8" if wide else ">= 0.6",
        ),
        row(
            "six variances",
            "one",
            s["predict_six"],
            s["predict"],
            s["predict_six"] / s["predict"],
            "<= 1.2" if wide else "<= 1.5",
        ),
        row("stream of 128", "one shot", s["stream"], s["fit"], s["stream"] / s["fit"], "<= 1.25"),
    ]
    against = [
        ("scikit-learn", whole("scikit_learn_fit", "scikit_learn_predict"), ">= 2", 1.0),
        ("plain torch", whole("torch_fit", "torch_predict", fit_share), ">= 1.3", fit_share),
        ("plain torch, float32 eigh", whole("torch_fit32", "torch_predict", fit_share), "", fit_share),
        ("literal, by BLAS", whole("literal_fit", "literal_predict", fit_share), f">= {goals[d]}", fit_share),
    ]
    part = f"classes, {predict_share:.2g} of rows"
    for name, other, goal, share in against:
        rows.append(row("whole job", name, ours, other, other / ours, goal, min(share, predict_share), part))
    if d <= 1000:
        full = s["scikit_learn_fit_full"] + s["scikit_learn_predict"]
        rows.append(row("whole job", "scikit-learn, svd_solver='full'", ours, full, full / ours, ">= 2"))
    oracle = s["oracle_fit"] * K + s["oracle_predict"] * len(problem.X) / BATCH
    rows.append(row("whole job", "tests/reference.py", ours, oracle, oracle / ours, f">= {goals[d]}"))
    rows[-1] |= {"share": f"1 of {K} classes, {BATCH} rows", "repeats": 1}
    fit_goal = ">= 20" if d == 4096 else ""
    ratio = s["scikit_learn_fit"] / s["fit"]
    rows.append(row("fit", "scikit-learn", s["fit"], s["scikit_learn_fit"], ratio, fit_goal))
    return rows


def threads_row(problem: Problem, repeats: int) -> dict:
    """Wall seconds of fitting and predicting with torch's default threads, while another process works."""

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        start = time.perf_counter()
        problem.fit()
        problem.predict()
        return time.perf_counter() - start

    times: dict[int, list[float]] = {1: [], os.cpu_count() or 1: []}
    child = os.fork()
    if not child:  # as many seconds of another's work as are enough
        end = time.perf_counter() + 600
        while time.perf_counter() < end:
            torch.randn(256, 256) @ torch.randn(256, 256)
        os._exit(0)
    try:
        for _ in range(repeats):
            for threads in times:
                times[threads].append(seconds(threads))
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        torch.set_num_threads(1)
    one, default = (statistics.median(values) for values in times.values())
    return {
        "job": f"{os.cpu_count()} threads, busy machine (wall)",
        "against": "one thread",
        "cpu_seconds": round(default, 3),
        "other_seconds": round(one, 3),
        "ratio": round(default / one, 3),
        "goal": "<= 2",
        "share": "1",
        "repeats": repeats,
        "n": problem.n,
        "d": problem.d,
        "K": problem.K,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=int, nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", help="also write the table there as CSV")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict] = []
    for d in arguments.shapes:
        n, K = SHAPES[d]
        problem = Problem(d, n, K)
        with threadpool_limits(1):
            rows += table_rows(problem, time_jobs(problem, arguments.repeats))
        if d == 784:
            rows.append(threads_row(problem, arguments.repeats))
        table = pd.DataFrame(rows)
        machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
        table.insert(0, "machine", machine)
        if arguments.out:  # after every shape: the large ones take minutes
            table.to_csv(arguments.out, index=False)
    print(table.drop(columns="machine").to_string(index=False))


if __name__ == "__main__":
    main()
