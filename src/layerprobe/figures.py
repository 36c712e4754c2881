"""Figures drawn from tidy rows alone. Nothing here computes a result."""

from collections.abc import Sequence
from io import BytesIO
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from layerprobe.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "PROBE_TITLES",
    "STYLES",
    "accuracy_over_layers",
    "headline",
    "name_positions",
    "pdf",
    "percent_axis",
    "png",
    "quiet_grid",
    "save",
    "slants",
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
# Okabe and Ito's colours keep apart for every kind of colour vision; the markers keep apart in grey.
STYLES = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v")]
STYLES += [("#56B4E9", "P"), ("#000000", "X"), ("#7F7F7F", "<"), ("#994F00", "h")]
DASHED = (0, (4, 3))
# A history's columns in the order of the styles, and what each is measured on, as `probe` says it.
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
    "svg.hashsalt": "layerprobe",  # element ids, and so the whole file, repeat exactly
    "pdf.fonttype": 42,  # TrueType: publishers refuse matplotlib's own default, Type 3
}


def accuracy_over_layers(rows: pd.DataFrame, probe: str = "masc", *, title: str = "") -> "Figure":
    """Draw a probe's accuracy over the layers, in the manner of the paper's Figures 2 and 3.

    One panel for each label set that the probe was fitted on. Solid lines join the layers, from the input on;
    a dashed line, ending in a hollow marker, is the accuracy of the network's own output on the same data.
    Where the rows hold several seeds, lines are means and the shade spans the seeds.

    Parameters
    ----------
    rows : DataFrame
        Columns layer, probe, fitted_on, split, labels and accuracy, and possibly seed, as `probe` returns
        them; the network's own accuracies have "network" as their probe.
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
        If the rows do not hold the probe.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    of_probe, of_network = rows[rows["probe"] == probe], rows[rows["probe"] == "network"]
    if of_probe.empty:
        held = ", ".join(map(str, rows["probe"].unique())) or "none"
        raise InputError(f"no rows of the probe {probe!r}; the rows hold: {held}")
    layers = list(of_probe["layer"].unique())
    fitted_on = of_probe["fitted_on"].unique()
    # Sorting puts test before train: the test data are what the figure is about.
    measured = sorted(set(zip(of_probe["split"], of_probe["labels"], strict=True)))
    with rc_context(RC):
        width = max(4.4, 0.8 * (len(layers) + 1)) * len(fitted_on) + 0.4
        figure = Figure((width, 4.6), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.04))
        axes = figure.subplots(1, len(fitted_on), sharey=True, squeeze=False)[0]
        for ax, labels in zip(axes, fitted_on, strict=True):
            _panel(ax, of_probe[of_probe["fitted_on"] == labels], of_network, layers, measured)
            ax.set_title(f"{PROBE_TITLES.get(probe, probe)} fitted on {labels} labels")
        axes[0].set_ylabel("accuracy")
        several_seeds = "seed" in rows and len(rows["seed"].unique()) > 1
        _legend(figure, measured, network=not of_network.empty, several_seeds=several_seeds)
        headline(figure, title)
    return figure


def training_history(rows: pd.DataFrame, *, title: str = "") -> "Figure":
    """Draw accuracy over the epochs of training: against corrupted labels, against true labels, on test data.

    One panel for each pair and corruption degree. Where there are several seeds, lines are means and the
    shade spans the seeds; a network that has stopped keeps its last accuracies while others go on.

    Parameters
    ----------
    rows : DataFrame
        Columns epoch, train_accuracy, true_accuracy and test_accuracy, as in history.csv, and possibly pair,
        corruption and seed. Accuracies that were not measured are NaN and are not drawn.
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
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    missing = [name for name in ("epoch", *HISTORY) if name not in rows]
    if rows.empty or missing:
        raise InputError(f"a history needs at least one row and every accuracy; missing: {missing or 'rows'}")
    held = [name for name in ("pair", "corruption") if name in rows]
    panels = list(rows.groupby(held, sort=True)) if held else [((), rows)]
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    lines = -(-len(panels) // columns)
    with rc_context(RC):
        size = max(4.2 * columns, 6.4) + 0.4, 3.1 * lines + 1.3
        figure = Figure(size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.04, hspace=0.04))
        axes = figure.subplots(lines, columns, sharey=True, squeeze=False)
        for ax, (names, of_panel) in zip(axes.flat, panels, strict=False):
            _history_panel(ax, of_panel)
            ax.set_title(", ".join(map(_panel_name, held, names)))
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        for ax in axes[:, 0]:
            ax.set_ylabel("accuracy")
        several_seeds = "seed" in rows and len(rows["seed"].unique()) > 1
        _legend(figure, list(HISTORY.values()), network=False, several_seeds=several_seeds)
        headline(figure, title)
    return figure


def _panel_name(column: str, value: Any) -> str:
    return f"p = {value:g}" if column == "corruption" else str(value)


