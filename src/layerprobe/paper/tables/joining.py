"""Quantities side by side in one frame, and the order of the lines of a table.

A table never mixes variants: it averages over the runs of one pair, corruption and variant.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Literal

import pandas as pd

from layerprobe.paper.pairs import PAIRS
from layerprobe.paper.selection import GROUP, MEDIUM, accuracies, means, words

PROTOCOL, DATA = {"shuffle", "noise", "weights"}, {"subset", "test_subset"}


def by_accuracy(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the rows of the three accuracies by name: train_noisy, train_true and test."""
    names = {"train_noisy": ("train", "noisy"), "train_true": ("train", "true"), "test": ("test", "true")}
    return {name: accuracies(rows, *measured) for name, measured in names.items()}


def quantities(parts: Mapping[str, pd.DataFrame], keys: Sequence[str]) -> pd.DataFrame:
    """Return the means and spreads of several quantities below each other, with the column quantity.

    Parameters
    ----------
    parts : mapping of str to DataFrame
        Rows by the name of their quantity.
    keys : sequence of str
        Columns whose values define a group.
    """
    tables = [means(rows, keys).assign(quantity=name) for name, rows in parts.items()]
    return pd.concat(tables, ignore_index=True)


def side_by_side(parts: Mapping[str, pd.DataFrame], keys: Sequence[str]) -> pd.DataFrame:
    """Return the means and spreads of several quantities as columns.

    Parameters
    ----------
    parts : mapping of str to DataFrame
        Rows by the name of their quantity.
    keys : sequence of str
        Columns whose values define a line.

    Returns
    -------
    DataFrame
        The column seeds is the largest number of runs of any quantity.
    """
    tables = (
        means(rows, keys, name).rename(columns={"seeds": f"{name}_seeds"}) for name, rows in parts.items()
    )
    table = reduce(lambda left, right: joined(left, right, keys), tables)
    counts = [f"{name}_seeds" for name in parts]
    seeds = table[counts].max(axis=1).astype("Int64")
    return table.drop(columns=counts).assign(seeds=seeds)


def joined(
    left: pd.DataFrame,
    right: pd.DataFrame,
    keys: Sequence[str],
    validate: Literal["one_to_one", "many_to_one"] = "one_to_one",
) -> pd.DataFrame:
    """Return the outer join of two frames: the lines of `left` in order, then the lines of `right` alone.

    Parameters
    ----------
    left, right : DataFrame
    keys : sequence of str
    validate : {"one_to_one", "many_to_one"}
    """
    places = ["left_place", "right_place"]
    left, right = left.assign(left_place=range(len(left))), right.assign(right_place=range(len(right)))
    both = left.merge(right, on=list(keys), how="outer", validate=validate)
    return both.sort_values(places, ignore_index=True).drop(columns=places)


def scale(variant: str) -> str:
    """Return the scale of a variant.

    "full" if it differs from the pair's own recipe in the protocol, the kind of noise or published weights
    only; "medium" or "small" if its runs use a part of the images, at least `MEDIUM` training images or
    fewer; "other recipe" if they use all images and train differently.
    """
    changed = words(variant)
    if DATA & set(changed):
        return "medium" if int(changed.get("subset", 0)) >= MEDIUM else "small"
    return "full" if set(changed) <= PROTOCOL else "other recipe"


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table sorted by pair, corruption and variant, with these and the column scale first.

    Lines of one group keep their order. The scale is empty where nothing was run.
    """
    table = table.assign(scale=table["variant"].map(scale).astype(object))
    if "seeds" in table:
        table.loc[table["seeds"] == 0, "scale"] = ""
    places = {name: place for place, name in enumerate(PAIRS)}
    table = table.assign(place=table["pair"].map(places).fillna(len(places)))
    table = table.sort_values(["place", "corruption", "variant"], kind="stable", ignore_index=True)
    first = [*GROUP, "scale"]
    return table[[*first, *(name for name in table if name not in [*first, "place"])]]
