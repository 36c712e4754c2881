"""Published numbers beside ours. Only this module joins the two, by key, each in columns of its own."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from layerprobe.errors import InputError
from layerprobe.paper.selection import GROUP
from layerprobe.paper.tables.joining import first_columns, joined, ordered

POINTS = 2.0  # a difference up to this counts as reproduced at any spread
# Of a difference at small scale, where the effects of the paper do not appear.
TOO_SMALL = "too small to tell"
SAME = "same direction"  # of a gain whose accuracies differ, but that has the sign of the published one
ONE_FIT = "one probe seed"  # of a probe whose accuracy depends on its own seed, and that was fitted once
VERDICTS = ("reproduced", SAME, "differs", TOO_SMALL, ONE_FIT, "not run", "not published")
LAST = ["published", "ours", "ours_spread", "seeds", "difference", "verdict"]


def published_quantities(columns: Mapping[str, pd.Series], frame: pd.DataFrame) -> pd.DataFrame:
    """Return published numbers below each other, with the columns pair, corruption, quantity and published.

    Parameters
    ----------
    columns : mapping of str to Series
        Published numbers by the name of their quantity; NaN where nothing was published.
    frame : DataFrame
        Gives pair and corruption of the numbers.
    """
    which = frame[["pair", "corruption"]]
    parts = [which.assign(quantity=name, published=numbers) for name, numbers in columns.items()]
    return pd.concat(parts).dropna(subset="published")


def beside_published(ours: pd.DataFrame, published: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Join our numbers and the published ones by key, and add difference (in points) and verdict.

    Parameters
    ----------
    ours : DataFrame
        Keys, variant, ours (a share), ours_spread, seeds, and further columns; all its rows appear.
    published : DataFrame
        Unique keys, published (a share), and further columns whose names begin with "published"; all its rows
        appear.
    keys : sequence of str
        "pair" and "corruption" among them.

    Raises
    ------
    InputError
        If a column of one frame could be mistaken for a column of the other.
    """
    table = _side_by_side(ours, published, keys)
    table["difference"] = 100 * (table["ours"] - table["published"])
    numbers = zip(table["published"], table["ours"], table["ours_spread"], strict=True)
    table["verdict"] = [verdict(*three) for three in numbers]
    table = ordered(table)
    few = (table["scale"] == "small") & (table["verdict"] == "differs")
    table.loc[few, "verdict"] = TOO_SMALL
    return first_columns(table, list(dict.fromkeys([*GROUP, "scale", *keys])), LAST)


def cells_beside_published(ours: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Join our cells of Table 1 or 5 and the published ones, and add differences (in points) and verdict.

    A cell is "reproduced" if both accuracies are. It has the "same direction" if MASC is better than the
    network by more than 2 points in both studies, or worse in both, or neither. Else it "differs", or is "too
    small to tell" at small scale.

    Parameters
    ----------
    ours : DataFrame
        pair, corruption, variant, seeds, and the shares network, masc and gain, each with its spread.
    published : DataFrame
        pair, corruption, published_network, published_masc, published_gain.
    """
    table = _side_by_side(ours, published, ["pair", "corruption"])
    for name in ("network", "masc", "gain"):
        table[f"{name}_difference"] = 100 * (table[name] - table[f"published_{name}"])
    table = ordered(table)
    table["verdict"] = [_cell_verdict(row) for row in table.to_dict("records")]
    return table


def _cell_verdict(row: Mapping[Any, Any]) -> str:
    each = {
        verdict(row[f"published_{name}"], row[name], row[f"{name}_spread"]) for name in ("network", "masc")
    }
    for word in ("not run", "not published"):
        if word in each:
            return word
    if each == {"reproduced"}:
        return "reproduced"
    ours, theirs = (row[f"{part}masc"] - row[f"{part}network"] for part in ("", "published_"))
    if _direction(ours) == _direction(theirs):
        return SAME
    return TOO_SMALL if row["scale"] == "small" else "differs"


def _direction(difference: float) -> int:
    """Return the sign of a difference of shares, 0 up to `POINTS`."""
    return 0 if abs(100 * difference) <= POINTS else 1 if difference > 0 else -1


def _side_by_side(ours: pd.DataFrame, published: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    mixed = [name for name in map(str, ours) if name.startswith("published")]
    mixed += [name for name in map(str, published) if not name.startswith("published") and name not in keys]
    if mixed:
        raise InputError(
            f"Expected columns 'published...' in the published frame only, and besides them only the keys "
            f"{list(keys)} there; got {', '.join(mixed)} on the wrong side. Rename them."
        )
    table = joined(ours, published, keys, validate="many_to_one")
    table["seeds"] = table["seeds"].fillna(0)
    texts = ["variant", *ours.drop(columns=[*keys, "variant"]).select_dtypes(exclude="number")]
    table[texts] = table[texts].astype(object).fillna("")
    return table


def verdict(published: float, ours: float, spread: float) -> str:
    """Return one of `VERDICTS`: "reproduced" up to a difference of 2 points or of twice the spread.

    Parameters
    ----------
    published, ours : float
        Shares in [0, 1]; NaN if missing.
    spread : float
        Our standard deviation over seeds; NaN if unknown.
    """
    if math.isnan(ours):
        return "not run"
    if math.isnan(published):
        return "not published"
    bound = POINTS if math.isnan(spread) else max(POINTS, 200 * spread)
    rounding = 1e-9  # 0.52 and 0.50 are 2 points apart
    return "reproduced" if abs(100 * (ours - published)) <= bound + rounding else "differs"


def verdict_counts(table: pd.DataFrame) -> str:
    """Return the number of verdicts of each kind, as "12 reproduced, 9 differ, 7 not run".

    Scales other than full are named. Quantities are counted separately, each with its name in parentheses.
    Empty for a table without comparisons.
    """
    if "verdict" not in table:
        return ""
    table = table[table["verdict"] != "not published"]
    if "quantity" not in table:
        return _counts(table)
    return "; ".join(
        f"{_counts(rows)} ({quantity})" for quantity, rows in table.groupby("quantity", sort=False)
    )


def _counts(table: pd.DataFrame) -> str:
    suffixes = {"full": "", "medium": " at medium scale", "small": " at small scale"}
    suffixes["other recipe"] = " with another recipe"
    parts = []
    for name in [name for name in suffixes if name in set(table["scale"])] or ["full"]:
        number = table.loc[table["scale"] == name, "verdict"].value_counts()
        more = [f"{number[word]} {word}" for word in (SAME, ONE_FIT) if word in number]
        word, shown = (TOO_SMALL, TOO_SMALL) if name == "small" else ("differs", "differ")
        words = [f"{number.get('reproduced', 0)} reproduced", *more, f"{number.get(word, 0)} {shown}"]
        parts.append(f"{', '.join(words)}{suffixes[name]}")
    return ", ".join([*parts, f"{(table['verdict'] == 'not run').sum()} not run"])
