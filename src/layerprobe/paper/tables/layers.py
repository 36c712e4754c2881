"""Layer by layer: accuracy, components, latent memorisation, and likeness to the generalised network."""

from itertools import product

import pandas as pd

from layerprobe.paper import published
from layerprobe.paper.tables.comparing import beside_published
from layerprobe.paper.tables.grouping import (
    GROUP,
    PAPER,
    TEST,
    by_accuracy,
    means,
    ordered,
    select,
    side_by_side,
)

__all__ = ["components", "latent", "layers", "similarity"]

FIRST = {"input": 0, "flatten": 1}  # in the published file the layers are in the order of the alphabet


def layers(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return MASC with noisy subspaces on every layer, test accuracy."""
    masc = select(rows, "noisy_subspaces", fitted_on="noisy", **PAPER, **TEST)
    theirs = published.masc_by_layer()[["pair", "corruption", "layer", "test"]]
    theirs = theirs.sort_values("layer", key=lambda names: names.map(FIRST).fillna(len(FIRST)), kind="stable")
    return beside_published(
        means(masc, [*GROUP, "layer"]),
        theirs.rename(columns={"test": "published"}),
        ["pair", "corruption", "layer"],
    )


def components(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return how many components hold 99 % of the variance in each layer.

    components is the mean over classes and runs, with the spread over runs; fewest and most are those of the
    classes with the fewest and the most, means over runs.
    """
    parts = [
        select(rows, f"{name}_subspaces", fitted_on=name, metric="components", **PAPER)
        for name in ("noisy", "true")
    ]
    counted = pd.concat(parts, ignore_index=True)
    keys = [*GROUP, "fitted_on", "layer"]
    classes = means(counted, [*keys, "class"]).groupby(keys, sort=False, dropna=False)["ours"]
    ends = classes.agg(fewest="min", most="max").reset_index()
    return ordered(side_by_side({"components": counted}, keys).merge(ends, on=keys, how="left"))


def latent(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return MASC on networks trained on true labels, with subspaces of labels corrupted only afterwards.

    degree is the corruption of these labels; accuracies are on them, on the true training labels, and on the
    test data.
    """
    masc = select(rows, "latent_memorisation", metric="accuracy", **PAPER)
    return ordered(side_by_side(by_accuracy(masc), [*GROUP, "degree", "layer"]))


def similarity(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return how alike a layer is in the memorised and in the generalised network of the same seeds.

    cka is linear centred kernel alignment on the test data; principal_cosine is the mean cosine of the
    principal angles between class subspaces, the memorised network's fitted on noisy or on true labels, and
    chance what it would be for random ones.
    """
    parts = {"cka": select(rows, "similarity", metric="cka")}
    metrics = {"principal_cosine": "principal_cosine", "chance": "principal_cosine_chance"}
    for (title, metric), name in product(metrics.items(), ("noisy", "true")):
        parts[f"{title}_{name}"] = select(rows, "similarity", metric=metric, fitted_on=name)
    return ordered(side_by_side(parts, [*GROUP, "layer"]))
