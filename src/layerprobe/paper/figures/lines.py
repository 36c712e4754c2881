"""From tidy rows to the lines of a figure: families of runs, conditions, styles, axes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, cycle
from typing import TYPE_CHECKING, Any

import pandas as pd

from layerprobe.figures import RANGE, STYLES, Kind, Line, Panel, Style, draw_panels
from layerprobe.paper.selection import EVERY_DEGREE, PAPER, words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HUMAN = ", human labels"  # suffix of the title of a family trained on human labels
PROBE_STYLES: dict[str, Style] = dict(
    zip(["masc", "ncm", "logistic", "lda", "qda", "knn", "velpic", "masc_1pc"], STYLES, strict=False)
)
DEGREE_STYLES = dict(zip([f"p = {p:g}" for p in EVERY_DEGREE], STYLES, strict=False))
NETWORK_STYLES: dict[str, Style] = {"last_epoch": ("#333333", ">"), "best_epoch": ("#333333", "*")}
NETWORK_TITLES = {"last_epoch": "network, last epoch", "best_epoch": "network, best epoch"}


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
            key: [
                f"{name} {value}"
                for name, value in words(key[1]).items()
                if not (name == "noise" and ":" in value)
            ]
            for key in dict.fromkeys(keys)
            if key[0] == pair
        }
        common = set.intersection(*map(set, words_of.values()))
        for key, differences in words_of.items():
            own = ", ".join(word for word in differences if word not in common)
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


def condition_styles(rows: pd.DataFrame) -> dict[str, Style]:
    """Return a style per condition; the paper's degrees have the same one in every figure."""
    names = conditions(rows)
    # Other conditions first take styles that no degree of the paper has, then unused ones.
    others = [*STYLES[len(DEGREE_STYLES) :], *STYLES]
    used = [DEGREE_STYLES[name] for name in names if name in DEGREE_STYLES]
    rest = chain([style for style in others if style not in used], cycle(STYLES))
    return {name: DEGREE_STYLES[name] if name in DEGREE_STYLES else next(rest) for name in names}


def subspace_rows(rows: pd.DataFrame, fitted_on: str) -> pd.DataFrame:
    """Return the rows of noisy or true subspaces at the paper's threshold, and those of the network.

    True subspaces are not measured at p = 0, where they equal the noisy ones, whose rows are used.

    Parameters
    ----------
    rows : DataFrame
    fitted_on : {"noisy", "true"}
    """
    selected = rows[rows["experiment"] == f"{fitted_on}_subspaces"]
    if fitted_on == "true":
        clean = rows[(rows["experiment"] == "noisy_subspaces") & (rows["corruption"] == 0)]
        selected = pd.concat([clean[~clean["key"].isin(selected["key"])], selected])
    return selected[(selected["setting"] == PAPER["setting"]) | (selected["probe"] == "network")]


def draw_pairs(panels: Sequence[Panel]) -> "Figure":
    """Draw panels of which each family has two; they stay side by side."""
    return draw_panels(panels, 2 if len(panels) <= 6 else 4)


@dataclass(frozen=True)
class Axis:
    """The horizontal axis of panels, and the lines along it."""

    column: str  # of the rows
    order: Sequence[str] | None = None  # its values at the positions 0, 1, ...; by default numbers
    options: Mapping[str, Any] = field(default_factory=dict)  # keywords of `Panel`

    @classmethod
    def of_layers(cls, rows: pd.DataFrame) -> "Axis":
        """Return the axis of the layers in rows, in their order, without the network's output."""
        layers = [layer for layer in rows["layer"].unique() if layer not in ("output", "")]
        return cls("layer", layers, {"names": layers})

    @classmethod
    def of_conditions(cls, rows: pd.DataFrame) -> "Axis":
        """Return the number line of degrees, or the names of human labels, for the rows of a family."""
        if rows["corruption"].notna().any():
            return cls("corruption", options={"xlabel": "corruption degree p", "ticks": EVERY_DEGREE})
        names = conditions(rows)
        return cls("condition", names, {"names": names})

    def lines(
        self,
        rows: pd.DataFrame,
        column: str,
        styles: Mapping[str, Style],
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
        titles : mapping of str to str, optional
            Labels of the values in the legend; by default the values themselves.
        kind : {"probe", "network", "published", "marker", "bar"}
        """
        lines = []
        for value, style in styles.items():
            span = self._span(rows[rows[column] == value])
            if len(span):
                lines.append(Line((titles or {}).get(value, value), style, span, kind))
        return lines

    def by_condition(
        self,
        rows: pd.DataFrame,
        dashed: pd.DataFrame | None = None,
        label: str = "",
        styles: Mapping[str, Style] | None = None,
    ) -> list[Line]:
        """Return one line per condition, and optionally dashed ones of other rows.

        Parameters
        ----------
        rows, dashed : DataFrame
        label : str
            Of the dashed lines.
        styles : mapping of str to (str, str), optional
            By default `condition_styles`.
        """
        styles = styles or condition_styles(rows if dashed is None else pd.concat([rows, dashed]))
        # A panel may lack degrees that another one has; the legend has all in ascending order.
        degree = rows.groupby("condition")["corruption"].first().fillna(math.inf)
        own = self.lines(rows, "condition", styles)
        lines = [replace(line, rank=degree[line.label]) for line in own]
        if dashed is not None:
            lines += self.lines(dashed, "condition", styles, dict.fromkeys(styles, label), "network")
        return lines

    def panel(self, title: str, lines: list[Line], ylabel: str = "test accuracy", **options: Any) -> Panel:
        """Return a panel with this axis.

        Parameters
        ----------
        title, lines, ylabel, **options
            See `Panel`.
        """
        return Panel(title, lines, ylabel, **{**self.options, **options})

    def _span(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return mean, min and max of the column value by ascending position."""
        spans = rows.groupby(self.column)["value"].agg(RANGE).astype(float)
        if self.order is not None:
            position = {name: i for i, name in enumerate(self.order)}
            spans = spans[[name in position for name in spans.index]]
            spans.index = spans.index.map(position)
        spans.index = pd.Index(spans.index, dtype=float)
        return spans.sort_index()
