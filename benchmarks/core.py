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
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from layerprobe.core import ClassMoments, fit_label_sets, fit_subspaces
from layerprobe.core.linalg import eigenpairs
from layerprobe.core.second_moment import gram

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import reference

VARIANCE = 0.99
VARIANCES = (0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
SHAPES = {128: (60_000, 10), 512: (60_000, 10), 784: (60_000, 10), 2048: (60_000, 10), 4096: (50_000, 100)}
TEST_ROWS = 10_000
BATCH = 100  # rows that the literal algorithm takes at a time
LONG, SHORT = 10, 0.5  # seconds


def relu_features(n: int, d: int, K: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a random ReLU layer on clustered inputs with a decaying spectrum, (n, d), and classes, (n,)."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, 129) ** -1.0
    codes = torch.arange(n) % K
    codes = codes[torch.randperm(n, generator=generator)]
    inputs = torch.randn(K, 128, generator=generator)[codes] + torch.randn(n, 128, generator=generator)
    weights = torch.randn(128, d, generator=generator) * scales[:, None]
    noise = 0.02 * torch.randn(n, d, generator=generator)
    return (inputs @ weights + noise).relu(), codes


class Problem:
    """Data of one shape, and every job on them."""

    def __init__(self, n: int, d: int, K: int) -> None:
        self.n, self.d, self.K = n, d, K
        self.X, codes = relu_features(n + TEST_ROWS, d, K)
        self.codes, self.train = codes[:n], self.X[:n]
        self.gram = n // K < d
        self.few_classes = 3 if self.gram else K  # of d x d matrices, which nobody needs here
        self.some = self.X[-TEST_ROWS:] if self.gram else self.X  # rows that are predicted

    @cached_property
    def second_codes(self) -> torch.Tensor:
        """40 % of the labels changed."""
        generator = torch.Generator().manual_seed(1)
        shift = torch.randint(1, self.K, (self.n,), generator=generator)
        changed = torch.rand(self.n, generator=generator) < 0.4
        return torch.where(changed, (self.codes + shift) % self.K, self.codes)

    @cached_property
    def matrix(self) -> torch.Tensor:
        """What is decomposed for one class."""
        rows = self.train[self.codes == 0].double()
        return gram(rows) if self.gram else rows.T @ rows

    def fit(self) -> object:
        """Fit our subspaces."""
        self.subspaces = fit_subspaces(self.train, self.codes, self.K, variance=VARIANCE)
        return self.subspaces

    def predict(self) -> object:
        """Predict with them."""
        self.labels = self.subspaces.predict(self.some)
        return self.labels

    def predict_six(self) -> object:
        """Predict at six variances from one pass."""
        stages = [self.subspaces.ranks_at(variance=v) for v in VARIANCES]
        return self.subspaces.staged_predict(self.some, stages)

    def fit_two(self) -> object:
        """Fit two label sets in one pass."""
        return fit_label_sets(self.train, [self.codes, self.second_codes], self.K, variance=VARIANCE)

    def stream(self) -> object:
        """Fit from batches of 128 rows."""
        moments = ClassMoments(self.K, self.d)
        for X, codes in zip(self.train.split(128), self.codes.split(128), strict=True):
            moments.update(X, codes)
        return moments.subspaces(variance=VARIANCE)

    def eigh_ours(self) -> object:
        """Decompose one matrix as a fit does."""
        return eigenpairs(self.matrix)[1](round(np.mean(self.subspaces.ranks)))

    def scikit_learn_fit(self, solver: str = "auto") -> object:
        """Fit PCA to each class and its negatives, as the paper's text has it."""
        X, codes = self.train.numpy(), self.codes.numpy()
        self.pca = []
        for k in range(self.K):
            rows = X[codes == k]
            doubled = np.concatenate([rows, -rows])
            self.pca.append(PCA(VARIANCE, svd_solver=solver).fit(doubled).components_)
        return self.pca

    def scikit_learn_fit_full(self) -> object:
        """Fit by a singular value decomposition, which scikit-learn takes on its own where d > 1000."""
        return self.scikit_learn_fit("full")

    def scikit_learn_predict(self) -> object:
        """Give the class of the largest projection."""
        X = self.some.numpy()
        self.pca_labels = np.argmax([np.square(X @ basis.T).sum(1) for basis in self.pca], axis=0)
        return self.pca_labels

    def torch_fit(self, dtype: torch.dtype = torch.float64) -> object:
        """Fit as one writes it in torch: float32 products, eigh in either precision."""
        bases = []
        for k in range(self.few_classes):
            rows = self.train[self.codes == k]
            values, vectors = torch.linalg.eigh((rows.T @ rows).to(dtype))
            share = values.flip(0).cumsum(0) / values.sum()
            rank = int((share <= VARIANCE).sum()) + 1
            bases.append(vectors[:, -rank:].float())
        self.torch_bases = bases if len(bases) == self.K else [U.clone() for U in self.subspaces.bases]
        return bases

    def torch_fit32(self) -> object:
        """Fit with a float32 eigh."""
        return self.torch_fit(torch.float32)

    def torch_predict(self) -> object:
        """Predict as one writes it in torch."""
        X = self.some
        scores = [(X @ U).square().sum(1) for U in self.torch_bases]
        return (torch.stack(scores, 1) / X.square().sum(1, keepdim=True)).argmax(1)

    def literal_fit(self) -> object:
        """Decompose the covariance of the doubled data."""
        X, codes = self.train.double().numpy(), self.codes.numpy()
        self.literal = []
        for k in range(self.few_classes):
            values, vectors = np.linalg.eigh(reference.covariance(reference.double(X[codes == k])))
            values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
            rank = reference.choose_rank(values, VARIANCE)
            self.literal.append(np.ascontiguousarray(vectors[:, :rank]))
        return self.literal

    def literal_predict(self) -> object:
        """Take the smallest angle, batch by batch."""
        bases = self.literal
        if len(bases) < self.K:  # the others' angles cost as much with our bases
            bases = bases + [U.double().numpy() for U in self.subspaces.bases[len(bases) :]]
        labels = []
        for batch in self.some.double().split(BATCH):
            X = batch.numpy()
            norms = np.linalg.norm(X, axis=1)
            angles = [np.arccos(np.minimum(np.linalg.norm(X @ U @ U.T, axis=1) / norms, 1)) for U in bases]
            labels.append(np.argmin(angles, axis=0))
        self.literal_labels = np.concatenate(labels)
        return self.literal_labels

    def oracle_fit(self) -> object:
        """Fit one class by tests/reference.py as it is, which takes a singular value decomposition too."""
        X = self.train[self.codes == 0].double().numpy()
        self.oracle = reference.fit_class(X, VARIANCE)
        return self.oracle

    def oracle_predict(self) -> object:
        """Predict one batch of 100 rows by it, point by point and direction by direction."""
        bases = [U.double().numpy() for U in self.subspaces.bases]
        parts = [reference.ClassSubspace(np.empty(0), U, U.shape[1]) for U in bases]
        self.oracle_labels = reference.predict(self.some[:BATCH].double().numpy(), parts)
        return self.oracle_labels


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
        "fit_two": problem.fit_two,
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
    of_job |= {"six variances": "predict_six", "second label set": "fit_two", "stream of 128": "stream"}
    limit, limit_ours = (half / peak + K * s[name] for name in ("eigh", "eigh_ours"))
    second = s["fit_two"] - s["fit"]
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
        row("second label set", "first", second, s["fit"], second / s["fit"], "<= 0.8"),
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
        problem = Problem(n, d, K)
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
