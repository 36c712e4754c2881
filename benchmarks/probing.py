"""Probing all layers of a network against running it; streaming against one shot.

    python benchmarks/probing.py [--repeats 3] [--rows 60000 10000] [--data FOLDER] [--out FILE.csv]

The untrained networks of mlp-mnist and cnn-cifar10, two sets of labels of which 40 % differ, MASC at six
variances, training and test data; beside it two forward passes over the same data. One thread, CPU seconds,
medians of interleaved repeats. The images are those of MNIST and CIFAR-10 where --data, or LAYERPROBE_DATA,
has them; otherwise white noise around class means, which takes several times as many components a class as
any picture does, and as much more time.
"""

import argparse
import platform
import statistics
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from core_jobs import relu_features
from torch import nn

from core import cpu_seconds
from layerprobe import ClassMoments, plan, probe
from layerprobe.core import fit_subspaces
from layerprobe.data import load
from layerprobe.errors import DataError
from layerprobe.networks import build
from layerprobe.training import Scale

VARIANCES = [0.5, 0.7, 0.8, 0.9, 0.95, 0.99]
IMAGES = {"mlp-mnist": ("mnist", (1, 28, 28)), "cnn-cifar10": ("cifar-10", (3, 32, 32))}
STREAMS = [(60_000, 128, 10), (60_000, 784, 10), (20_000, 512, 100)]
BATCH = 128


class Images(NamedTuple):
    """Training rows, then test rows; labels, and labels of which 40 % are wrong."""

    kind: str
    rows: int
    X: torch.Tensor
    true: torch.Tensor
    noisy: torch.Tensor


def images(pair: str, rows: int, test_rows: int, root: str | None) -> Images:
    """Pictures where there are some, else white noise around class means."""
    generator = torch.Generator().manual_seed(0)
    name, shape = IMAGES[pair]
    K = 10
    try:
        found = load(name, root)
        parts = [found.train_images[:rows], found.test_images[:test_rows]]
        X = Scale(-1, 1)(torch.from_numpy(np.concatenate(parts)))
        true = torch.from_numpy(np.concatenate([found.train_labels[:rows], found.test_labels[:test_rows]]))
        n, rows = len(X), len(parts[0])
    except DataError:
        n = rows + test_rows
        name, true = "noise", torch.randint(K, (n,), generator=generator)
        X = torch.randn(K, *shape, generator=generator)[true] + torch.randn(n, *shape, generator=generator)
    wrong = (true + torch.randint(1, K, (n,), generator=generator)) % K
    return Images(name, rows, X, true, torch.where(torch.rand(n, generator=generator) < 0.4, wrong, true))


def forward(model: nn.Module, *parts: torch.Tensor) -> None:
    with torch.inference_mode():
        for X in parts:
            for batch in X.split(512):
                model(batch)


def probing(pair: str, rows: int, test_rows: int, repeats: int, root: str | None) -> list[dict]:
    torch.manual_seed(0)
    model = build(pair).eval()
    kind, rows, X, true, noisy = images(pair, rows, test_rows, root)
    test_rows = len(X) - rows
    train, test = (X[:rows], noisy[:rows]), (X[rows:], true[rows:])
    options = {"train_labels": {"noisy": noisy[:rows], "true": true[:rows]}, "variances": VARIANCES}
    found = plan(model, train, test_rows=test_rows, label_sets=2, changed=0.4)
    budget = {"outputs held": None, "two passes": (found.held + (found.streamed or 0)) // 2}
    times, tables = defaultdict(list), []
    for _ in range(repeats):
        times["two forward passes"].append(
            cpu_seconds(lambda: [forward(model, train[0], test[0]) for _ in range(2)])
        )
        for name, memory in budget.items():
            times[name].append(
                cpu_seconds(lambda m=memory: tables.append(probe(model, train, test, **options, memory=m)))
            )
    seconds = {name: statistics.median(values) for name, values in times.items()}
    largest = tables[0][tables[0]["probe"] == f"masc {VARIANCES[-1]}"]
    components = " ".join(f"{r:.0f}" for r in largest.groupby("layer", sort=False)["components"].mean())
    return [
        {
            "job": f"{pair} on {kind}, {rows:,} + {test_rows:,} rows",
            "way": name,
            "cpu_seconds": round(seconds[name], 2),
            "against": "two forward passes",
            "times": round(seconds[name] / seconds["two forward passes"], 2),
            "components": components,
            "plan_bytes": {"outputs held": found.held, "two passes": found.streamed}.get(name),
        }
        for name in seconds
    ]


def streaming(n: int, d: int, K: int, repeats: int) -> list[dict]:
    X, codes = relu_features(n, d, K)

    def stream() -> None:
        moments = ClassMoments(K, d, expected=n)
        for rows, part in zip(X.split(BATCH), codes.split(BATCH), strict=True):
            moments.update(rows, part)
        moments.subspaces(variance=0.99)

    times = defaultdict(list)
    for _ in range(repeats):
        times["one shot"].append(cpu_seconds(lambda: fit_subspaces(X, codes, K, variance=0.99)))
        times["streamed"].append(cpu_seconds(stream))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return [
        {
            "job": f"fit, {n:,} x {d}, K = {K}",
            "way": f"batches of {BATCH}",
            "cpu_seconds": round(seconds["streamed"], 3),
            "against": "one shot",
            "times": round(seconds["streamed"] / seconds["one shot"], 2),
        }
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs=2, default=(60_000, 10_000))
    parser.add_argument("--data", help="folder of the image sets, default LAYERPROBE_DATA")
    parser.add_argument("--out", help="also write the table there as CSV")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for shape in STREAMS for row in streaming(*shape, arguments.repeats)]
    for pair in IMAGES:
        rows += probing(pair, *arguments.rows, arguments.repeats, arguments.data)
        table = pd.DataFrame(rows)
        if arguments.out:  # what there is, should the rest take too long
            table.to_csv(arguments.out, index=False)
    print(f"{platform.machine()}, torch {torch.__version__}, one thread, {arguments.repeats} repeats")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
