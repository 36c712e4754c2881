"""Figures drawn from tidy rows alone. Nothing here computes a result."""

from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from layerprobe.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PROBE_TITLES", "accuracy_over_layers", "png", "save", "svg"]

PROBE_TITLES = {
    "masc": "MASC",
    "ncm": "nearest class mean",
    "logistic": "logistic regression",
    "lda": "LDA",
    "qda": "QDA",
    "knn": "kNN",
}
# Okabe and Ito's colours keep apart for every kind of colour vision; the markers keep apart in grey.
STYLES = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v")]
DASHED = (0, (4, 3))
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
    from matplotlib.ticker import PercentFormatter

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
        axes[0].yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))
        several_seeds = "seed" in rows and len(rows["seed"].unique()) > 1
        _legend(figure, measured, network=not of_network.empty, several_seeds=several_seeds)
        if title:
            figure.suptitle(title, x=0.012, ha="left", fontsize=12.5, fontweight="bold")
    return figure


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
    slanted = sum(map(len, names)) > 60
    alignment: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    ax.set_xticks(range(len(names)), names, **alignment)
    if len(of_network):  # set apart what is not a layer
        ax.axvspan(len(layers) - 0.5, len(layers) + 0.35, color="#f3f3f3", linewidth=0, zorder=0)
    ax.set_xlim(-0.35, len(names) - 0.65)
    ax.set_ylim(-0.02, 1.03)
    ax.grid(axis="y", color="#e3e3e3", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, pad=6)


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


def save(figure: "Figure", stem: str | Path) -> tuple[Path, Path]:
    """Write the figure beside `stem` as .png and .svg, and return both paths."""
    paths = Path(f"{stem}.png"), Path(f"{stem}.svg")
    for path, content in zip(paths, (png(figure), svg(figure)), strict=True):
        path.write_bytes(content)
    return paths
