"""From tidy rows to the lines of a figure: families of runs, conditions, styles, means with ranges."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, cycle
from typing import Any

import pandas as pd

from layerprobe.figures import PROBE_TITLES, STYLES, Kind, Line, Style
from layerprobe.paper.selection import PAPER

HUMAN = ", human labels"  # suffix of the title of a family trained on human labels
PAPER_DEGREES = ["p = 0", "p = 0.2", "p = 0.4", "p = 0.6", "p = 0.8", "p = 1"]
PROBE_STYLES: dict[str, Style] = dict(
    zip(["masc", "ncm", "logistic", "lda", "qda", "knn", "velpic", "masc_1pc"], STYLES, strict=False)
)
DEGREE_LABEL, DEGREE_TICKS = "corruption degree p", (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
NETWORK_STYLES: dict[str, Style] = {"last_epoch": ("#333333", ">"), "best_epoch": ("#333333", "*")}


def degree_names(degrees: pd.Series) -> pd.Series:
    """Return corruption degrees as texts of the form "p = 0.4"."""
    return pd.Series([f"p = {degree:g}" for degree in degrees], degrees.index, dtype=object)


def with_names(rows: pd.DataFrame) -> pd.DataFrame:
    """Add the columns condition and family to rows of runs or to histories.

    condition is the degree, as "p = 0.4", or the name of human labels. family is the title of a panel: the
    pair, the differences between its variants if it has several, and whether its labels are human. Runs of a
    family differ in their condition and seeds only.
    """
    human = rows["corruption"].isna()
    condition = rows["noise"].where(human, degree_names(rows["corruption"]))
    keys: list[tuple[str, str, str]] = list(zip(rows["pair"], rows["variant"], rows["noise"], strict=True))
    titles: dict[tuple[str, str, str], str] = {}
    for pair in rows["pair"].unique():
        words_of = {
            key: [word for word in key[1].split(", ") if not (word.startswith("noise ") and ":" in word)]
            for key in dict.fromkeys(keys)
            if key[0] == pair
        }
        common = set.intersection(*map(set, words_of.values()))
        for key, words in words_of.items():
            own = ", ".join(word for word in words if word and word not in common)
            titles[key] = pair + (f" ({own})" if own else "") + HUMAN * (":" in key[2])
    return rows.assign(condition=condition, family=[titles[key] for key in keys])


def families(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the title and the rows of each family, in the order of the rows."""
    for family in rows["family"].unique():
        yield family, rows[rows["family"] == family]


def conditions(rows: pd.DataFrame) -> list[str]:
    """Return the conditions in rows: corruption degrees in ascending order, then human labels."""
    unique = rows.drop_duplicates("condition").sort_values("corruption", kind="stable", na_position="last")
    return list(unique["condition"])


def condition_axis(rows: pd.DataFrame) -> tuple[str, list[str] | None, dict[str, Any]]:
    """Return the axis of conditions: the number line of degrees, or the names of human labels.

    Parameters
    ----------
    rows : DataFrame
        Rows of one family.

    Returns
    -------
    x, order
        As in `span`.
    options : dict
        Keywords of `layerprobe.figures.Panel`.
    """
    if rows["corruption"].notna().any():
        return "corruption", None, {"xlabel": DEGREE_LABEL, "ticks": DEGREE_TICKS}
    names = conditions(rows)
    return "condition", names, {"names": names}


def condition_styles(rows: pd.DataFrame) -> dict[str, Style]:
    """Return a style per condition; the paper's degrees have the same one in every figure."""
    names = conditions(rows)
    fixed = dict(zip(PAPER_DEGREES, STYLES, strict=False))
    # Other conditions first take styles that no degree of the paper has, then unused ones.
    others = [*STYLES[len(fixed) :], *STYLES]
    used = [fixed[name] for name in names if name in fixed]
    rest = chain([style for style in others if style not in used], cycle(STYLES))
    return {name: fixed[name] if name in fixed else next(rest) for name in names}