def _history_panel(ax: "Axes", rows: pd.DataFrame) -> None:
    """Draw the three accuracies of one panel over the epochs."""
    from matplotlib.ticker import MaxNLocator

    for column, (color, marker) in zip(HISTORY, STYLES, strict=False):
        of_seed = rows.pivot_table(column, "epoch", "seed" if "seed" in rows else None, dropna=False)
        span = of_seed.ffill().agg(["mean", "min", "max"], axis=1)
        spaced: dict[str, Any] = {"marker": marker, "markersize": 5, "markevery": max(1, len(span) // 8)}
        ax.fill_between(span.index, span["min"], span["max"], color=color, alpha=0.18, linewidth=0)
        ax.plot(span.index, span["mean"], color=color, linewidth=2, clip_on=False, **spaced)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    percent_axis(ax)


def headline(figure: "Figure", title: str) -> None:
    """Put a title above all panels."""
    if title:
        figure.suptitle(title, x=0.012, ha="left", fontsize=12.5, fontweight="bold")


def percent_axis(ax: "Axes") -> None:
    """Make the vertical axis run from 0 to 100 %, with a quiet grid."""
    from matplotlib.ticker import PercentFormatter

    ax.set_ylim(-0.02, 1.03)
    ax.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))
    quiet_grid(ax)


def quiet_grid(ax: "Axes") -> None:
    """Draw horizontal lines behind the data instead of ticks."""
    ax.grid(axis="y", color="#e3e3e3", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, pad=6)


def _panel(
    ax: "Axes",
    of_probe: pd.DataFrame,
    of_network: pd.DataFrame,
    layers: list[str],
    measured: list[tuple[str, str]],
) -> None:
    """Draw every curve of one panel, the network beside the layers, and the axes."""
    for (split, labels), (color, marker) in zip(measured, cycle(STYLES), strict=False):
        for rows, draw in ((of_probe, _curve), (of_network, _network_line)):
            here = rows[(rows["split"] == split) & (rows["labels"] == labels)]
            if not here.empty:
                draw(ax, here, layers, color, marker)
    names = [*layers, "network"] if len(of_network) else layers
    name_positions(ax, names, apart=len(of_network) > 0)
    percent_axis(ax)


def slants(names: Sequence[str], room: int) -> bool:
    """Return whether names have to be slanted where about `room` letters fit side by side."""
    apart = room / max(len(names), 1)  # letters from the middle of one name to that of the next
    touching = any((len(a) + len(b)) / 2 + 1 > apart for a, b in pairwise(names))
    return touching or sum(map(len, names)) > room


def name_positions(ax: "Axes", names: list[str], *, apart: bool = False, room: int = 60) -> None:
    """Write names along the horizontal axis, slanted where two neighbours would touch.

    `apart` shades the last of them, which is then not one of the layers but the network.
    """
    slanted = slants(names, room)
    alignment: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    ax.set_xticks(range(len(names)), names, **alignment)
    if apart:
        ax.axvspan(len(names) - 1.5, len(names) - 0.65, color="#f3f3f3", linewidth=0, zorder=0)
    ax.set_xlim(-0.35, len(names) - 0.65)


def _curve(ax: "Axes", rows: pd.DataFrame, layers: list[str], color: str, marker: str) -> None:
    """Draw one accuracy over the layers: the mean over seeds, and their range as a shade."""
    span = rows.groupby("layer")["accuracy"].agg(["mean", "min", "max"]).reindex(layers)
    x = range(len(layers))
    ax.fill_between(x, span["min"], span["max"], color=color, alpha=0.18, linewidth=0)
    ax.plot(x, span["mean"], color=color, marker=marker, markersize=6, linewidth=2, clip_on=False)


def _network_line(ax: "Axes", rows: pd.DataFrame, layers: list[str], color: str, marker: str) -> None:
    """Draw the network's own accuracy: dashed over all layers, a hollow marker with its range at the end."""
    x, accuracy = len(layers), rows["accuracy"]
    mean = accuracy.mean()
    ax.plot([0, x], [mean, mean], color=color, linestyle=DASHED, linewidth=1.2)
    ax.plot([x, x], [accuracy.min(), accuracy.max()], color=color, linewidth=1.2)
    ax.plot(x, mean, color=color, marker=marker, markersize=7, markerfacecolor="white", clip_on=False)


def _legend(figure: "Figure", measured: list[tuple[str, str]], *, network: bool, several_seeds: bool) -> None:
    """Put the legend below the panels, where no data can lie."""
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


def png(figure: "Figure", dpi: int = 180) -> bytes:
    """Return the figure as a PNG file that is the same for the same rows."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, facecolor="white")
    return buffer.getvalue()


def svg(figure: "Figure") -> bytes:
    """Return the figure as an SVG file that is the same for the same rows."""
    from matplotlib import rc_context

    buffer = BytesIO()
    with rc_context(RC):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    return buffer.getvalue()


def pdf(figure: "Figure") -> bytes:
    """Return the figure as a PDF file that is the same for the same rows."""
    from matplotlib import rc_context

    buffer = BytesIO()
    nothing = dict.fromkeys(["CreationDate", "Creator", "Producer"])
    with rc_context(RC):
        figure.savefig(buffer, format="pdf", metadata=nothing, facecolor="white")
    return buffer.getvalue()


def save(figure: "Figure", stem: str | Path, formats: Sequence[str] = ("png", "svg")) -> tuple[Path, ...]:
    """Write the figure beside `stem` in each format, "png", "svg" or "pdf", and return the paths.

    Raises
    ------
    InputError
        If a format is none of these.
    """
    writers = {"png": png, "svg": svg, "pdf": pdf}
    if unknown := [name for name in formats if name not in writers]:
        raise InputError(f"figures are written as {', '.join(writers)}; got {', '.join(unknown)}")
    paths = tuple(Path(f"{stem}.{name}") for name in formats)
    for path, name in zip(paths, formats, strict=True):
        path.write_bytes(writers[name](figure))
    return paths
