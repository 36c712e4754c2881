"""Relabelling and retraining: Tables 6 to 8, and MASC once more on the retrained network."""

from functools import partial

import pandas as pd

from layerprobe.paper.tables.grouping import GROUP, ordered, select, side_by_side

__all__ = ["retrained_masc", "table6", "table7", "table8"]

STATISTICS = ["incorrect_before", "corrected", "broken", "incorrect_after"]
EPOCHS = ["before", "last_epoch", "best_validation_epoch"]


def table6(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return the statistics of relabelling by noisy and by true subspaces, all of them shares.

    incorrect_before and incorrect_after are of all labels, corrected is of the wrong ones, broken of the
    right ones; change is that of the share of incorrect labels, in points. layers names the chosen layers.
    """
    keys = [*GROUP, "fitted_on"]
    parts = {name: select(rows, "retraining", metric=name) for name in STATISTICS}
    table = side_by_side(parts, keys)
    table["change"] = 100 * (table["incorrect_after"] - table["incorrect_before"])
    return ordered(table.merge(_layers(parts["corrected"], keys), on=keys, how="left"))


def table7(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return what retraining on the labels of noisy subspaces does, on the 80 % of the test data.

    The network before, after the last epoch and after the epoch of the highest validation accuracy (the first
    of equals), with early stopping and for ten epochs; and masc, whose predictions it learnt.
    """
    return _retrained(rows, "noisy")


def table8(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return as Table 7 what retraining on the labels of true subspaces does."""
    return _retrained(rows, "true")


def retrained_masc(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return MASC on every layer of the retrained network, on the 80 % of the test data.

    masc_after beside network_before and network_after (the last epoch with early stopping), and masc_before:
    MASC before retraining where this layer was the one chosen.
    """
    evaluated = partial(select, rows, "retraining", metric="accuracy", split="evaluation")
    keys = [*GROUP, "fitted_on", "layer"]
    table = side_by_side(
        {
            "masc_after": evaluated(setting="masc_after", probe="masc"),
            "masc_before": evaluated(setting="", probe="masc"),
        },
        keys,
    )
    network = _accuracies(rows)
    network = network[network["setting"] == "early_stopping"]
    parts = {
        "network_before": network.assign(value=network["before"]),
        "network_after": network.assign(value=network["last_epoch"]),
    }
    shared = side_by_side(parts, keys[:-1]).drop(columns="seeds")
    return ordered(table.merge(shared, on=keys[:-1], how="left"))


def _retrained(rows: pd.DataFrame, fitted_on: str) -> pd.DataFrame:
    keys = [*GROUP, "fitted_on", "setting"]
    network = _accuracies(rows)
    network = network[network["fitted_on"] == fitted_on]
    table = side_by_side({name: network.assign(value=network[name]) for name in EPOCHS}, keys)
    masc = select(
        rows,
        "retraining",
        probe="masc",
        setting="",
        metric="accuracy",
        split="evaluation",
        fitted_on=fitted_on,
    )
    beside = side_by_side({"masc": masc}, keys[:-1]).drop(columns="seeds")
    table = table.merge(beside, on=keys[:-1], how="left")
    return ordered(table.merge(_layers(masc, keys[:-1]), on=keys[:-1], how="left"))


def _accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a run, subspaces and setting; columns `EPOCHS` are accuracies on the 80 %."""
    network = select(rows, "retraining", probe="network", metric="accuracy", labels="true")
    keys = [*GROUP, "key", "fitted_on", "setting"]
    evaluated, validated = (
        network.loc[network["split"] == split, [*keys, "epoch", "value"]].sort_values("epoch", kind="stable")
        for split in ("evaluation", "validation")
    )
    trained = validated[validated["epoch"] >= 1]
    best = trained.sort_values("value", ascending=False, kind="stable").drop_duplicates(keys)
    return (
        evaluated[evaluated["epoch"] == 0]
        .rename(columns={"value": "before"})
        .drop(columns="epoch")
        .merge(_named(evaluated.drop_duplicates(keys, keep="last"), keys, "last_epoch"), on=keys, how="left")
        .merge(
            _named(evaluated.merge(best[[*keys, "epoch"]]), keys, "best_validation_epoch"),
            on=keys,
            how="left",
        )
    )


def _named(rows: pd.DataFrame, keys: list[str], name: str) -> pd.DataFrame:
    return rows[[*keys, "value"]].rename(columns={"value": name})


def _layers(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return the layers that runs chose, the most frequent first."""
    names = rows.groupby(keys, sort=False, dropna=False)["layer"]
    return names.agg(lambda layers: ", ".join(layers.value_counts().index)).rename("layers").reset_index()
