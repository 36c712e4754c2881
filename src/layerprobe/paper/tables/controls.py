"""Networks beside which MASC has to stand: untrained, at their best epoch, edited instead of probed."""

import pandas as pd

from layerprobe.paper import published
from layerprobe.paper.tables.best_layers import masc_at_best_layer, network_rows
from layerprobe.paper.tables.comparing import beside_published
from layerprobe.paper.tables.grouping import (
    GROUP,
    TEST,
    at_best_layer,
    by_accuracy,
    means,
    ordered,
    select,
    side_by_side,
)
from layerprobe.runs.pairs import PAIRS

__all__ = ["controls", "edits"]


def controls(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return test accuracies, each a quantity, by the optimiser that trained the network.

    best_epoch is the network when it was best on the test data, last_epoch when training ended; masc_noisy
    and masc_true are MASC at the best layer of the latter, the input among them. masc_noisy_hidden and
    untrained_noisy (and so on) are MASC at the best layer but for the input, after and before training: the
    input is the same in both. epoch is the mean over runs.
    """
    tests = select(rows, "controls", **TEST)
    untrained = tests[(tests["setting"] == "untrained") & (tests["layer"] != "input")]
    parts = {
        f"untrained_{name}": at_best_layer(untrained[untrained["fitted_on"] == name])
        for name in ("noisy", "true")
    }
    parts |= {name: tests[tests["setting"] == name] for name in ("best_epoch", "last_epoch")}
    for name in ("noisy", "true"):
        parts[f"masc_{name}"] = masc_at_best_layer(rows, name)
        parts[f"masc_{name}_hidden"] = masc_at_best_layer(rows, name, hidden=True)
    ours = pd.concat([_summary(part).assign(quantity=name) for name, part in parts.items()])
    optimizers = [_optimizer(*which) for which in zip(ours["pair"], ours["variant"], strict=True)]
    ours = ours.assign(optimizer=pd.Series(optimizers, index=ours.index, dtype=object))
    return beside_published(ours, _published(), ["pair", "corruption", "quantity"])


def edits(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracies of networks whose last layer was replaced by a probe, beside the network's own.

    setting says whether the last layer's bias was kept; network is the test accuracy before the edit.
    """
    edited = select(rows, "weight_edit", metric="accuracy")
    edited = edited[edited["probe"] != "network"]
    table = side_by_side(by_accuracy(edited), [*GROUP, "fitted_on", "probe", "setting"])
    network = means(network_rows(rows), GROUP, "network").drop(columns="seeds")
    return ordered(table.merge(network, on=GROUP, how="left"))


def _summary(part: pd.DataFrame) -> pd.DataFrame:
    keys = [*GROUP, "layer"]
    epochs = means(part.assign(value=part["epoch"].astype(float)), keys, "epoch")[[*keys, "epoch"]]
    return means(part, keys).merge(epochs, on=keys)


def _optimizer(pair: str, variant: str) -> str:
    """Return the optimiser of a variant, which names it only where it is not the pair's own."""
    named = [part.split(" ")[1] for part in variant.split(", ") if part.startswith("optimizer ")]
    own = PAIRS[pair].recipe.optimizer if pair in PAIRS else ""
    return named[0] if named else own


def _published() -> pd.DataFrame:
    best, last = published.table1(), published.training()
    columns = {
        "best_epoch": (best, "model_peak_epoch_test"),
        "last_epoch": (last, "test"),
        "masc_noisy": (best, "masc_noisy_best_layer"),
        "masc_true": (best, "masc_true_best_layer"),
    }
    parts = [
        theirs[["pair", "corruption"]].assign(quantity=name, published=theirs[column])
        for name, (theirs, column) in columns.items()
    ]
    return pd.concat(parts).dropna(subset="published")
