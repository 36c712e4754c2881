"""Figures from tidy rows: they show results and compute none."""

from collections.abc import Callable, Sequence
from functools import wraps
from io import BytesIO
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pandas as pd

from layerprobe.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "PROBE_TITLES",
    "STYLES",
    "accuracy_over_layers",
    "blank_figure",
    "headline",
    "name_positions",
    "pdf",
    "percent_axis",
    "png",
    "quiet_grid",
    "save",
    "slants",
    "styled",
    "svg",
    "training_history",
]

PROBE_TITLES = {
    "masc": "MASC",
    "ncm": "nearest class mean",
    "logistic": "logistic regression",
    "lda": "LDA",
    "qda": "QDA",
    "knn": "kNN",
    "velpic": "VeLPIC",
    "ridge": "ridge",
    "shrinkage_lda": "shrinkage LDA",
    "whitened_knn": "whitened kNN",
}
# Okabe and Ito's colours differ for every kind of colour vision; the markers differ in grey.
STYLES = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v")]
STYLES += [("#56B4E9", "P"), ("#000000", "X"), ("#7F7F7F", "<"), ("#994F00", "h")]
DASHED = (0, (4, 3))
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
    width, height : float
        Size in inches.
    pad : float
        Horizontal margin around each panel, in inches.
    space : float
        Distance between panels, as a share of a panel.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=pad, h_pad=0.1, wspace=space, hspace=space)
    return Figure((width, height), layout=layout)


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

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If the rows do not contain the probe.
    """
    of_probe, of_network = rows[rows["probe"] == probe], rows[rows["probe"] == "network"]
    if of_probe.empty:
        available = ", ".join(map(str, rows["probe"].unique())) or "none"
        raise InputError(f"no rows of the probe {probe!r}; the rows contain: {available}")
    layers = list(of_probe["layer"].unique())
    fitted_on = of_probe["fitted_on"].unique()
    # Sorting puts test before train: the test data are the subject of the figure.
    measured = sorted(set(zip(of_probe["split"], of_probe["labels"], strict=True)))
    figure = blank_figure(max(4.4, 0.8 * (len(layers) + 1)) * len(fitted_on) + 0.4, 4.6)
    axes = figure.subplots(1, len(fitted_on), sharey=True, squeeze=False)[0]
    for ax, labels in zip(axes, fitted_on, strict=True):
        here = of_probe[of_probe["fitted_on"] == labels]
        for (split, against), style in zip(measured, cycle(STYLES), strict=False):
            curve, own = (
                part.loc[(part["split"] == split) & (part["labels"] == against)]
                for part in (here, of_network)
            )
            if not curve.empty:
                span = curve.groupby("layer")["accuracy"].agg(["mean", "min", "max"]).reindex(layers)
                _range_line(ax, span.set_axis(range(len(layers))), style, markersize=6)
            if not own.empty:
                _network_line(ax, own["accuracy"], len(layers), style)
        has_network = not of_network.empty
        name_positions(ax, [*layers, "network"] if has_network else layers, apart=has_network)
        percent_axis(ax)
        ax.set_title(f"{PROBE_TITLES.get(probe, probe)} fitted on {labels} labels")
    axes[0].set_ylabel("accuracy")
    _legend(figure, measured, network=not of_network.empty, several_seeds=_several_seeds(rows))
    headline(figure, title)
    return figure


@styled
def training_history(rows: pd.DataFrame, *, title: str = "") -> "Figure":
    """Draw accuracy over the epochs of training: on noisy labels, on true labels and on test data.

    There is one panel per pair and corruption degree. With several seeds, lines are means and the shade is
    the range over seeds; a network that has stopped keeps its last accuracies.

    Parameters
    ----------
    rows : DataFrame
        Columns epoch, train_accuracy, true_accuracy and test_accuracy, as in history.csv, and optionally
        pair, corruption and seed. Accuracies that were not measured are NaN and are not drawn.
    title : str
        A line above the panels.

    Returns
    -------
    matplotlib.figure.Figure

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
    panels = list(rows.groupby(keys, sort=True)) if keys else [((), rows)]
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    lines = -(-len(panels) // columns)
    figure = blank_figure(max(4.2 * columns, 6.4) + 0.4, 3.1 * lines + 1.3)
    axes = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for ax, (names, of_panel) in zip(axes.flat, panels, strict=False):
        _history_panel(ax, of_panel)
        named = zip(keys, names, strict=True)
        ax.set_title(", ".join(f"p = {name:g}" if key == "corruption" else str(name) for key, name in named))
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy")
    _legend(figure, list(HISTORY.values()), network=False, several_seeds=_several_seeds(rows))
    headline(figure, title)
    return figure


def _history_panel(ax: "Axes", rows: pd.DataFrame) -> None:
    """Draw the three accuracies of one panel over the epochs."""
    from matplotlib.ticker import MaxNLocator

    for column, style in zip(HISTORY, STYLES, strict=False):
        by_seed = rows.pivot_table(column, "epoch", "seed" if "seed" in rows else None, dropna=False)
        span = by_seed.ffill().agg(["mean", "min", "max"], axis=1)
        _range_line(ax, span, style, markersize=5, markevery=max(1, len(span) // 8))
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    percent_axis(ax)


def _range_line(ax: "Axes", span: pd.DataFrame, style: tuple[str, str], **marker: Any) -> None:
    """Draw a line through the means and a shade from min to max over the index of `span`."""
    color, shape = style
    ax.fill_between(span.index, span["min"], span["max"], color=color, alpha=0.18, linewidth=0)
    ax.plot(span.index, span["mean"], color=color, marker=shape, linewidth=2, clip_on=False, **marker)


def _network_line(ax: "Axes", accuracy: pd.Series, end: int, style: tuple[str, str]) -> None:
    """Draw the accuracy of the network: dashed over all layers, a hollow marker with its range at the end."""
    (color, marker), mean = style, accuracy.mean()
    ax.plot([0, end], [mean, mean], color=color, linestyle=DASHED, linewidth=1.2)
    ax.plot([end, end], [accuracy.min(), accuracy.max()], color=color, linewidth=1.2)
    ax.plot(end, mean, color=color, marker=marker, markersize=7, markerfacecolor="white", clip_on=False)


def _several_seeds(rows: pd.DataFrame) -> bool:
    return "seed" in rows and len(rows["seed"].unique()) > 1


def _legend(figure: "Figure", measured: list[tuple[str, str]], *, network: bool, several_seeds: bool) -> None:
    """Put the legend below the panels, where it cannot cover data."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = []
    for (split, labels), (color, marker) in zip(measured, cycle(STYLES), strict=False):
        label = "test" if split == "test" else f"training, {labels} labels"
        handles.append(Line2D([], [], color=color, marker=marker, linewidth=2, label=label))
    if network:
        hollow: dict[str, Any] = {"color": "#555555", "marker": "o", "markerfacecolor": "white"}
        handles.append(Line2D([], [], linestyle=DASHED, label="network itself", **hollow))
    if several_seeds:
        handles.append(Patch(color="#555555", alpha=0.25, linewidth=0, label="range over seeds"))
    columns = len(handles) if figure.get_figwidth() > 9 else 2
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, handlelength=2.4)


def headline(figure: "Figure", title: str) -> None:
    """Put a title above all panels.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Changed in place.
    title : str
        The title; without one the figure stays as it is.
    """
    if title:
        figure.suptitle(title, x=0.012, ha="left", fontsize=12.5, fontweight="bold")


def percent_axis(ax: "Axes") -> None:
    """Make the vertical axis run from 0 to 100 %, with a light grid."""
    from matplotlib.ticker import PercentFormatter

    ax.set_ylim(-0.02, 1.03)
    ax.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))
    quiet_grid(ax)


def quiet_grid(ax: "Axes") -> None:
    """Draw light horizontal lines behind the data instead of ticks."""
    ax.grid(axis="y", color="#e3e3e3", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, pad=6)


def slants(names: Sequence[str], room: int) -> bool:
    """Return whether names along an axis must be slanted.

    Parameters
    ----------
    names : sequence of str
        Names at equal distances.
    room : int
        Number of characters that fit side by side.

    Returns
    -------
    bool
    """
    distance = room / max(len(names), 1)  # characters from the middle of one name to that of the next
    touching = any((len(a) + len(b)) / 2 + 1 > distance for a, b in pairwise(names))
    return touching or sum(map(len, names)) > room


def name_positions(ax: "Axes", names: list[str], *, apart: bool = False, room: int = 60) -> None:
    """Write names along the horizontal axis, slanted where two neighbours would touch.

    Parameters
    ----------
    ax : Axes
        Changed in place.
    names : list of str
        Names of the positions 0, 1, ...
    apart : bool
        Whether the last position, for example the network itself, is shaded.
    room : int
        Number of characters that fit side by side.
    """
    slant: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(range(len(names)), names, **(slant if slants(names, room) else {}))
    if apart:
        ax.axvspan(len(names) - 1.5, len(names) - 0.65, color="#f3f3f3", linewidth=0, zorder=0)
    ax.set_xlim(-0.35, len(names) - 0.65)


def png(figure: "Figure", dpi: int = 180) -> bytes:
    """Return the figure as a PNG file; equal rows give equal files.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure to encode.
    dpi : int
        Resolution in dots per inch.

    Returns
    -------
    bytes
    """
    return _encode(figure, "png", dpi=dpi)


def svg(figure: "Figure") -> bytes:
    """Return the figure as an SVG file; equal rows give equal files."""
    return _encode(figure, "svg")


def pdf(figure: "Figure") -> bytes:
    """Return the figure as a PDF file; equal rows give equal files."""
    return _encode(figure, "pdf")


@styled
def _encode(figure: "Figure", kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format=kind, metadata=METADATA[kind], facecolor="white", **options)
    return buffer.getvalue()


def save(figure: "Figure", stem: str | Path, formats: Sequence[str] = ("png", "svg")) -> tuple[Path, ...]:
    """Write a figure in one file per format.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure to write.
    stem : path
        Path of the files without their endings.
    formats : sequence of {"png", "svg", "pdf"}
        The formats, which are also the endings.

    Returns
    -------
    tuple of Path
        The files, in the order of `formats`.

    Raises
    ------
    InputError
        If a format is unknown.
    """
    writers = {"png": png, "svg": svg, "pdf": pdf}
    if unknown := [name for name in formats if name not in writers]:
        raise InputError(f"figures are written as {', '.join(writers)}; got {', '.join(unknown)}")
    paths = tuple(Path(f"{stem}.{name}") for name in formats)
    for path, name in zip(paths, formats, strict=True):
        path.write_bytes(writers[name](figure))
    return paths
