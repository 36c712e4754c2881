"""Tables without published numbers: components, similarity, cost, seeds, edits, human labels, retraining."""

from collections.abc import Iterator
from functools import partial
from itertools import product

import numpy as np
import pandas as pd

from layerprobe.paper.rows import SEEDS, independent
from layerprobe.paper.selection import (
    GROUP,
    PAPER,
    TEST,
    at_best_layer,
    means,
    network_retraining,
    select,
)
from layerprobe.paper.tables.compared import SUBSPACES, masc_at_best_layer, network_accuracy
from layerprobe.paper.tables.joining import by_accuracy, joined, ordered, side_by_side
from layerprobe.paper.tables.spec import Table

Frame = pd.DataFrame
COSTS = ["fit_flops", "predict_flops", "fit_seconds", "predict_seconds", "peak_bytes"]
STATISTICS = ["incorrect_before", "corrected", "broken", "incorrect_after"]


def _components(rows: Frame, history: Frame) -> Frame:
    """Return the components that hold 99 % of the variance per layer.

    components is the mean over classes and runs; fewest and most are those of the classes with the fewest and
    the most, each a mean over runs.
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


def _latent(rows: Frame, history: Frame) -> Frame:
    """Return the three accuracies of MASC on generalised networks, by the degree of the later labels."""
    masc = select(rows, "latent_memorisation", metric="accuracy", **PAPER)
    return ordered(side_by_side(by_accuracy(masc), [*GROUP, "degree", "layer"]))


def _similarity(rows: Frame, history: Frame) -> Frame:
    """Return CKA, mean principal cosine and its value by chance, per layer; noisy and true are subspaces."""
    parts = {"cka": select(rows, "similarity", metric="cka")}
    metrics = {"principal_cosine": "principal_cosine", "chance": "principal_cosine_chance"}
    for (title, metric), name in product(metrics.items(), ("noisy", "true")):
        parts[f"{title}_{name}"] = select(rows, "similarity", metric=metric, fitted_on=name)
    return ordered(side_by_side(parts, [*GROUP, "layer"]))


def _cost(rows: Frame, history: Frame) -> Frame:
    """Return means over runs; only seconds have a spread."""
    table = side_by_side(
        {name: select(rows, "cost", metric=name) for name in COSTS}, [*GROUP, "layer", "probe"]
    )
    return ordered(table.drop(columns=[f"{name}_spread" for name in COSTS if not name.endswith("seconds")]))


def _edits(rows: Frame, history: Frame) -> Frame:
    """Return accuracies of edited networks; network is the test accuracy before the edit.

    setting says whether the bias of the last layer was kept.
    """
    edited = select(rows, "weight_edit", metric="accuracy")
    table = side_by_side(by_accuracy(edited), [*GROUP, "fitted_on", "probe", "setting"])
    network = means(network_accuracy(rows), GROUP, "network").drop(columns="seeds")
    return ordered(table.merge(network, on=GROUP, how="left"))


def _natural(rows: Frame, history: Frame) -> Frame:
    """Return the accuracies of networks trained on human labels, and MASC at its best layer on test data."""
    rows = rows[rows["corruption"].isna()]
    keys = [*GROUP, "noise"]
    masc = {name: masc_at_best_layer(rows, name) for name in ("noisy", "true")}
    parts = {
        "train_noisy": network_accuracy(rows, split="train", labels="noisy"),
        "train_true": network_accuracy(rows, split="train"),
        "network": network_accuracy(rows),
        **{f"masc_{name}": part for name, part in masc.items()},
    }
    table = side_by_side(parts, keys)
    for name, part in masc.items():
        layers = part[[*keys, "layer"]].drop_duplicates().rename(columns={"layer": f"layer_{name}"})
        table = joined(table, layers, keys)
    return ordered(table)


def _sensitivity(rows: Frame, history: Frame) -> Frame:
    """Return the spread of test accuracy over runs in which one seed varies, and over independent runs.

    quantity is the network, or MASC (noisy subspaces) at the layer that is best over all runs. varied is the
    seed that varies, or "all" for independent runs. accuracy is the mean over these runs; accuracy_spread
    their sample standard deviation, pooled over sets of runs with equal other seeds; seeds the number of
    runs. Only groups with two or more comparable runs have lines.
    """
    tests = rows[rows["experiment"] == "noisy_subspaces"]
    for column, value in TEST.items():
        tests = tests[tests[column] == value]
    masc = tests[(tests["probe"] == PAPER["probe"]) & (tests["setting"] == PAPER["setting"])]
    parts = {"network": tests[tests["probe"] == "network"], "masc": at_best_layer(masc)}
    records = [
        {**dict(zip(GROUP, group, strict=True)), "quantity": name, "layer": runs["layer"].iloc[0], **spread}
        for name, part in parts.items()
        for group, runs in part.groupby(GROUP, sort=False, dropna=False)
        for spread in _spreads(runs)
    ]
    names = [*GROUP, "quantity", "layer", "varied", "accuracy", "accuracy_spread", "seeds"]
    return ordered(pd.DataFrame(records, columns=names))


def _spreads(runs: Frame) -> Iterator[dict[str, object]]:
    """Yield the spread for each seed that varies alone and for all together; `runs` has one row per run."""
    sets: dict[str, list[Frame]] = {}
    for varied in SEEDS[1:]:
        others = [name for name in SEEDS[1:] if name != varied]
        alike = [group for _, group in runs.groupby(others, dropna=False)]
        sets[varied] = [group for group in alike if len(group[varied].unique()) > 1]
    derived = independent(runs)
    sets["all"] = [derived] if len(derived) > 1 else []
    for varied, groups in sets.items():
        if groups:
            freedom = np.array([len(group) - 1 for group in groups])
            variances = np.array([group["value"].var() for group in groups])
            pooled = pd.concat(groups)["value"]
            spread = np.sqrt((freedom * variances).sum() / freedom.sum())
            yield {
                "varied": varied,
                "accuracy": pooled.mean(),
                "accuracy_spread": spread,
                "seeds": len(pooled),
            }


def _relabelling(rows: Frame, history: Frame) -> Frame:
    """Return the statistics of relabelling, shares, and the layers chosen.

    incorrect_before and incorrect_after are shares of all labels, corrected of the wrong ones, broken of the
    right ones. change is that of the share of incorrect labels, in points.
    """
    keys = [*GROUP, "fitted_on"]
    parts = {name: select(rows, "retraining", metric=name) for name in STATISTICS}
    table = side_by_side(parts, keys)
    table["change"] = 100 * (table["incorrect_after"] - table["incorrect_before"])
    return ordered(table.merge(_chosen_layers(parts["corrected"], keys), on=keys, how="left"))


def _retrained(rows: Frame, history: Frame, *, fitted_on: str) -> Frame:
    """Return accuracies on the 80 % of the test data before and after retraining, and those of MASC.

    The network before, after the last epoch and after the epoch with the highest validation accuracy (the
    first of equals), with early stopping and for ten epochs.
    """
    keys = [*GROUP, "fitted_on", "setting"]
    table = side_by_side(network_retraining(rows, fitted_on=fitted_on), keys)
    test = {"metric": "accuracy", "split": "evaluation"}
    masc = select(rows, "retraining", probe="masc", setting="", fitted_on=fitted_on, **test)
    beside = side_by_side({"masc": masc}, keys[:-1]).drop(columns="seeds")
    table = table.merge(beside, on=keys[:-1], how="left")
    return ordered(table.merge(_chosen_layers(masc, keys[:-1]), on=keys[:-1], how="left"))


def _retrained_masc(rows: Frame, history: Frame) -> Frame:
    """Return MASC on every layer of the retrained network, on the 80 % of the test data.

    masc_before is MASC before retraining, for the layer that was chosen. network_before and network_after
    (the last epoch with early stopping) are the network.
    """
    masc = select(rows, "retraining", metric="accuracy", split="evaluation", probe="masc")
    keys = [*GROUP, "fitted_on", "layer"]
    parts = {"masc_after": masc[masc["setting"] == "masc_after"], "masc_before": masc[masc["setting"] == ""]}
    network = network_retraining(rows, setting="early_stopping")
    beside = {"network_before": network["before"], "network_after": network["last_epoch"]}
    shared = side_by_side(beside, keys[:-1]).drop(columns="seeds")
    return ordered(side_by_side(parts, keys).merge(shared, on=keys[:-1], how="left"))


def _chosen_layers(rows: Frame, keys: list[str]) -> Frame:
    """Return the layers that runs chose, the most frequent first."""
    names = rows.groupby(keys, sort=False, dropna=False)["layer"]
    return names.agg(lambda layers: ", ".join(layers.value_counts().index)).rename("layers").reset_index()


_RETRAINED = "test accuracy before and after retraining on labels by"
OWN_TABLES = {
    "table6": Table("Table 6: what relabelling by MASC corrects and breaks", ("retraining",), _relabelling),
    "table7": Table(
        f"Table 7: {_RETRAINED} noisy subspaces", ("retraining",), partial(_retrained, fitted_on="noisy")
    ),
    "table8": Table(
        f"Table 8: {_RETRAINED} true subspaces", ("retraining",), partial(_retrained, fitted_on="true")
    ),
    "components": Table(
        "Components that hold 99 % of the variance, mean over classes", SUBSPACES, _components
    ),
    "latent": Table(
        "Latent memorisation: MASC on networks trained on true labels, with subspaces of labels corrupted "
        "afterwards",
        ("latent_memorisation",),
        _latent,
    ),
    "sensitivity": Table(
        "Spread of test accuracy where one seed varies, and where all seeds vary",
        ("noisy_subspaces",),
        _sensitivity,
    ),
    "cost": Table("Cost of fitting a probe on one layer and of predicting all test rows", ("cost",), _cost),
    "retrained_masc": Table(
        "MASC on the layers of the retrained network, test accuracy", ("retraining",), _retrained_masc
    ),
    "similarity": Table(
        "Similarity of the memorised and the generalised network per layer", ("similarity",), _similarity
    ),
    "edits": Table(
        "Accuracy of networks whose last layer was replaced by a probe",
        ("weight_edit", "noisy_subspaces"),
        _edits,
    ),
    "natural": Table(
        "Human label noise: the network and MASC at its best layer, test accuracy", SUBSPACES, _natural
    ),
}
