"""Figures from tidy rows, in one look: they show results and compute none.

`draw_panels` draws panels (`Panel`) of lines (`Line`). Every line has its own marker, so lines differ in
grey too. The network itself is dashed and hollow, published numbers are grey and hollow.
"""

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from io import BytesIO
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

import pandas as pd

from layerprobe.errors import InputError, MissingRowsError
from layerprobe.utils.files import replace_file

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROBE_TITLES = {
    "masc": "MASC",
    "masc_1pc": "MASC, one component",
    "ncm": "nearest class mean",
    "logistic": "logistic regression",
    "logistic_adam": "logistic regression, Adam",
    "lda": "LDA",
    "qda": "QDA",
    "knn": "kNN",
    "velpic": "VeLPIC",
    "ridge": "ridge",
    "shrinkage_lda": "shrinkage LDA",
    "whitened_knn": "whitened kNN",
}
Style = tuple[str, str]  # colour and marker
Kind = Literal["probe", "network", "published", "marker", "bar"]
# Okabe and Ito's colours differ for every kind of colour vision; the markers differ in grey.
STYLES: list[Style] = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^")]
STYLES += [("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"), ("#000000", "X"), ("#7F7F7F", "<")]
STYLES += [("#994F00", "h")]
NEUTRAL: Style = ("#555555", "o")
# Bars differ in grey by their hatches, one per marker.
HATCHES = dict(zip("os^DvPX<h", ["", "//", "xx", "..", "--", "||", "++", "oo", "**"], strict=True))
DASHED = (0, (4, 3))
# Differences of the kinds of lines from "probe", as options of matplotlib's Line2D.
LOOKS: dict[str, dict[str, Any]] = {
    "network": {"linestyle": DASHED, "linewidth": 1.3, "markersize": 7, "markerfacecolor": "white"},
    "marker": {"linestyle": "none", "markersize": 7},
    "published": {
        "color": "#8a8a8a",
        "linestyle": "none",
        "markersize": 8,
        "markeredgewidth": 1.4,
        "markerfacecolor": "none",
    },
}
MARKERS = 8  # at most about so many per line
# An axis of percent ends at the first of these above all its values, or at 100 %.
SMALL_TOPS = (0.05, 0.1, 0.2, 0.3, 0.5)
RANGE: list[Any] = ["mean", "min", "max"]
# Columns of a history in the order of the styles, and the (split, labels) that each is measured on.
HISTORY = {
    "test_accuracy": ("test", "true"),
    "train_accuracy": ("train", "noisy"),
    "true_accuracy": ("train", "true"),
}
RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titlepad": 12,
    "text.color": "#222222",
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "svg.hashsalt": "layerprobe",  # element ids, and so the whole file, are reproducible
    "pdf.fonttype": 42,  # TrueType: publishers refuse matplotlib's default, Type 3
}
PNG_DPI = 180
# Without dates and versions, equal rows give equal files.
METADATA: dict[str, dict[str, None]] = {
    "png": dict.fromkeys(["Software"]),
    "svg": dict.fromkeys(["Date", "Creator"]),
    "pdf": dict.fromkeys(["CreationDate", "Creator", "Producer"]),
}
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def styled(draw: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Apply the common style, `RC`, while a function draws."""

    @wraps(draw)
    def drawn(*args: Parameters.args, **options: Parameters.kwargs) -> Result:
        from matplotlib import rc_context

        with rc_context(RC):
            return draw(*args, **options)

    return drawn


def blank_figure(width: float, height: float, *, pad: float = 0.12, space: float = 0.04) -> "Figure":
    """Return an empty figure whose parts never overlap.

    Parameters
    ----------
    width, height, pad : float
        Size, and the horizontal margin around each panel, in inches.
    space : float
        Distance between panels, as a share of a panel.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=pad, h_pad=0.1, wspace=space, hspace=space)
    return Figure((width, height), layout=layout)


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
    kind : {"probe", "network", "published", "marker", "bar"}
        Solid with a shaded range; dashed and hollow with error bars; hollow grey markers without a line;
        markers without a line, or bars, side by side at each position.
    at_end : bool
        Whether the last point alone has a marker.
    rank : float
        Lines of lower rank come first in the legend; equal ones in the order of the panels.
    """

    label: str
    style: Style
    span: pd.DataFrame
    kind: Kind = "probe"
    at_end: bool = False
    rank: float = 0.0

    @classmethod
    def across(cls, style: Style, values: pd.Series, end: float, label: str = "network itself") -> "Line":
        """Return the mean and the range of some values as a flat line of a network.

        Parameters
        ----------
        style : (str, str)
        values : Series
        end : float
            The last horizontal position; the first is 0.
        label : str
        """
        span = pd.DataFrame([values.agg(RANGE)] * 2, index=[0.0, float(end)])
        return cls(label, style, span, "network", at_end=True)

    def look(self, style: Style) -> dict[str, Any]:
        """Return the options of matplotlib's Line2D."""
        color, marker = style
        common = {"color": color, "marker": marker, "markersize": 6, "linewidth": 2}
        return common | LOOKS.get(self.kind, {})


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes
    ----------
    title, ylabel : str
    lines : list of Line
        The place of a panel without lines stays blank.
    names : list of str
        Names of the horizontal positions 0, 1, ...
    xlabel : str
        Label of the horizontal axis.
    ticks : tuple of float
        Numbers along the horizontal axis, at equal distances; without names and ticks it counts epochs.
    apart : bool
        Whether the last position is shaded.
    yscale : {"percent", "share", "linear", "log"}
        The vertical axis: 0 to 100 %, or to less where all values are small, which its label states; 0 to 1;
        from 0 on; logarithmic.
    xscale : {"linear", "symlog", "log"}
        The axis of epochs or numbers.
    """

    title: str
    lines: list[Line]
    ylabel: str
    names: list[str] = field(default_factory=list)
    xlabel: str = ""
    ticks: tuple[float, ...] = ()
    apart: bool = False
    yscale: Literal["percent", "share", "linear", "log"] = "percent"
    xscale: Literal["linear", "symlog", "log"] = "linear"

    @property
    def top(self) -> float:
        """The end of an axis of percent; 1 for the other axes."""
        if self.yscale != "percent":
            return 1.0
        largest = max((line.span["max"].max() for line in self.lines), default=1.0)
        return next((top for top in SMALL_TOPS if largest <= 0.9 * top), 1.0)


@styled
def accuracy_over_layers(rows: pd.DataFrame, probe: str = "masc", *, title: str = "") -> "Figure":
    """Draw the accuracy of one probe over the layers, as in Figures 2 and 3 of the paper.

    There is one panel per label set that the probe was fitted on. Solid lines join the layers, from the input
    on. A dashed line that ends in a hollow marker is the accuracy of the network's own output on the same
    data. With several seeds, lines are means and the shade is the range over seeds.

    Parameters
    ----------
    rows : DataFrame
        Columns layer, probe, fitted_on, split, labels and accuracy, and optionally seed, as `probe` returns
        them. The accuracies of the network have "network" as their probe.
    probe : str
        The probe to draw.
    title : str
        A line above the panels.

    Raises
    ------
    InputError
        If the rows do not contain the probe.
    """
    of_probe = rows[rows["probe"] == probe]
    of_network = rows[(rows["probe"] == "network") & rows["accuracy"].notna()]
    if of_probe.empty:
        available = ", ".join(map(str, rows["probe"].unique())) or "none"
        raise InputError(f"no rows of the probe {probe!r}; the rows contain: {available}")
    layers = list(of_probe["layer"].unique())
    names = layers if of_network.empty else [*layers, "network"]
    # Sorting puts test before train: the test data are the subject of the figure.
    measured = sorted(set(zip(of_probe["split"], of_probe["labels"], strict=True)))
    panels = []
    for labels, of_labels in of_probe.groupby("fitted_on", sort=False):
        lines: list[Line] = []
        for (split, against), style in zip(measured, cycle(STYLES), strict=False):
            curve, own = (
                part.loc[(part["split"] == split) & (part["labels"] == against)]
                for part in (of_labels, of_network)
            )
            if not curve.empty:
                span = curve.groupby("layer")["accuracy"].agg(RANGE).reindex(layers)
                lines.append(Line(_measured_on(split, against), style, span.set_axis(range(len(layers)))))
            if not own.empty:
                lines.append(Line.across(style, own["accuracy"], len(layers)))
        name = f"{PROBE_TITLES.get(probe, probe)} fitted on {labels} labels"
        panels.append(Panel(name, lines, "accuracy", names, apart=not of_network.empty))
    width = max(4.4, 0.8 * (len(layers) + 1)) * len(panels) + 0.4
    return _shared_axes(panels, len(panels), width, 4.6, title)


@styled
def training_history(rows: pd.DataFrame, *, title: str = "") -> "Figure":
    """Draw accuracy over the epochs of training: on noisy labels, on true labels and on test data.

    There is one panel per pair and corruption degree, in the order of the rows. With several seeds, lines
    are means and the shade is the range over seeds; a network that has stopped keeps its last accuracies.

    Parameters
    ----------
    rows : DataFrame
        Columns epoch, train_accuracy, true_accuracy and test_accuracy, as in history.csv, and optionally
        pair, corruption and seed. Accuracies that were not measured are NaN and are not drawn.
    title : str
        A line above the panels.

    Raises
    ------
    InputError
        If there are no rows, or a column is missing.
    """
    missing = [name for name in ("epoch", *HISTORY) if name not in rows]
    if rows.empty or missing:
        raise InputError(
            f"a history needs at least one row and all accuracy columns; missing: {missing or 'rows'}"
        )
    keys = [name for name in ("pair", "corruption") if name in rows]
    panels = []
    for values, of_panel in rows.groupby(keys, sort=False) if keys else [((), rows)]:
        lines = []
        for (column, which), style in zip(HISTORY.items(), STYLES, strict=False):
            by_seed = of_panel.pivot_table(column, "epoch", "seed" if "seed" in rows else None, dropna=False)
            lines.append(Line(_measured_on(*which), style, by_seed.ffill().agg(RANGE, axis=1)))
        named = zip(keys, values, strict=True)
        name = ", ".join(f"p = {value:g}" if key == "corruption" else str(value) for key, value in named)
        panels.append(Panel(name, lines, "accuracy"))
    columns = _columns(panels)
    height = 3.1 * -(-len(panels) // columns) + 1.3
    return _shared_axes(panels, columns, max(4.2 * columns, 6.4) + 0.4, height, title)


def _shared_axes(panels: list[Panel], columns: int, width: float, height: float, title: str) -> "Figure":
    """Draw panels with a common vertical axis below a title."""
    figure = blank_figure(width, height)
    _fill(figure, panels, columns, _handles(panels, "range over seeds"), share_y=True)
    headline(figure, title)
    return figure


def _measured_on(split: str, labels: str) -> str:
    return "test" if split == "test" else f"training, {labels} labels"


def _columns(panels: Sequence[Panel]) -> int:
    return 2 if len(panels) == 4 else min(len(panels), 3)


@styled
def draw_panels(
    panels: Sequence[Panel], columns: int | None = None, *, spread: str = "range over runs"
) -> "Figure":
    """Draw panels as a grid, row by row.

    Parameters
    ----------
    panels : sequence of Panel
    columns : int, optional
        Panels per row; by default at most three, and none for panels without lines.
    spread : str
        Meaning of shades and bars, for the legend.

    Raises
    ------
    MissingRowsError
        If no panel has a line.
    """
    if not any(panel.lines for panel in panels):
        raise MissingRowsError("the rows have no point of this figure: measure its experiments on more runs")
    panels = panels if columns else [panel for panel in panels if panel.lines]
    columns = min(columns or _columns(panels), len(panels))
    handles = _handles(panels, spread)
    width = max(columns * max(map(_width, panels)) + 0.5, 6.8)
    longest = max(len(str(handle.get_label())) for handle in handles)
    in_a_row = max(1, int(width / (0.085 * longest + 0.62)))
    legend_rows = -(-len(handles) // in_a_row)
    rows = -(-len(panels) // columns)
    room = _room(width, columns)
    slanted = [name for panel in panels if _slants(panel.names, room) for name in panel.names]
    row = (2.9 if rows < 5 else 2.5) + 0.055 * max(map(len, slanted), default=0)
    height = row * rows + 0.9 + 0.24 * legend_rows
    figure = blank_figure(width, height, space=0.03)
    return _fill(figure, panels, columns, handles, -(-len(handles) // legend_rows))


def _fill(
    figure: "Figure",
    panels: Sequence[Panel],
    columns: int,
    handles: "list[Artist]",
    legend_columns: int = 0,
    *,
    share_y: bool = False,
) -> "Figure":
    """Return the figure with its panels and, below them, where it covers no data, its legend."""
    axes = figure.subplots(-(-len(panels) // columns), columns, sharey=share_y, squeeze=False)
    room = _room(figure.get_figwidth(), columns)
    subjects = ["" if share_y else re.split("[:,]", panel.title)[0] for panel in panels]  # the pairs
    tops: dict[str, float] = {}  # one range for all panels of a pair
    for subject, panel in zip(subjects, panels, strict=True):
        tops[subject] = max(panel.top, tops.get(subject, 0.0))
    before = ""
    for i, ax in enumerate(axes.flat):
        if i >= len(panels) or not panels[i].lines:
            ax.set_axis_off()
            before = ""
            continue
        top = tops[subjects[i]]
        _draw(ax, panels[i], room, top)
        label = panels[i].ylabel + (f",\naxis to {100 * top:g} %" if top < 1 else "")
        if i % columns == 0 or label != before:
            ax.set_ylabel(label)
        before = label
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=legend_columns or (len(handles) if figure.get_figwidth() > 9 else 2),
        frameon=False,
        handlelength=2.6,
    )
    return figure


def _room(width: float, columns: int) -> int:
    """Return the number of letters that fit below a panel."""
    return int(11.5 * (width / columns - 0.9))


def _width(panel: Panel) -> float:
    """Return inches for a panel: room for its names; slanted names need room by their number alone."""
    across = min(0.095 * sum(len(name) + 1 for name in panel.names), 0.55 * len(panel.names))
    return max(3.5, across + 1.0)


def _draw(ax: "Axes", panel: Panel, room: int, top: float) -> None:
    """Draw one panel; about `room` letters fit below it, and an axis of percent ends at `top`."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter, ScalarFormatter

    ax.set_title(textwrap.fill(panel.title, max(36, room)))
    step = panel.ticks[1] - panel.ticks[0] if panel.ticks else 1.0
    bars = [line for line in panel.lines if line.kind == "bar"]
    beside = [line for line in panel.lines if line.kind in ("bar", "marker")]
    for i, line in enumerate(beside):
        width = 0.8 * step / len(beside)
        span = line.span.set_axis(line.span.index + (i - (len(beside) - 1) / 2) * width)
        if line.kind == "bar":
            _draw_bars(ax, replace(line, span=span), width, top)
        else:
            _draw_line(ax, replace(line, span=span))
    for line in (line for line in panel.lines if line.kind not in ("bar", "marker")):
        _draw_line(ax, line)
    if panel.yscale == "percent":
        ax.set_ylim(-0.02 * top, 1.03 * top)
        ax.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))
    elif panel.yscale == "share":
        ax.set_ylim(-0.02, 1.03)
    elif panel.yscale == "linear":
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    elif panel.lines:
        ax.set_yscale("log")
    ax.grid(axis="y", color="#e3e3e3", linewidth=0.8)  # light lines behind the data instead of ticks
    ax.set_axisbelow(True)
    ax.tick_params(which="both", length=0, pad=6)
    if panel.names:
        _name_positions(ax, panel.names, room, margin=0.5 if beside else 0.35, apart=panel.apart)
        ax.set_xlabel(panel.xlabel)
        return
    ax.set_xlabel(panel.xlabel or "epoch")
    if panel.ticks:
        ax.set_xticks(panel.ticks)
        ax.xaxis.set_major_formatter("{x:g}")
        margin = (0.55 if bars else 0.15) * step
        ax.set_xlim(panel.ticks[0] - margin, panel.ticks[-1] + margin)
    elif panel.xscale == "log":
        numbers = sorted({x for line in panel.lines for x in line.span.index})
        ax.set_xscale("log")
        ax.set_xlim(numbers[0] / 1.6, 1.6 * numbers[-1])
        ax.set_xticks(numbers, [f"{x:,.0f}" for x in numbers], minor=False)
        ax.set_xticks([], minor=True)
    elif panel.xscale == "symlog":
        last = max((line.span.index.max() for line in panel.lines), default=1)
        ax.set_xscale("symlog", linthresh=1, linscale=0.5)
        ax.set_xlim(-0.15, 1.08 * last)
        ax.set_xticks([tick for tick in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500) if tick <= last], minor=False)
        ax.set_xticks([], minor=True)
        ax.xaxis.set_major_formatter(ScalarFormatter())
    else:
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _draw_bars(ax: "Axes", line: Line, width: float, top: float) -> None:
    """Draw one bar per position with its range; bars that the axis to `top` hides have their percent."""
    span = line.span
    x = span.index.to_numpy(float)
    ax.bar(x, span["mean"], width, label=line.label, zorder=2, **_bar_look(line.style))
    ax.vlines(x, span["min"], span["max"], color="#222222", linewidth=1.2, zorder=3)
    for place, share in zip(x, span["mean"], strict=True):
        if share < 0.01 * top:  # so low a bar would look like a missing one
            text = f"{100 * share:.1g}".lstrip("0") or "0"
            ax.annotate(text, (place, share), (0, 2), textcoords="offset points", ha="center", fontsize=7)


