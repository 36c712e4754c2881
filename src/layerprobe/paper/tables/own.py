"""Tables without published numbers: relabelling, retraining, components, controls, cost, seeds, edits."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd

from layerprobe.paper.pairs import PAIRS
from layerprobe.paper.rows import SEEDS, independent
from layerprobe.paper.selection import (
    GROUP,
    LABELS,
    PAPER,
    TEST,
    accuracies,
    at_best_layer,
    masc_at_best_layer,
    means,
    network_accuracy,
    network_retraining,
    select,
)
from layerprobe.paper.tables.joining import by_accuracy, layer_names, ordered, register_table, side_by_side

Frame = pd.DataFrame
SUBSPACES = ("noisy_subspaces", "true_subspaces")
COSTS = ["fit_flops", "predict_flops", "fit_seconds", "predict_seconds", "peak_bytes"]


def _lines(parts: dict[str, Frame], keys: list[str], *beside: Frame) -> Frame:
    """Return a table of quantities, a line per value of the keys, with the columns of further frames."""
    return ordered(_beside(side_by_side(parts, keys), keys, *beside))


def _beside(table: Frame, keys: list[str], *frames: Frame) -> Frame:
    for frame in frames:
        table = table.merge(frame, on=[name for name in keys if name in frame], how="left")
    return table


def _of_runs(rows: Frame, others: Frame) -> Frame:
    """Return the rows of the runs that have other rows."""
    return rows[rows["key"].isin(others["key"])]


@register_table(
    "table6",
    "Table 6: share of incorrect labels in the corrupted and in the relabelled set, and relative change",
    "retraining",
)
def _incorrect(rows: Frame) -> Frame:
    """Improvement is the relative change, (before - after) / before, from the means."""
    rows = rows[~rows["corruption"].isin([0, 1])]
    before = select(rows, "retraining", metric="incorrect_before").drop_duplicates("key")
    after = _by_labels(select(rows, "retraining", metric="incorrect_after"), "relabelled")
    table = side_by_side({"corrupted": before, **after}, GROUP)
    share = table["corrupted"]
    for name in LABELS:
        table[f"improvement_{name}"] = (share - table[f"relabelled_{name}"]) / share.where(share > 0)
    return ordered(_beside(table, GROUP, *_chosen(after)))


@register_table(
    "table8",
    "Table 8: share of the right labels that became wrong by relabelling",
    "retraining",
    metric="broken",
)
@register_table(
    "table7",
    "Table 7: share of the wrong labels that became right by relabelling",
    "retraining",
    metric="corrected",
)
def _statistic(rows: Frame, *, metric: str) -> Frame:
    parts = _by_labels(select(rows[~rows["corruption"].isin([0, 1])], "retraining", metric=metric), metric)
    return _lines(parts, GROUP, *_chosen(parts))


def _by_labels(rows: Frame, name: str) -> dict[str, Frame]:
    return {f"{name}_{labels}": rows[rows["fitted_on"] == labels] for labels in LABELS}


def _chosen(parts: dict[str, Frame]) -> list[Frame]:
    """Return the layers chosen, by the labels of the subspaces."""
    named = zip(LABELS, parts.values(), strict=True)
    return [layer_names(part, GROUP, f"layers_{labels}") for labels, part in named]


@register_table(
    "supplementary_table1",
    "Supplementary Table 1: models, data sets, training set sizes, numbers of parameters",
)
def _networks(_: Frame) -> Frame:
    networks = {name: pair.network() for name, pair in PAIRS.items()}
    table = pd.DataFrame(
        {
            "pair": list(PAIRS),
            "corruption": np.nan,
            "variant": "",
            "model": [type(network).__name__ for network in networks.values()],
            "data_set": [pair.dataset for pair in PAIRS.values()],
            "training_images": [pair.train_size for pair in PAIRS.values()],
            "parameters": [sum(w.numel() for w in network.parameters()) for network in networks.values()],
        }
    )
    return ordered(table).assign(scale="")


@register_table("retraining", "Test accuracy before and after retraining on the labels of MASC", "retraining")
def _retrained(rows: Frame) -> Frame:
    """Accuracies are on the 80 % of the test data that did not choose the layer."""
    keys = [*GROUP, "fitted_on", "setting"]
    masc = accuracies(select(rows, "retraining", probe="masc", setting=""), "evaluation")
    beside = side_by_side({"masc": masc}, keys[:-1]).drop(columns="seeds")
    return _lines(network_retraining(rows), keys, beside, layer_names(masc, keys[:-1], "layers"))


@register_table(
    "corrected",
    "MASC with the noise taken out of the moments, at its best layer, test accuracy",
    "corrected_subspaces",
    "noisy_subspaces",
)
def _corrected(rows: Frame) -> Frame:
    """Return means over the runs with noisy and with corrected subspaces; the latter are not in the paper.

    masc is MASC at 99 % of the variance, masc_1pc with one component, and corrected at 99 % with the noise p
    taken out, each at its best layer. Layers whose decompositions take too long have no corrected. p_too_low
    and p_too_high are at the layer of corrected, with p wrong by 0.1.
    """
    rows = _of_runs(rows, select(rows, "noisy_subspaces"))
    measured = select(rows, "corrected_subspaces", probe="masc", **TEST)
    best = at_best_layer(measured[measured["setting"] == "p"])
    others = measured.merge(best[["key", "layer"]])
    own = _of_runs(rows, best)
    masc, single = (masc_at_best_layer(own, "noisy", setting=name) for name in (PAPER["setting"], "1pc"))
    parts = {
        "network": network_accuracy(own),
        "masc": masc,
        "masc_1pc": single,
        "corrected": best,
        "p_too_low": others[others["setting"] == "p - 0.1"],
        "p_too_high": others[others["setting"] == "p + 0.1"],
    }
    layers = {"masc_layer": masc, "masc_1pc_layer": single, "corrected_layer": best}
    return _lines(parts, GROUP, *(layer_names(part, GROUP, name) for name, part in layers.items()))


@register_table(
    "corrected_retraining",
    "Relabelling by MASC with the noise taken out, and test accuracy before and after retraining",
    "corrected_retraining",
)
def _corrected_retraining(rows: Frame) -> Frame:
    """Return what Tables 6 to 8 and `retraining`, with early stopping, show of the subspaces of the paper."""
    masc = select(rows, "corrected_retraining", probe="masc")
    network = network_retraining(rows, "corrected_retraining", setting="early_stopping")
    shares = ("incorrect_before", "incorrect_after", "corrected", "broken")
    parts = {name: masc[masc["metric"] == name] for name in shares}
    parts |= {"masc": accuracies(masc, "evaluation"), **network}
    return _lines(parts, GROUP, layer_names(masc, GROUP, "layers"))


@register_table(
    "untrained",
    "Random initialisation: MASC on every layer of the trained and of the untrained network, test accuracy",
    "controls",
    *SUBSPACES,
)
def _untrained(rows: Frame) -> Frame:
    """Return the means over the runs that have both numbers."""
    trained = pd.concat(select(rows, f"{name}_subspaces", fitted_on=name, **PAPER, **TEST) for name in LABELS)
    untrained = select(rows, "controls", setting="untrained", **TEST)
    parts = {"trained": _of_runs(trained, untrained), "untrained": _of_runs(untrained, trained)}
    table = _lines(parts, [*GROUP, "fitted_on", "layer"])
    return table.assign(difference=100 * (table["trained"] - table["untrained"]))


@register_table(
    "flipped", "Accuracy on training rows whose label was flipped, and on the others", "flipped_rows"
)
def _flipped(rows: Frame) -> Frame:
    """flipped_given and flipped_true: how often a flipped row gets its wrong given, and its true label."""
    measured = select(rows, "flipped_rows", metric="accuracy")
    parts = {
        "flipped_given": accuracies(measured, "flipped", "noisy"),
        "flipped_true": accuracies(measured, "flipped"),
        "unflipped": accuracies(measured, "unflipped"),
    }
    share = means(select(rows, "flipped_rows", metric="flipped_share"), GROUP, "flipped_share")
    return _lines(parts, [*GROUP, "probe", "fitted_on", "layer"], share[[*GROUP, "flipped_share"]])


@register_table("components", "Components that hold 99 % of the variance, mean over classes", *SUBSPACES)
def _components(rows: Frame) -> Frame:
    """Fewest and most are the components of the classes with the fewest and the most, means over runs."""
    which = {"metric": "components", **PAPER}
    counted = pd.concat([select(rows, f"{name}_subspaces", fitted_on=name, **which) for name in LABELS])
    keys = [*GROUP, "fitted_on", "layer"]
    classes = means(counted, [*keys, "class"]).groupby(keys, sort=False, dropna=False)["ours"]
    return _lines({"components": counted}, keys, classes.agg(fewest="min", most="max").reset_index())


@register_table(
    "latent",
    "Latent memorisation: MASC on networks trained on true labels, with subspaces of labels corrupted "
    "afterwards",
    "latent_memorisation",
)
def _latent(rows: Frame) -> Frame:
    masc = select(rows, "latent_memorisation", metric="accuracy", **PAPER)
    return _lines(by_accuracy(masc), [*GROUP, "degree", "layer"])


@register_table(
    "sensitivity",
    "Spread of test accuracy where one seed varies, and where all seeds vary",
    "noisy_subspaces",
)
def _sensitivity(rows: Frame) -> Frame:
    """Return the spread of test accuracy over runs in which one seed varies, and over independent runs.

    quantity is the network, or MASC (noisy subspaces) at the layer that is best over all runs. varied is the
    seed that varies, or "all" for independent runs. accuracy is the mean over these runs; accuracy_spread
    their sample standard deviation, pooled over sets of runs with equal other seeds; seeds the number of
    runs. Only groups with two or more comparable runs have lines.
    """
    tests = accuracies(rows[rows["experiment"] == "noisy_subspaces"])
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
            spread = np.sqrt((freedom * variances).sum() / freedom.sum())
            pooled = pd.concat(groups)["value"]
            numbers = {"accuracy": pooled.mean(), "accuracy_spread": spread, "seeds": len(pooled)}
            yield {"varied": varied, **numbers}


@register_table("cost", "Cost of fitting a probe on one layer and of predicting all test rows", "cost")
def _cost(rows: Frame) -> Frame:
    """Return means over runs; only seconds have a spread."""
    parts = {name: select(rows, "cost", metric=name) for name in COSTS}
    exact = [f"{name}_spread" for name in COSTS if not name.endswith("seconds")]
    return _lines(parts, [*GROUP, "layer", "probe"]).drop(columns=exact)


@register_table(
    "similarity", "Similarity of the memorised and the generalised network per layer", "similarity"
)
def _similarity(rows: Frame) -> Frame:
    parts = {"cka": select(rows, "similarity", metric="cka")}
    metrics = {"principal_cosine": "principal_cosine", "chance": "principal_cosine_chance"}
    for (title, metric), name in product(metrics.items(), LABELS):
        parts[f"{title}_{name}"] = select(rows, "similarity", metric=metric, fitted_on=name)
    return _lines(parts, [*GROUP, "layer"])


@register_table(
    "edits", "Accuracy of networks whose last layer was replaced by a probe", "weight_edit", "noisy_subspaces"
)
def _edits(rows: Frame) -> Frame:
    """Network is the test accuracy of these runs before the edit; setting says whether the bias was kept."""
    edits = select(rows, "weight_edit", metric="accuracy")
    network = means(_of_runs(network_accuracy(rows), edits), GROUP, "network").drop(columns="seeds")
    return _lines(by_accuracy(edits), [*GROUP, "fitted_on", "probe", "setting"], network)


@register_table(
    "natural", "Human label noise: the network and MASC at its best layer, test accuracy", *SUBSPACES
)
def _natural(rows: Frame) -> Frame:
    rows = rows[rows["corruption"].isna()]
    keys = [*GROUP, "noise"]
    masc = {name: masc_at_best_layer(rows, name) for name in LABELS}
    parts = {
        "train_noisy": network_accuracy(rows, split="train", labels="noisy"),
        "train_true": network_accuracy(rows, split="train"),
        "network": network_accuracy(rows),
        **{f"masc_{name}": part for name, part in masc.items()},
    }
    return _lines(parts, keys, *(layer_names(part, keys, f"layer_{name}") for name, part in masc.items()))
