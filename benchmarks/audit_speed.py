"""Measure the cost of an audit without passes of the network: 50,000 rows, 1,024 features, ten classes.

python benchmarks/audit_speed.py [--repeats 3]

CPU seconds of one thread, medians, beside one product of the rows with a 1024 x 1024 matrix in the same run.
40 % of the labels are redrawn; 3,000 rows are held out.
"""

import argparse
import statistics
import time

import torch
from core_jobs import relu_features

from layerprobe import audit_features
from layerprobe.data import noise

N, D, K, HELD = 50_000, 1024, 10, 3000


def main(repeats: int) -> None:
    X, true = relu_features(N + HELD, D, K)
    labels = noise.uniform(true.numpy(), 0.4, num_classes=K, seed=0).labels
    held = ({"layer": X[N:]}, labels[N:])
    square = torch.randn(D, D)
    products, audits, steps = [], [], []
    for _ in range(repeats):
        start = time.process_time()
        X[:N] @ square
        products.append(time.process_time() - start)
        start = time.process_time()
        found = audit_features({"layer": X[:N]}, labels[:N], policy="noisy_holdout", holdout=held)
        audits.append(time.process_time() - start)
        steps.append(found.cost)
    product, audit = statistics.median(products), statistics.median(audits)
    print(f"{audit:.1f} CPU seconds, {audit / product:.0f} products of {product:.2f} s; elapsed seconds:")
    print({name: round(seconds, 1) for name, seconds in steps[-1].items()})
    print(found.finding)


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    main(parser.parse_args().repeats)
