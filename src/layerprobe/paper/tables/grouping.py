"""What tables have in common: choosing rows, means over runs, the best layer, order.

A table never mixes variants: what it averages over are the runs of one pair, corruption and variant.
"""

import re
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Literal

import pandas as pd

from layerprobe.paper.rows import independent
from layerprobe.runs.pairs import PAIRS

__all__ = [
    "GROUP",
    "PAPER",
    "TEST",
    "at_best_layer",
    "by_accuracy",
    "joined",
    "means",
    "ordered",
    "scale",
    "select",
    "side_by_side",
]

GROUP = ["pair", "corruption", "variant"]
TEST = {"split": "test", "labels": "true", "metric": "accuracy"}
PAPER = {"probe": "masc", "setting": "0.99"}  # MASC as in the paper's main results
Validate = Literal["one_to_one", "many_to_one"]
PROTOCOL, DATA = {"shuffle", "noise"}, {"subset", "test_subset"}


def select(rows: pd.DataFrame, experiment: str, **equal: str) -> pd.DataFrame:
    """Return an experiment's rows of independent runs whose columns have these values."""
    chosen = independent(rows)
    for column, value in {"experiment": experiment, **equal}.items():
        chosen = chosen[chosen[column] == value]
    return chosen


def by_accuracy(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the rows of the three accuracies by name: train_noisy, train_true and test."""
    names = {"train_noisy": ("train", "noisy"), "train_true": ("train", "true"), "test": ("test", "true")}
    return {
        name: rows[(rows["split"] == split) & (rows["labels"] == labels)]
        for name, (split, labels) in names.items()
    }


def means(rows: pd.DataFrame, keys: Sequence[str], name: str = "ours") -> pd.DataFrame:
    """Return the mean of `value` over runs, its spread, and the number of runs, for each of `keys`.

    Several rows of a run, as one a class, become their mean first.

    Returns
    -------
    DataFrame
        The keys in order of appearance, `name`, `name`_spread (the sample standard deviation over runs; NaN
        for one run), and seeds.
    """
    runs = rows.groupby([*keys, "key"], sort=False, dropna=False)["value"].mean().reset_index()
    groups = runs.groupby(list(keys), sort=False, dropna=False)["value"]
    columns = {name: "mean", f"{name}_spread": "std", "seeds": "size"}
    return groups.agg(**columns).reset_index().astype({"seeds": "Int64"})  # type: ignore[call-overload]


def side_by_side(parts: Mapping[str, pd.DataFrame], keys: Sequence[str]) -> pd.DataFrame:
    """Return several quantities, named rows each, as columns: the means and spreads of each.

    The column seeds is the largest number of runs behind any of them.
    """
    tables = (
        means(rows, keys, name).rename(columns={"seeds": f"{name}_seeds"}) for name, rows in parts.items()
    )
    table = reduce(lambda left, right: joined(left, right, keys), tables)
    counts = [f"{name}_seeds" for name in parts]
    seeds = table[counts].max(axis=1).astype("Int64")
    return table.drop(columns=counts).assign(seeds=seeds)


def at_best_layer(rows: pd.DataFrame, keys: Sequence[str] = GROUP) -> pd.DataFrame:
    """Return the rows of the layer with the highest mean over runs, for each of `keys`; the first of equals.

    As in the paper the choice is made on the test data, if the rows are of it.
    """
    layers = means(rows, [*keys, "layer"])
    layers["ours"] = layers["ours"].round(12)  # sums of the same accuracies in another order are equals
    best = layers.groupby(list(keys), sort=False, dropna=False)["ours"].idxmax()
    return layers.loc[best, [*keys, "layer"]].merge(rows, on=[*keys, "layer"])


def joined(
    left: pd.DataFrame, right: pd.DataFrame, keys: Sequence[str], validate: Validate = "one_to_one"
) -> pd.DataFrame:
    """Return the outer join of two frames: the rows of `left` in their order, then what only `right` has."""
    places = ["left_place", "right_place"]
    left, right = left.assign(left_place=range(len(left))), right.assign(right_place=range(len(right)))
    both = left.merge(right, on=list(keys), how="outer", validate=validate)
    return both.sort_values(places, ignore_index=True).drop(columns=places)


def scale(variant: str) -> str:
    """Return how large a variant's runs are.

    "full" if they differ from the pair's own recipe in nothing but the protocol or the kind of noise; "small"
    if they see only a part of the data; "other recipe" if they see all of it but train differently.
    """
    changed = {part.split(" ")[0] for part in re.split(r", (?=[a-z_]+ )", variant) if part}
    if changed & DATA:
        return "small"
    return "full" if changed <= PROTOCOL else "other recipe"


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table by pair, corruption and variant, which come first, with the column scale after them.

    Rows of one group keep their order. The scale is that of the variant; empty where nothing was run.
    """
    table = table.assign(scale=table["variant"].map(scale).astype(object))
    if "seeds" in table:
        table.loc[table["seeds"] == 0, "scale"] = ""
    places = {name: place for place, name in enumerate(PAIRS)}
    places |= {name: len(places) for name in table["pair"] if name not in places}
    table = table.assign(place=table["pair"].map(places))
    table = table.sort_values(["place", "corruption", "variant"], kind="stable", ignore_index=True)
    first = [*GROUP, "scale"]
    return table[[*first, *(name for name in table if name not in [*first, "place"])]]
