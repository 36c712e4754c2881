"""The network beside MASC at its best layer: Tables 1 and 5, and the same for human label noise."""

import pandas as pd

from layerprobe.paper import published
from layerprobe.paper.tables.comparing import beside_published
from layerprobe.paper.tables.grouping import (
    GROUP,
    PAPER,
    TEST,
    at_best_layer,
    joined,
    means,
    ordered,
    select,
    side_by_side,
)

__all__ = ["masc_at_best_layer", "natural", "network_rows", "table1", "table5"]

MEMORISED = 0.99  # of the labels trained on


def table1(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return Table 1: quantities network, masc (at its best layer, noisy subspaces), gain, and masc_hidden.

    As in the paper the input is among the layers of masc; masc_hidden leaves it out, and so tells what the
    network added to the raw pixels.
    The gain is the share by which MASC is better, a ratio of means as in the paper; its spread is that of
    the runs' own gains. memorised says whether every run knows 99 % of the labels that it was trained on.
    """
    return _best_layers(rows, "noisy")


def table5(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return supplementary Table 5: as Table 1, with true subspaces."""
    return _best_layers(rows, "true")


def natural(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return the runs on human labels: the network, and MASC at its best layer on the test data.

    train_noisy is the network's accuracy on the human labels, train_true on the true ones.
    """
    rows = rows[rows["corruption"].isna()]
    keys = [*GROUP, "noise"]
    masc = {name: masc_at_best_layer(rows, name) for name in ("noisy", "true")}
    parts = {
        "train_noisy": network_rows(rows, split="train", labels="noisy"),
        "train_true": network_rows(rows, split="train", labels="true"),
        "network": network_rows(rows),
        **{f"masc_{name}": part for name, part in masc.items()},
    }
    table = side_by_side(parts, keys)
    for name, part in masc.items():
        layers = part[[*keys, "layer"]].drop_duplicates().rename(columns={"layer": f"layer_{name}"})
        table = joined(table, layers, keys)
    return ordered(table)


def network_rows(
    rows: pd.DataFrame, experiment: str = "noisy_subspaces", split: str = "test", labels: str = "true"
) -> pd.DataFrame:
    """Return the rows of the network's own accuracy."""
    return select(rows, experiment, probe="network", split=split, labels=labels, metric="accuracy")


def masc_at_best_layer(rows: pd.DataFrame, fitted_on: str, *, hidden: bool = False) -> pd.DataFrame:
    """Return the test rows of MASC at 99 % variance at its best layer; `hidden` leaves the input out."""
    tests = select(rows, f"{fitted_on}_subspaces", fitted_on=fitted_on, **PAPER, **TEST)
    return at_best_layer(tests[tests["layer"] != "input"] if hidden else tests)


def _best_layers(rows: pd.DataFrame, fitted_on: str) -> pd.DataFrame:
    experiment = f"{fitted_on}_subspaces"
    network, masc = network_rows(rows, experiment), masc_at_best_layer(rows, fitted_on)
    hidden = masc_at_best_layer(rows, fitted_on, hidden=True)
    both = masc.merge(network[["key", "value"]], on="key", suffixes=("", "_of_network"))
    gains = both.assign(value=both["value"] / both["value_of_network"] - 1)
    # of the same runs, so that the gain is the ratio of its own two means
    ratio = means(both, GROUP)["ours"] / means(both.assign(value=both["value_of_network"]), GROUP)["ours"]
    ours = pd.concat(
        [
            means(network, [*GROUP, "layer"]).assign(quantity="network"),
            means(masc, [*GROUP, "layer"]).assign(quantity="masc"),
            means(gains, [*GROUP, "layer"]).assign(quantity="gain", ours=ratio - 1),
            means(hidden, [*GROUP, "layer"]).assign(quantity="masc_hidden"),
        ],
        ignore_index=True,
    )
    trained = network_rows(rows, experiment, "train", "noisy")
    least = trained.groupby(GROUP, sort=False, dropna=False)["value"].min().reset_index()
    memorised = least["value"].ge(MEMORISED).map({True: "yes", False: "no"}).astype(object)
    ours = ours.merge(least.assign(memorised=memorised)[[*GROUP, "memorised"]], on=GROUP, how="left")
    return beside_published(ours, _published(fitted_on), ["pair", "corruption", "quantity"])


def _published(fitted_on: str) -> pd.DataFrame:
    rows = published.table1()
    numbers = {
        "network": rows["model_test"],
        "masc": rows[f"masc_{fitted_on}_best_layer"],
        "gain": rows[f"gain_{fitted_on}_percent"] / 100,
    }
    which = rows[["pair", "corruption"]]
    return pd.concat([which.assign(quantity=name, published=part) for name, part in numbers.items()])