def layers_of(rows: pd.DataFrame) -> list[str]:
    """Return the layers in rows in their order, without the network's output."""
    return [layer for layer in rows["layer"].unique() if layer not in ("output", "")]


def subspace_rows(rows: pd.DataFrame, fitted_on: str) -> pd.DataFrame:
    """Return the rows of noisy or true subspaces at the paper's threshold, and those of the network.

    True subspaces are not measured at p = 0, where they equal the noisy ones, whose rows are used.

    Parameters
    ----------
    rows : DataFrame
        Rows of `with_names`.
    fitted_on : {"noisy", "true"}
        Labels of the subspaces.
    """
    selected = rows[rows["experiment"] == f"{fitted_on}_subspaces"]
    if fitted_on == "true":
        clean = rows[(rows["experiment"] == "noisy_subspaces") & (rows["corruption"] == 0)]
        selected = pd.concat([clean[~clean["key"].isin(selected["key"])], selected])
    return selected[(selected["setting"] == PAPER["setting"]) | (selected["probe"] == "network")]


def span(rows: pd.DataFrame, x: str, order: Iterable[str] | None = None) -> pd.DataFrame:
    """Return mean, min and max of the column value by horizontal position.

    Parameters
    ----------
    rows : DataFrame
        With a column "value".
    x : str
        The column along the horizontal axis.
    order : iterable of str, optional
        Values of this column at positions 0, 1, ...; other values are left out. By default the positions are
        the values themselves.

    Returns
    -------
    DataFrame
        Columns mean, min, max; the index holds positions in ascending order.
    """
    spans = rows.groupby(x)["value"].agg(["mean", "min", "max"]).astype(float)
    if order is not None:
        position = {name: i for i, name in enumerate(order)}
        spans = spans[[name in position for name in spans.index]]
        spans.index = spans.index.map(position)
    spans.index = pd.Index(spans.index, dtype=float)
    return spans.sort_index()


def lines_by(
    rows: pd.DataFrame,
    column: str,
    styles: Mapping[str, Style],
    x: str,
    order: Sequence[str] | None = None,
    titles: Mapping[str, str] | None = None,
    kind: Kind = "probe",
) -> list[Line]:
    """Return one line for each value of a column, without lines that have no point.

    Parameters
    ----------
    rows : DataFrame
        With a column "value".
    column : str
    styles : mapping of str to (str, str)
        Style of each value; its order is that of the lines.
    x, order
        As in `span`.
    titles : mapping of str to str, optional
        Labels of the values in the legend; by default the values themselves.
    kind : {"probe", "network", "published"}
    """
    titles = titles or {}
    lines = [
        Line(titles.get(value, value), style, span(rows[rows[column] == value], x, order), kind)
        for value, style in styles.items()
    ]
    return [line for line in lines if len(line.span)]


def probe_lines(rows: pd.DataFrame, x: str, order: Sequence[str] | None = None) -> list[Line]:
    """Return one line per probe.

    Parameters
    ----------
    rows : DataFrame
        With the columns probe and value.
    x, order
        As in `span`.
    """
    return lines_by(rows, "probe", PROBE_STYLES, x, order, PROBE_TITLES)


def network_lines(rows: pd.DataFrame, family: str, x: str, order: Sequence[str] | None) -> list[Line]:
    """Return the network's test accuracy at its last and best epoch by condition, from the rows of controls.

    Parameters
    ----------
    rows : DataFrame
        Rows of `with_names`, of any family.
    family : str
    x, order
        As in `span`.
    """
    own = rows[(rows["experiment"] == "controls") & (rows["family"] == family) & (rows["probe"] == "network")]
    titles = {"last_epoch": "network, last epoch", "best_epoch": "network, best epoch"}
    return lines_by(own, "setting", NETWORK_STYLES, x, order, titles, "network")