def _bar_look(style: Style) -> dict[str, Any]:
    return {"facecolor": style[0], "hatch": HATCHES.get(style[1], ""), "edgecolor": "white", "linewidth": 0.5}


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


def _handles(panels: Sequence[Panel], spread: str) -> "list[Artist]":
    """Return the entries of the legend: each label once, probes before networks before published numbers."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    lines = sorted((line for panel in panels for line in panel.lines), key=lambda line: line.rank)
    styles: dict[str, list[Line]] = {}
    for kind in ("bar", "probe", "marker", "network", "published"):
        for line in lines:
            if line.kind == kind:
                styles.setdefault(line.label, []).append(line)
    handles: list[Artist] = []
    for label, of_label in styles.items():
        first = of_label[0]
        if first.kind == "bar":
            handles.append(Patch(label=label, **_bar_look(first.style)))
            continue
        shared = len({line.style for line in of_label}) > 1
        handles.append(Line2D([], [], label=label, **first.look(NEUTRAL if shared else first.style)))
    ranged = {line.kind for line in lines if (line.span["min"] < line.span["max"]).any()}
    if "probe" in ranged:
        handles.append(Patch(color=NEUTRAL[0], alpha=0.25, linewidth=0, label=spread))
    elif ranged:
        look: dict[str, Any] = {"marker": "|", "markersize": 11, "linestyle": "none"}
        handles.append(Line2D([], [], color="#222222", label=spread, **look))
    return handles


@styled
def add_headline_and_footer(figure: "Figure", title: str, footer: str) -> "Figure":
    """Return the figure with a headline above its panels and a footer below its legend.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Changed in place.
    title, footer : str
        Wrapped to its width.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    letters = int(9 * figure.get_figwidth())
    whole = footer.replace(" = ", "\u00a0=\u00a0")  # no line ends within "p = 1" or the name of a pair
    lines = textwrap.wrap(whole, int(1.45 * letters), break_on_hyphens=False)
    inches = 0.19 * len(lines) + 0.12
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


