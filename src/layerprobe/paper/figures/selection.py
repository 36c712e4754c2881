"""What figures choose from rows: families of runs, their conditions, means with ranges, best layers."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, cycle

import pandas as pd

from layerprobe.figures import STYLES
from layerprobe.paper.figures.layout import Style

__all__ = [
    "HUMAN",
    "accuracies",
    "conditions",
    "degree_names",
    "families",
    "layers_of",
    "named",
    "of_best_layer",
    "span",
    "styles_of",
]

HUMAN = ", human labels"  # how the title of a family ends whose labels people gave
PAPER_DEGREES = ["p = 0", "p = 0.2", "p = 0.4", "p = 0.6", "p = 0.8", "p = 1"]


def degree_names(degrees: pd.Series) -> pd.Series:
    """Return corruption degrees as figures write them: "p = 0.4"."""
    return pd.Series([f"p = {degree:g}" for degree in degrees], degrees.index, dtype=object)


def named(rows: pd.DataFrame) -> pd.DataFrame:
    """Add to rows of runs, or to histories, what figures call them.

    Column "condition" is "p = 0.4", or the name of human labels. Column "family" is the title of a panel: the
    pair, what differs between its variants where it has several, and whether its labels are human. One family
    is one kind of network and data under every condition.
    """
    human = rows["corruption"].isna()
    condition = rows["noise"].where(human, degree_names(rows["corruption"]))
    keys: list[tuple[str, str, str]] = list(zip(rows["pair"], rows["variant"], rows["noise"], strict=True))
    titles: dict[tuple[str, str, str], str] = {}
    for pair in rows["pair"].unique():
        parts = {
            (variant, noise): [part for part in variant.split(", ") if not _names_human(part)]
            for of, variant, noise in dict.fromkeys(keys)
            if of == pair
        }
        common = set.intersection(*map(set, parts.values()))
        for (variant, noise), words in parts.items():
            own = ", ".join(word for word in words if word and word not in common)
            titles[pair, variant, noise] = pair + (f" ({own})" if own else "") + HUMAN * (":" in noise)
    return rows.assign(condition=condition, family=[titles[key] for key in keys])


def _names_human(part: str) -> bool:
    return part.startswith("noise ") and ":" in part


def families(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each family's title and rows, in the order of the rows."""
    for family in rows["family"].unique():
        yield family, rows[rows["family"] == family]


def conditions(rows: pd.DataFrame) -> list[str]:
    """Return the conditions in rows: corruption degrees in order, then human labels in the rows' order."""
    unique = rows.drop_duplicates("condition").sort_values("corruption", kind="stable", na_position="last")
    return list(unique["condition"])


def styles_of(names: Sequence[str]) -> dict[str, Style]:
    """Return a style for each condition; the paper's degrees have the same one in every figure."""
    fixed = dict(zip(PAPER_DEGREES, STYLES, strict=False))
    # Others take what the paper's degrees never have, then what they do not have here.
    other = [*STYLES[len(fixed) :], *STYLES]
    taken = [fixed[name] for name in names if name in fixed]
    rest = chain([style for style in other if style not in taken], cycle(STYLES))
    return {name: fixed[name] if name in fixed else next(rest) for name in names}


def layers_of(rows: pd.DataFrame) -> list[str]:
    """Return the layers in rows in their order, without the network's own output and rows of no layer."""
    return [layer for layer in rows["layer"].unique() if layer not in ("output", "")]


def accuracies(rows: pd.DataFrame, split: str = "test", labels: str = "true") -> pd.DataFrame:
    """Return the accuracies on these data against these labels."""
    return rows[(rows["metric"] == "accuracy") & (rows["split"] == split) & (rows["labels"] == labels)]


def of_best_layer(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the layer with the highest mean over runs; the first of equals."""
    if rows.empty:
        return rows
    # Sums of the same accuracies in another order are equals.
    means = rows.groupby("layer", sort=False)["value"].mean().round(12)
    return rows[rows["layer"] == means.idxmax()]


def span(rows: pd.DataFrame, by: str, order: Iterable[str] | None = None) -> pd.DataFrame:
    """Return mean, min and max of values by a column.

    Parameters
    ----------
    rows : DataFrame
        With a column "value".
    by : str
        The column along the horizontal axis.
    order : iterable of str, optional
        Its values at positions 0, 1, ...; those without rows have no position. Without it the positions are
        the values themselves.

    Returns
    -------
    DataFrame
        Columns mean, min, max; the index holds positions in ascending order.
    """
    found = rows.groupby(by)["value"].agg(["mean", "min", "max"]).astype(float)
    if order is not None:
        position = {name: i for i, name in enumerate(order)}
        found = found[[name in position for name in found.index]]
        found.index = pd.Index([position[name] for name in found.index], dtype=float)
    else:
        found.index = found.index.astype(float)
    return found.sort_index()
