"""Tables without published numbers: relabelling, retraining, components, controls, cost, seeds, edits."""

from collections.abc import Iterator
from functools import partial
from itertools import product

import numpy as np
import pandas as pd

from layerprobe.paper.pairs import PAIRS
from layerprobe.paper.rows import SEEDS, independent
from layerprobe.paper.selection import (
    GROUP,
    PAPER,
    TEST,
    accuracies,
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
LABELS = ("noisy", "true")


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


def _incorrect(rows: Frame, history: Frame) -> Frame:
    """Return the share of incorrect labels in the corrupted and in the relabelled set, by the subspaces.

    improvement is the relative change, (before - after) / before, from the means; layers are those chosen.
    """
    rows = rows[rows["corruption"].ne(0)]
    before = select(rows, "retraining", metric="incorrect_before").drop_duplicates("key")
    after = _by_labels(select(rows, "retraining", metric="incorrect_after"), "relabelled")
    table = side_by_side({"corrupted": before, **after}, GROUP)
    for name in ("noisy", "true"):
        share = table["corrupted"]
        table[f"improvement_{name}"] = (share - table[f"relabelled_{name}"]) / share.where(share > 0)
    return ordered(_with_layers(table, after, "relabelled"))


def _statistic(rows: Frame, history: Frame, *, metric: str) -> Frame:
    """Return a statistic of relabelling, a share, by the subspaces, and the layers chosen."""
    parts = _by_labels(select(rows[rows["corruption"].ne(0)], "retraining", metric=metric), metric)
    return ordered(_with_layers(side_by_side(parts, GROUP), parts, metric))


def _by_labels(rows: Frame, name: str) -> dict[str, Frame]:
    return {f"{name}_{labels}": rows[rows["fitted_on"] == labels] for labels in ("noisy", "true")}


def _with_layers(table: Frame, parts: dict[str, Frame], name: str) -> Frame:
    for labels in ("noisy", "true"):
        layers = _chosen_layers(parts[f"{name}_{labels}"], GROUP).rename(
            columns={"layers": f"layers_{labels}"}
        )
        table = table.merge(layers, on=GROUP, how="left")
    return table


def _retrained(rows: Frame, history: Frame) -> Frame:
    """Return accuracies on the 80 % of the test data before and after retraining, and those of MASC.

    The network before, after the last epoch and after the epoch with the highest validation accuracy (the
    first of equals), with early stopping and for ten epochs.
    """
    keys = [*GROUP, "fitted_on", "setting"]
    table = side_by_side(network_retraining(rows), keys)
    test = {"metric": "accuracy", "split": "evaluation"}
    masc = select(rows, "retraining", probe="masc", setting="", **test)
    beside = side_by_side({"masc": masc}, keys[:-1]).drop(columns="seeds")
    table = table.merge(beside, on=keys[:-1], how="left")
    return ordered(table.merge(_chosen_layers(masc, keys[:-1]), on=keys[:-1], how="left"))


def _untrained(rows: Frame, history: Frame) -> Frame:
    """Return the test accuracy of MASC on each layer of the trained and of the untrained network."""
    keys = [*GROUP, "fitted_on", "layer"]
    trained = [select(rows, f"{name}_subspaces", fitted_on=name, **PAPER, **TEST) for name in LABELS]
    untrained = select(rows, "controls", setting="untrained", **TEST)
    table = side_by_side({"trained": pd.concat(trained), "untrained": untrained}, keys)
    table["difference"] = 100 * (table["trained"] - table["untrained"])
    return ordered(table)


def _flipped(rows: Frame, history: Frame) -> Frame:
    """Return accuracies on training rows whose label was flipped, and on the others, per layer.

    flipped_given and flipped_true: shares of the flipped rows that get their wrong given label, and their
    true label; unflipped: share of the other rows that get their label; flipped_share: share of flipped rows.
    """
    measured = select(rows, "flipped_rows", metric="accuracy")
    names = {"flipped_given": ("flipped", "noisy"), "flipped_true": ("flipped", "true")}
    names["unflipped"] = ("unflipped", "true")
    parts = {name: accuracies(measured, *which) for name, which in names.items()}
    table = side_by_side(parts, [*GROUP, "probe", "fitted_on", "layer"])
    share = means(select(rows, "flipped_rows", metric="flipped_share"), GROUP, "flipped_share")
    return ordered(table.merge(share[[*GROUP, "flipped_share"]], on=GROUP, how="left"))


def _networks(rows: Frame, history: Frame) -> Frame:
    """Return the pairs with their numbers of training images and of parameters; no run is needed."""
    records = []
    for name, pair in PAIRS.items():
        network = pair.network()
        size = sum(parameter.numel() for parameter in network.parameters())
        records.append(
            {
                "pair": name,
                "corruption": np.nan,
                "variant": "",
                "model": type(network).__name__,
                "data_set": pair.dataset,
                "training_images": pair.train_size,
                "parameters": size,
            }
        )
    return ordered(pd.DataFrame(records)).assign(scale="")


def _chosen_layers(rows: Frame, keys: list[str]) -> Frame:
    """Return the layers that runs chose, the most frequent first."""
    names = rows.groupby(keys, sort=False, dropna=False)["layer"]
    return names.agg(lambda layers: ", ".join(layers.value_counts().index)).rename("layers").reset_index()


OWN_TABLES = {
    "table6": Table(
        "Table 6: share of incorrect labels in the corrupted and in the relabelled set, and relative change",
        ("retraining",),
        _incorrect,
    ),
    "table7": Table(
        "Table 7: share of the wrong labels that became right by relabelling",
        ("retraining",),
        partial(_statistic, metric="corrected"),
    ),
    "table8": Table(
        "Table 8: share of the right labels that became wrong by relabelling",
        ("retraining",),
        partial(_statistic, metric="broken"),
    ),
    "supplementary_table1": Table(
        "Supplementary Table 1: models, data sets, training set sizes, numbers of parameters", (), _networks
    ),
    "retraining": Table(
        "Test accuracy before and after retraining on the labels of MASC", ("retraining",), _retrained
    ),
    "untrained": Table(
        "Random initialisation: MASC on every layer of the trained and of the untrained network, test "
        "accuracy",
        ("controls", *SUBSPACES),
        _untrained,
    ),
    "flipped": Table(
        "Accuracy on training rows whose label was flipped, and on the others", ("flipped_rows",), _flipped
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
