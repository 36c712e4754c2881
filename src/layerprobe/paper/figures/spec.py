"""The registry of figures: each checks its rows, is drawn from them and has its scale below it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from layerprobe.errors import InputError, MissingRowsError
from layerprobe.figures import Panel, add_headline_and_footer, draw_panels
from layerprobe.paper.figures.lines import with_names
from layerprobe.paper.pairs import PAPER_PAIRS
from layerprobe.paper.rows import COLUMNS, RUN, independent
from layerprobe.paper.selection import pair_places, scale, words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Frame = pd.DataFrame
# What is said of a variant below a figure; human labels, with a colon, are a condition.
SAID = {"num_classes": "{} classes", "noise": "noise {}", "weights": "weights {}"}
Panels = Iterator[Panel]
Layout = Callable[[list[Panel]], "Figure"]
Plot = TypeVar("Plot", bound=Callable[..., Any])


@dataclass(frozen=True)
class FigureSpec:
    """One figure."""

    name: str  # its name in `FIGURES`
    title: str  # the headline
    caption: str
    needs: tuple[str, ...]  # names of the experiments whose rows it requires
    # draws it from the rows, or from the histories (`history`), and the published frame (`published`)
    plot: Callable[..., "Figure"]
    also: tuple[str, ...] = ()  # names of experiments whose rows it shows if there are any
    history: bool = False  # whether it is drawn from training histories
    published: bool = False  # whether it can show published numbers
    pairs: tuple[str, ...] = ()  # the pairs that the paper shows under this number; empty: every pair
    but: tuple[str, ...] = ()  # pairs that it leaves out, since numbered figures show them
    degrees: tuple[float, ...] = ()  # corruption degrees of the paper; cells without rows are named
    pooled: bool = False  # whether a point is the mean over all degrees of a pair
    only: Callable[[Frame], Frame] = lambda rows: rows  # from rows to those that it shows

    def draw(
        self,
        rows: Frame | None = None,
        history: Frame | None = None,
        pair: str | None = None,
        *,
        published: Frame | None = None,
    ) -> "Figure":
        """Draw the figure.

        Parameters
        ----------
        rows : DataFrame, optional
            Tidy rows of any runs and experiments (`layerprobe.paper.rows.COLUMNS`).
        history : DataFrame, optional
            Histories of runs: the columns of the run, and those of history.csv.
        pair : str, optional
            Draw this pair; by default every pair in the rows.
        published : DataFrame, optional
            The published Table 1, for the figure "gains"; other figures ignore it.

        Raises
        ------
        MissingRowsError
            If required rows are missing; the message names the experiments to run.
        InputError
            If required columns are missing.
        """
        frame = self._shown(self._frame(rows, history, pair))
        if not self.history:
            if missing := [name for name in self.needs if name not in set(frame["experiment"])]:
                raise MissingRowsError(
                    f"{self.name} needs rows of {' and '.join(self.needs)}; there are none of "
                    f"{' and '.join(missing)} for {pair or 'the pairs that it shows'}. Measure them first."
                )
            frame = frame[frame["experiment"].isin([*self.needs, *self.also])]
            measured = frame.loc[frame["experiment"] == self.needs[0], "pair"]
            frame = self.only(frame[frame["pair"].isin(measured)])
        figure = self.plot(with_names(frame), *([published] if self.published else []))
        footer = " ".join(filter(None, (_scale(frame, self.pooled), self._missing(frame))))
        return add_headline_and_footer(figure, self.title, footer)

    @property
    def numbered(self) -> bool:
        """Whether it has the number of a figure of the paper."""
        return self.name.startswith("figure")

    def shows(self, pair: str) -> bool:
        """Return whether the figure shows a pair."""
        return pair not in self.but and (not self.pairs or pair in self.pairs)

    def _frame(self, rows: Frame | None, history: Frame | None, pair: str | None) -> Frame:
        """Return the rows or histories of independent runs of a pair, or of all in the order of `PAIRS`."""
        frame, kind = (history, "training histories") if self.history else (rows, "rows")
        columns = RUN if self.history else COLUMNS
        if frame is None or frame.empty:
            raise MissingRowsError(
                f"{self.name} is drawn from {kind}, and there are none. Train and measure runs first."
            )
        if missing := [name for name in columns if name not in frame]:
            raise InputError(
                f"{self.name} expects {kind} with the columns {', '.join(columns)}; missing: {missing}"
            )
        frame = independent(frame.iloc[pair_places(frame).argsort(kind="stable")])
        if frame.empty:
            raise MissingRowsError(
                "no row is of a run with a seed; train runs whose seeds derive from one seed"
            )
        chosen = frame if pair is None else frame[frame["pair"] == pair]
        if chosen.empty:
            raise MissingRowsError(
                f"no rows of the pair {pair!r}; there are rows of {', '.join(frame['pair'].unique())}"
            )
        return chosen

    def _shown(self, frame: Frame) -> Frame:
        """Return the rows of the pairs and degrees that the figure shows."""
        shown = frame[frame["pair"].map(self.shows)]
        if self.numbered:
            shown = shown[shown["corruption"].between(self.degrees[0], self.degrees[-1])]
        if shown.empty:
            if not frame["pair"].map(self.shows).any():
                what = f"shows {', '.join(self.pairs)}" if self.pairs else "shows other pairs"
                there = ", ".join(frame["pair"].unique())
                raise MissingRowsError(
                    f"{self.name} {what}; there are rows of {there} only. The figures noisy_subspaces, "
                    "true_subspaces and retraining show the pairs that the paper does not."
                )
            degrees = ", ".join(f"{p:g}" for p in self.degrees)
            raise MissingRowsError(
                f"{self.name} shows p = {degrees}; its pairs have rows of other degrees or human labels only."
            )
        return shown

    def _missing(self, shown: Frame) -> str:
        """Return the pairs and degrees of the paper that have no rows, as text."""
        pairs = self.pairs or PAPER_PAIRS
        if not self.degrees or not shown["pair"].isin(pairs).any():
            return ""
        clean = shown["corruption"] == 0  # where true subspaces equal the noisy ones, and no label is wrong
        there = set(zip(shown["pair"], shown["corruption"], strict=True))
        for name in self.needs:
            of = shown[(shown["experiment"] == name) | (shown["experiment"].isin(self.also) & clean)]
            there &= set(zip(of["pair"], of["corruption"], strict=True))
        parts = []
        for pair in pairs:
            degrees = [f"{p:g}" for p in self.degrees if (pair, p) not in there]
            whole = len(degrees) == len(self.degrees)
            parts += [pair if whole else f"{pair} at p = {', '.join(degrees)}"] if degrees else []
        return f"Not run: {'; '.join(parts)}." if parts else ""


FIGURES: dict[str, FigureSpec] = {}


def register_figure(
    name: str,
    title: str,
    caption: str,
    *needs: str,
    layout: Layout | None = draw_panels,
    options: dict[str, Any] | None = None,
    **spec: Any,
) -> Callable[[Plot], Plot]:
    """Register a function that yields the panels of a figure; a number of the paper begins its title.

    Parameters
    ----------
    name, title, caption, *needs, **spec
        See `FigureSpec`.
    layout : callable, optional
        Draw the panels; None if the function draws them.
    options : dict, optional
        Further arguments of the function.
    """

    def register(plot: Plot) -> Plot:
        @wraps(plot)
        def draw(*frames: Frame | None) -> "Figure":
            drawn = plot(*frames, **(options or {}))
            return layout(list(drawn)) if layout else drawn

        number = name.removeprefix("figure")
        headline = title if number == name else f"Figure {number}: {title[0].lower()}{title[1:]}"
        FIGURES[name] = FigureSpec(name, headline, caption, needs, draw, **spec)
        return plot

    return register


def _scale(frame: Frame, pooled: bool) -> str:
    """Return the scale of the runs as text, and the number of runs per point."""
    runs = frame[RUN].drop_duplicates("key")
    small = runs["subset"].notna()
    tested = bool(runs["variant"].str.contains("test_subset").any())
    if small.any():
        sizes = ", ".join(f"{int(size):,}" for size in sorted(runs["subset"].dropna().unique()))
        whole = "" if small.all() else ", and all of them"
        images = f"subsets of the training images ({sizes}){whole}" + " and of the test images" * tested
    else:
        images = "all training images" + ", subsets of the test images" * tested
    scales = set(runs["variant"].map(scale))
    names = [name for name in ("small", "medium", "full") if name in scales]
    joined = " and ".join(names).replace(" and ", ", ", len(names) - 2)
    heads = [f"{joined} scale"] * bool(names) + ["another recipe"] * ("other recipe" in scales)
    text = f"{' and '.join(heads)}: {images}"
    said: dict[str, list[str]] = {}  # what the variants of a pair share: titles name their differences
    for pair, variants in runs.groupby("pair", sort=False)["variant"]:
        shared = dict(set.intersection(*(set(words(variant).items()) for variant in variants)))
        parts = [form.format(shared[name]) for name, form in SAID.items() if name in shared]
        said.setdefault(", ".join(part for part in parts if ":" not in part), []).append(str(pair))
    for part, pairs in said.items():
        text += ("; " + f"{', '.join(pairs)}: " * (len(said) > 1) + part) if part else ""
    of_point = ["pair", "variant", "noise"] if pooled else ["pair", "variant", "noise", "corruption"]
    counts = runs.groupby(of_point, dropna=False).size()
    few, many = counts.min(), counts.max()
    number = f"{few}" if few == many else f"{few} to {many}"
    return f"{text}. Runs behind each point: {number}."
