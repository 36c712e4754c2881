"""The registry of tables, and what they are made of: quantities side by side, and the order of the lines.

A table never mixes variants: it averages over the runs of one pair, corruption and variant.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeVar

import pandas as pd

from layerprobe.paper.selection import GROUP, accuracies, means, pair_places, scale

Frame = pd.DataFrame
Make = TypeVar("Make", bound=Callable[..., pd.DataFrame])
Parts = Mapping[str, Frame]  # rows by the name of their quantity


@dataclass(frozen=True)
class Table:
    """One table."""

    title: str  # a sentence without a full stop
    needs: tuple[str, ...]  # names of the experiments whose rows it reads
    # From rows and histories, either of which may be empty, to the table, with the columns pair, corruption,
    # variant and scale first. Accuracies and gains are shares, differences are in points.
    build: Callable[[Frame, Frame], Frame]
    history: bool = False  # whether it is of the histories instead of the rows
    # From the table to a table of texts for reading, in place of `layerprobe.paper.tables.readable`.
    layout: Callable[[Frame], Frame] | None = None


TABLES: dict[str, Table] = {}


def register_table(
    name: str,
    title: str,
    *needs: str,
    history: bool = False,
    layout: Callable[[Frame], Frame] | None = None,
    **options: Any,
) -> Callable[[Make], Make]:
    """Register a function from rows, or from histories, to a frame as a table.

    Parameters
    ----------
    name, title, *needs, layout
        See `Table`.
    history : bool
        Whether the function takes the histories instead of the rows.
    **options
        Further arguments of the function.
    """

    def register(make: Make) -> Make:
        def build(rows: Frame, histories: Frame) -> Frame:
            return make(histories if history else rows, **options)

        TABLES[name] = Table(title, needs, build, history, layout)
        return make

    return register


def by_accuracy(rows: Frame) -> dict[str, Frame]:
    """Return the rows of the three accuracies by name: train_noisy, train_true and test."""
    names = {"train_noisy": ("train", "noisy"), "train_true": ("train", "true"), "test": ("test", "true")}
    return {name: accuracies(rows, *measured) for name, measured in names.items()}


def quantities(parts: Parts, keys: Sequence[str]) -> Frame:
    """Return the means and spreads of quantities below each other, with the column quantity.

    Parameters
    ----------
    parts : mapping of str to DataFrame
    keys : sequence of str
        Columns whose values define a group.
    """
    tables = [means(rows, keys).assign(quantity=name) for name, rows in parts.items()]
    return pd.concat(tables, ignore_index=True)


def side_by_side(parts: Parts, keys: Sequence[str]) -> Frame:
    """Return the means and spreads of quantities as columns; seeds is the largest number of runs of any.

    Parameters
    ----------
    parts, keys
        As in `quantities`.
    """
    tables = (
        means(part, keys, name).rename(columns={"seeds": f"{name}_seeds"}) for name, part in parts.items()
    )
    table = reduce(lambda left, right: joined(left, right, keys), tables)
    counts = [f"{name}_seeds" for name in parts]
    seeds = table[counts].max(axis=1).astype("Int64")
    return table.drop(columns=counts).assign(seeds=seeds)


def joined(left: Frame, right: Frame, keys: Sequence[str]) -> Frame:
    """Return the outer join of two frames: the lines of `left` in order, then the lines of `right` alone.

    Parameters
    ----------
    left, right, keys
        The keys are unique in `right`.
    """
    places = ["left_place", "right_place"]
    left, right = left.assign(left_place=range(len(left))), right.assign(right_place=range(len(right)))
    both = left.merge(right, on=list(keys), how="outer", validate="many_to_one")
    return both.sort_values(places, ignore_index=True).drop(columns=places)


def layer_names(rows: Frame, keys: Sequence[str], name: str = "layer") -> Frame:
    """Return the layers of rows by group, the most frequent first; runs may have chosen different ones.

    Parameters
    ----------
    rows, keys
        As in `quantities`.
    name : str
        Name of their column.
    """
    groups = rows.groupby(list(keys), sort=False, dropna=False)["layer"]
    return groups.agg(lambda layers: ", ".join(layers.value_counts().index)).rename(name).reset_index()


def ordered(table: Frame) -> Frame:
    """Return a table sorted by pair, corruption and variant, with these and the column scale first.

    Lines of one group keep their order. The scale is empty where nothing was run.
    """
    table = table.assign(scale=table["variant"].map(scale).astype(object))
    if "seeds" in table:
        table.loc[table["seeds"] == 0, "scale"] = ""
    table = table.assign(place=pair_places(table)).sort_values(
        ["place", "corruption", "variant"], kind="stable", ignore_index=True
    )
    return first_columns(table.drop(columns="place"), [*GROUP, "scale"])


def first_columns(table: Frame, first: Sequence[str], last: Sequence[str] = ()) -> Frame:
    """Return a table with some columns first and others last.

    Parameters
    ----------
    table, first, last
    """
    return table[[*first, *(name for name in table if name not in {*first, *last}), *last]]
