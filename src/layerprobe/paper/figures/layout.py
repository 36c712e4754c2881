"""The layout of all figures of the paper: panels of lines, one legend, a headline and a footer.

`draw_panels` draws `Panel`s of `Line`s. Every line has its own marker, so lines differ in grey too. The
network itself is dashed and hollow, published numbers are grey and hollow.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from layerprobe.errors import InputError
from layerprobe.figures import DASHED, RC, headline, name_positions, percent_axis, quiet_grid, slants

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Kind", "Line", "Panel", "Style", "add_headline_and_footer", "draw_panels"]

Style = tuple[str, str]  # colour and marker
Kind = Literal["probe", "network", "published"]
NEUTRAL: Style = ("#555555", "o")
PUBLISHED = "#8a8a8a"
MARKERS = 9  # at most about so many per line


@dataclass(frozen=True)
class Line:
    """One line of a panel.

    Attributes
    ----------
    label : str
        Its name in the legend; lines with one label and several styles have one grey entry.
    style : (str, str)
        Colour and marker.
    span : DataFrame
        Indexed by the horizontal position; columns mean, min and max.
    kind : {"probe", "network", "published"}
        Solid with a shaded range; dashed and hollow with bars; hollow grey markers without a line.
    at_end : bool
        Whether the last point alone has a marker.
    """

    label: str
    style: Style
    span: pd.DataFrame
    kind: Kind = "probe"
    at_end: bool = False

    def look(self, style: Style) -> dict[str, Any]:
        """Return the options of matplotlib's Line2D."""
        color, marker = style
        common = {"color": color, "marker": marker, "markersize": 6, "linewidth": 2}
        if self.kind == "network":
            dashed = {"linestyle": DASHED, "linewidth": 1.3}
            return common | dashed | {"markersize": 7, "markerfacecolor": "white"}
        if self.kind == "published":
            hollow = {"markerfacecolor": "none", "markeredgewidth": 1.4, "markersize": 8}
            return common | hollow | {"color": PUBLISHED, "linestyle": "none"}
        return common


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes
    ----------
    title : str
        Text above the panel.
    lines : list of Line
        Its lines; a panel without lines shows "not measured".
    ylabel : str
        Label of the vertical axis.
    names : list of str
        Names of the horizontal positions 0, 1, ...; without names the axis counts epochs.
    xlabel : str
        Label of the axis of positions.
    apart : bool
        Whether the last position is shaded.
    yscale : {"percent", "share", "linear", "log"}
        The vertical axis: 0 to 100 %, 0 to 1, from 0 on, logarithmic.
    xscale : {"linear", "symlog"}
        The axis of epochs.
    """

    title: str
    lines: list[Line]
    ylabel: str
    names: list[str] = field(default_factory=list)
    xlabel: str = ""
    apart: bool = False
    yscale: Literal["percent", "share", "linear", "log"] = "percent"
    xscale: Literal["linear", "symlog"] = "linear"


def draw_panels(
    panels: Sequence[Panel], columns: int | None = None, *, spread: str = "range over runs"
) -> "Figure":
    """Draw panels as a grid, row by row.

    Parameters
    ----------
    panels : sequence of Panel
        The panels.
    columns : int, optional
        Panels per row; by default at most three.
    spread : str
        Meaning of shades and bars, for the legend.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If no panel has a line.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    lines = [line for panel in panels for line in panel.lines]
    if not lines:
        raise InputError("the rows have no point of this figure: measure its experiments on more runs")
    columns = min(columns or (2 if len(panels) == 4 else 3), len(panels))
    height = -(-len(panels) // columns)
    with rc_context(RC):
        handles = _handles(lines, spread)
        width = max(columns * max(map(_width, panels)) + 0.5, 6.8)
        longest = max(len(str(handle.get_label())) for handle in handles)
        in_a_row = max(1, int(width / (0.085 * longest + 0.62)))
        legend_rows = -(-len(handles) // in_a_row)
        room = int(11.5 * (width / columns - 0.9))
        size = width, (2.9 + max(_slant(panel, room) for panel in panels)) * height + 0.9 + 0.24 * legend_rows
        figure = Figure(size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.03, hspace=0.03))
        axes = figure.subplots(height, columns, squeeze=False)
        for i, ax in enumerate(axes.flat):
            if i >= len(panels):
                ax.set_axis_off()
                continue
            _draw(ax, panels[i], room)
            if i % columns == 0 or panels[i].ylabel != panels[i - 1].ylabel:
                ax.set_ylabel(panels[i].ylabel)
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=-(-len(handles) // legend_rows),
            frameon=False,
            handlelength=2.6,
        )
    return figure


def _width(panel: Panel) -> float:
    """Return inches for a panel: room for its names; slanted names need room by their number alone."""
    across = min(0.095 * sum(len(name) + 1 for name in panel.names), 0.55 * len(panel.names))
    return max(3.5, across + 1.0)


def _slant(panel: Panel, room: int) -> float:
    """Return the inches that slanted names take below a panel."""
    return 0.055 * max(map(len, panel.names)) if slants(panel.names, room) else 0.0


def add_headline_and_footer(figure: "Figure", title: str, footer: str) -> "Figure":
    """Return the figure with a headline above its panels and a footer below its legend.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        A figure of `draw_panels` or of `layerprobe.figures`; it is changed.
    title, footer : str
        The texts; both are wrapped.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    letters = int(9 * figure.get_figwidth())
    lines = textwrap.wrap(footer, int(1.45 * letters))
    inches = 0.19 * len(lines) + 0.12
    with rc_context(RC):
        headline(figure, textwrap.fill(title, letters))
        figure.set_figheight(figure.get_figheight() + inches)
        share = inches / figure.get_figheight()
        style: dict[str, Any] = {"fontsize": 9.5, "color": "#333333", "va": "center", "linespacing": 1.3}
        figure.text(0.012, share / 2, "\n".join(lines), **style)
        # The layout engine leaves room for a legend at the very bottom only; reserve the rest by hand.
        renderer = FigureCanvasAgg(figure).get_renderer()
        taken = share
        for legend in figure.legends:
            taken += (legend.get_window_extent(renderer).height / figure.dpi + 0.1) / figure.get_figheight()
            legend.set_bbox_to_anchor((0, share, 1, 1 - share), transform=figure.transFigure)
        figure.get_layout_engine().set(rect=(0, taken, 1, 1 - taken))  # type: ignore[union-attr, call-arg]
    return figure


def _draw(ax: "Axes", panel: Panel, room: int) -> None:
    """Draw one panel; about `room` letters fit below it."""
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    ax.set_title(textwrap.fill(panel.title, max(34, room)))
    for line in panel.lines:
        _draw_line(ax, line)
    if not panel.lines:
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", color="#777777")
    if panel.yscale == "percent":
        percent_axis(ax)
    elif panel.yscale == "share":
        ax.set_ylim(-0.02, 1.03)
    elif panel.yscale == "linear":
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    elif panel.lines:
        ax.set_yscale("log")
    quiet_grid(ax)
    if panel.names:
        name_positions(ax, panel.names, apart=panel.apart, room=room)
        ax.set_xlabel(panel.xlabel)
        return
    ax.set_xlabel("epoch")
    if panel.xscale == "symlog":
        last = max((line.span.index.max() for line in panel.lines), default=1)
        ax.set_xscale("symlog", linthresh=1, linscale=0.5)
        ax.set_xlim(-0.15, 1.08 * last)
        ax.set_xticks([tick for tick in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500) if tick <= last], minor=False)
        ax.set_xticks([], minor=True)
        ax.xaxis.set_major_formatter(ScalarFormatter())
    else:
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _draw_line(ax: "Axes", line: Line) -> None:
    """Draw one line with its range."""
    span, look = line.span, line.look(line.style)
    marked = [len(span) - 1] if line.at_end else list(range(0, len(span), max(1, len(span) // MARKERS)))
    if line.kind == "probe":
        ax.fill_between(span.index, span["min"], span["max"], color=line.style[0], alpha=0.16, linewidth=0)
    else:
        ends = span.iloc[marked]
        ax.vlines(ends.index, ends["min"], ends["max"], color=look["color"], linewidth=1.2)
    front = 3 if line.kind == "published" else 2
    ax.plot(span.index, span["mean"], markevery=marked, clip_on=False, zorder=front, **look)


def _handles(lines: Sequence[Line], spread: str) -> "list[Artist]":
    """Return the entries of the legend: each label once, probes before networks before published numbers."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    styles: dict[str, list[Line]] = {}
    for kind in ("probe", "network", "published"):
        for line in lines:
            if line.kind == kind:
                styles.setdefault(line.label, []).append(line)
    handles: list[Artist] = []
    for label, of_label in styles.items():
        first = of_label[0]
        shared = len({line.style for line in of_label}) > 1
        handles.append(Line2D([], [], label=label, **first.look(NEUTRAL if shared else first.style)))
    if any((line.span["min"] < line.span["max"]).any() for line in lines):
        handles.append(Patch(color=NEUTRAL[0], alpha=0.25, linewidth=0, label=spread))
    return handles