def headline(figure: "Figure", title: str) -> None:
    """Put a title above all panels.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Changed in place.
    title : str
        Without one the figure stays as it is.
    """
    if title:
        figure.suptitle(title, x=0.012, ha="left", fontsize=12.5, fontweight="bold")


def _slants(names: Sequence[str], room: int) -> bool:
    """Return whether names along an axis, at equal distances, must be slanted to fit into so many letters."""
    distance = room / max(len(names), 1)  # characters from the middle of one name to that of the next
    touching = any((len(a) + len(b)) / 2 + 1 > distance for a, b in pairwise(names))
    return touching or sum(map(len, names)) > room


def _name_positions(ax: "Axes", names: list[str], room: int, *, margin: float, apart: bool) -> None:
    """Write names along the horizontal axis, slanted where two would touch; shade the last one if apart."""
    slant: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(range(len(names)), names, **(slant if _slants(names, room) else {}))
    if apart:
        ax.axvspan(len(names) - 1.5, len(names) - 0.65, color="#f3f3f3", linewidth=0, zorder=0)
    ax.set_xlim(-margin, len(names) - 1 + margin)


@styled
def encode(figure: "Figure", kind: str = "svg", *, dpi: int = PNG_DPI) -> bytes:
    """Return the figure as a file; equal rows give equal files.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    kind : {"png", "svg", "pdf"}
    dpi : int
        Of a PNG file.
    """
    buffer = BytesIO()
    options: dict[str, Any] = {"dpi": dpi} if kind == "png" else {}
    figure.savefig(buffer, format=kind, metadata=METADATA[kind], facecolor="white", **options)
    return buffer.getvalue()


def save(figure: "Figure", stem: str | Path, formats: Sequence[str] = ("png", "svg")) -> tuple[Path, ...]:
    """Write a figure in one file per format, each as a whole, and return their paths.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    stem : path
        Path of the files without their endings.
    formats : sequence of {"png", "svg", "pdf"}

    Raises
    ------
    InputError
        If a format is unknown.
    DataError
        If a file cannot be written.
    """
    if unknown := [name for name in formats if name not in METADATA]:
        raise InputError(f"figures are written as {', '.join(METADATA)}; got {', '.join(unknown)}")
    paths = tuple(Path(f"{stem}.{name}") for name in formats)
    for path, name in zip(paths, formats, strict=True):
        replace_file(path, encode(figure, name))
    return paths
