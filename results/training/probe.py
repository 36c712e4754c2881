"""Probe the last epoch's networks of finished runs, every layer of METHOD's table, and keep the rows.

python results/training/probe.py DATA RUNS [RUNS ...]

DATA is the root of the data sets, RUNS are roots of run folders. Writes probes.csv beside this script:
MASC at 99 % and nearest class mean, fitted on the noisy and on the true labels.
"""

import sys
from pathlib import Path

import pandas as pd
import torch

from layerprobe import probe
from layerprobe.paper import load_model, pair, read_run, run_data

HERE = Path(__file__).parent


def main(data_root: str, *roots: str) -> None:
    tables = []
    for path in sorted(path for root in roots for path in Path(root).glob("*/*/done")):
        spec = read_run(path.parent).spec
        images, noisy = run_data(spec, data_root)
        scale = pair(spec.pair).scale(images.max_value)
        train_x, test_x = (scale(torch.tensor(x)) for x in (images.train_images, images.test_images))
        table = probe(
            load_model(path.parent),
            (train_x, noisy),
            (test_x, images.test_labels),
            train_labels={"noisy": noisy, "true": images.train_labels},
            probes=["masc", "ncm"],
        )
        print(spec.pair, spec.corruption, spec.subset, table, sep="\n")
        rows = pd.DataFrame(table).drop(columns="seconds")
        rows.insert(0, "pair", spec.pair)
        rows.insert(1, "corruption", spec.corruption)
        rows.insert(2, "seed", spec.seed)
        rows.insert(3, "subset", spec.subset)
        tables.append(rows)
    pd.concat(tables).to_csv(HERE / "probes.csv", index=False, float_format="%.6g")


if __name__ == "__main__":
    main(*sys.argv[1:])
