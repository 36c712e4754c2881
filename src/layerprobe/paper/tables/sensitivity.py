"""What the results depend on: the variance kept, and each source of randomness alone."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from layerprobe.paper import published
from layerprobe.paper.rows import independent
from layerprobe.paper.tables.comparing import beside_published
from layerprobe.paper.tables.grouping import (
    GROUP,
    PAPER,
    TEST,
    at_best_layer,
    means,
    ordered,
    select,
)

__all__ = ["sensitivity", "thresholds"]

SEEDS = ["noise_seed", "init_seed", "order_seed"]


def thresholds(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return MASC with noisy subspaces at its best layer, for each variance kept and for one component.

    The published numbers are of one run.
    """
    keys = [*GROUP, "setting"]
    best = at_best_layer(select(rows, "noisy_subspaces", probe="masc", fitted_on="noisy", **TEST), keys)
    theirs = published.thresholds_best_layer().rename(
        columns={"threshold": "setting", "best_layer": "published_layer", "test": "published"}
    )
    return beside_published(means(best, [*keys, "layer"]), theirs, ["pair", "corruption", "setting"])


def sensitivity(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return how much test accuracy spreads over runs in which one seed alone varies, against all.

    Returns
    -------
    DataFrame
        quantity: the network, or MASC (noisy subspaces) at the layer that is best over all runs. varied: the
        seed that varies, or "all" for runs whose seeds all derive from one. accuracy, the mean over these
        runs; accuracy_spread, their sample standard deviation, pooled over sets of runs that have the other
        seeds in common; seeds, the number of runs. Only where two or more runs can be compared.
    """
    tests = rows[rows["experiment"] == "noisy_subspaces"]
    for column, value in TEST.items():
        tests = tests[tests[column] == value]
    network = tests[tests["probe"] == "network"]
    masc = tests[(tests["probe"] == PAPER["probe"]) & (tests["setting"] == PAPER["setting"])]
    quantities = {"network": network, "masc": at_best_layer(masc)}
    records = [
        {**dict(zip(GROUP, group, strict=True)), "quantity": name, "layer": runs["layer"].iloc[0], **spread}
        for name, part in quantities.items()
        for group, runs in part.groupby(GROUP, sort=False, dropna=False)
        for spread in _spreads(runs)
    ]
    names = [*GROUP, "quantity", "layer", "varied", "accuracy", "accuracy_spread", "seeds"]
    return ordered(pd.DataFrame(records, columns=names))


def _spreads(runs: pd.DataFrame) -> Iterator[dict[str, object]]:
    """Yield the spread for each seed that varies alone and for all together; `runs` has one row a run."""
    for varied in SEEDS:
        others = [name for name in SEEDS if name != varied]
        sets = [alike for _, alike in runs.groupby(others, dropna=False) if len(alike[varied].unique()) > 1]
        if sets:
            yield _pooled(varied, sets)
    derived = independent(runs)
    if len(derived) > 1:
        yield _pooled("all", [derived])


def _pooled(varied: str, sets: list[pd.DataFrame]) -> dict[str, object]:
    freedom = np.array([len(alike) - 1 for alike in sets])
    variances = np.array([alike["value"].var() for alike in sets])
    together = pd.concat(sets)
    return {
        "varied": varied,
        "accuracy": together["value"].mean(),
        "accuracy_spread": np.sqrt((freedom * variances).sum() / freedom.sum()),
        "seeds": len(together),
    }
