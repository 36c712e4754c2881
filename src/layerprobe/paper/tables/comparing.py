"""Published numbers beside ours. This is the one place where the two meet, and it only joins them by key."""

import math
from collections.abc import Sequence

import pandas as pd

from layerprobe.errors import InputError
from layerprobe.paper.tables.grouping import GROUP, joined, ordered

__all__ = ["VERDICTS", "beside_published", "verdict", "verdict_counts"]

POINTS = 2.0  # a difference that counts as reproduced whatever the spread
VERDICTS = ("reproduced", "differs", "not run", "not published")
LAST = ["published", "ours", "ours_spread", "seeds", "difference", "verdict"]


def beside_published(ours: pd.DataFrame, published: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Join our numbers and the published ones by key; every row of both appears.

    Parameters
    ----------
    ours : DataFrame
        Keys, variant, ours (a share), ours_spread, seeds, and whatever else describes a row. Several
        variants may have the same keys.
    published : DataFrame
        Keys, published (a share), and further columns whose names begin with "published". Keys are unique.
    keys : sequence of str
        "pair" and "corruption" among them.

    Returns
    -------
    DataFrame
        In addition difference, 100 * (ours - published) in points, and the verdict on it.

    Raises
    ------
    InputError
        If a column of the one could be taken for one of the other.
    """
    mixed = [name for name in map(str, ours) if name.startswith("published")]
    mixed += [name for name in map(str, published) if not name.startswith("published") and name not in keys]
    if mixed:
        raise InputError(
            f"Expected columns 'published...' in the published frame alone and besides the keys {list(keys)} "
            f"no others there, got {', '.join(mixed)} on the wrong side; rename them."
        )
    table = joined(ours, published, keys, validate="many_to_one")
    table["seeds"] = table["seeds"].fillna(0)
    texts = ["variant", *ours.drop(columns=[*keys, "variant"]).select_dtypes(exclude="number")]
    table[texts] = table[texts].astype(object).fillna("")
    table["difference"] = 100 * (table["ours"] - table["published"])
    table["verdict"] = [
        verdict(*numbers)
        for numbers in zip(table["published"], table["ours"], table["ours_spread"], strict=True)
    ]
    table = ordered(table)
    first = list(dict.fromkeys([*GROUP, "scale", *keys]))
    return table[[*first, *(name for name in table if name not in [*first, *LAST]), *LAST]]


def verdict(published: float, ours: float, spread: float) -> str:
    """Return one of `VERDICTS` on two shares.

    Reproduced if they are apart by at most the larger of 2 points
    and twice our spread over seeds (NaN: not known).
    """
    if math.isnan(ours):
        return "not run"
    if math.isnan(published):
        return "not published"
    bound = POINTS if math.isnan(spread) else max(POINTS, 200 * spread)
    rounding = 1e-9  # 0.52 and 0.50 are 2 points apart
    return "reproduced" if abs(100 * (ours - published)) <= bound + rounding else "differs"


def verdict_counts(table: pd.DataFrame) -> str:
    """Return in one line how a table's comparisons end, as "12 reproduced, 9 differ, 7 not run".

    Numbers that are not of full scale say so, and quantities are counted apart, each with its name in
    parentheses. Empty for a table that compares nothing.
    """
    if "verdict" not in table:
        return ""
    table = table[table["verdict"] != "not published"]
    if "quantity" not in table:
        return _counts(table)
    quantities = table.groupby("quantity", sort=False)
    return "; ".join(f"{_counts(rows)} ({quantity})" for quantity, rows in quantities)


def _counts(table: pd.DataFrame) -> str:
    said = {"full": "", "small": " at small scale", "other recipe": " with another recipe"}
    scales = [name for name in said if (table["scale"] == name).any()] or ["full"]
    parts = []
    for name in scales:
        verdicts = table.loc[table["scale"] == name, "verdict"]
        reproduced, differ = ((verdicts == word).sum() for word in ("reproduced", "differs"))
        parts.append(f"{reproduced} reproduced, {differ} differ{said[name]}")
    return ", ".join([*parts, f"{(table['verdict'] == 'not run').sum()} not run"])
