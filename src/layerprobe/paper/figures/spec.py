"""The description of one figure: it checks the rows, draws the figure and writes its scale below it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from layerprobe.errors import InputError, MissingRowsError
from layerprobe.figures import add_headline_and_footer
from layerprobe.paper.figures.lines import with_names
from layerprobe.paper.pairs import PAIRS, PAPER_PAIRS
from layerprobe.paper.rows import COLUMNS, RUN, independent
from layerprobe.paper.selection import MEDIUM

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Frame = pd.DataFrame


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
        frame = self._shown(_of_pair(self._frame(rows, history), pair))
        present = set() if self.history else set(frame["experiment"])
        if missing := [name for name in self.needs if name not in present]:
            of_pair = f" of {pair}" if pair else ""
            raise MissingRowsError(
                f"{self.name} is drawn from the experiments {', '.join(self.needs)}; there are no "
                f"rows{of_pair} from {', '.join(missing)}. Run {' and '.join(missing)} first."
            )
        shown = frame if self.history else frame[frame["experiment"].isin([*self.needs, *self.also])]
        arguments = (with_names(shown), published) if self.published else (with_names(shown),)
        footer = " ".join(filter(None, (_scale(shown), self._missing(shown))))
        return add_headline_and_footer(self.plot(*arguments), self.title, footer)

    @property
    def numbered(self) -> bool:
        """Whether it has the number of a figure of the paper."""
        return self.name.startswith("figure")

    def _shown(self, frame: Frame) -> Frame:
        """Return the rows of the pairs and degrees that the figure shows."""
        shown = frame[~frame["pair"].isin(self.but)]
        if self.pairs:
            shown = shown[shown["pair"].isin(self.pairs)]
        if self.numbered:
            low, high = min(self.degrees), max(self.degrees)
            shown = shown[shown["corruption"].between(low, high)]
        if shown.empty:
            what = f"shows {', '.join(self.pairs)}" if self.pairs else "shows other pairs and degrees"
            there = ", ".join(frame["pair"].unique())
            raise MissingRowsError(
                f"{self.name} {what}; there are rows of {there} only. The figures noisy_subspaces, "
                "true_subspaces and retraining show the pairs that the paper does not."
            )
        return shown

    def _missing(self, shown: Frame) -> str:
        """Return the pairs and degrees of the paper that have no rows, as text."""
        pairs = self.pairs or PAPER_PAIRS
        if not self.degrees or not shown["pair"].isin(pairs).any():
            return ""
        needed = shown if self.history else shown[shown["experiment"].isin([self.needs[0], *self.also])]
        there = set(zip(needed["pair"], needed["corruption"], strict=True))
        parts = []
        for pair in pairs:
            degrees = [f"{p:g}" for p in self.degrees if (pair, p) not in there]
            whole = len(degrees) == len(self.degrees)
            parts += [pair if whole else f"{pair} at p = {', '.join(degrees)}"] if degrees else []
        return f"Not run: {'; '.join(parts)}." if parts else ""

    def _frame(self, rows: Frame | None, history: Frame | None) -> Frame:
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
        places = frame["pair"].map({name: place for place, name in enumerate(PAIRS)})
        return independent(frame.iloc[places.fillna(len(PAIRS)).argsort(kind="stable")])


def _of_pair(frame: Frame, pair: str | None) -> Frame:
    if frame.empty:
        raise MissingRowsError("no row is of a run with a seed; train runs whose seeds derive from one seed")
    chosen = frame if pair is None else frame[frame["pair"] == pair]
    if chosen.empty:
        raise MissingRowsError(
            f"no rows of the pair {pair!r}; there are rows of {', '.join(frame['pair'].unique())}"
        )
    return chosen


def _scale(frame: Frame) -> str:
    """Return the scale of the runs as text, and the number of runs per point."""
    runs = frame[RUN].drop_duplicates("key")
    small = runs["subset"].notna()
    if small.any():
        test = " and of the test images" if runs["variant"].str.contains("test_subset").any() else ""
        sizes = ", ".join(f"{int(size):,}" for size in sorted(runs["subset"].dropna().unique()))
        under = runs["subset"].dropna() < MEDIUM
        name = "small" if under.all() else "small and medium" if under.any() else "medium"
        part = f"{name} scale" if small.all() else f"in part {name} scale"
        words = f"{part}: subsets of the training images ({sizes}){test}"
    else:
        words = "full scale: all training images"
    counts = runs.groupby(["pair", "variant", "noise", "corruption"], dropna=False).size()
    few, many = counts.min(), counts.max()
    number = f"{few}" if few == many else f"{few} to {many}"
    return f"{words}. Runs behind each point: {number}."
