"""Two charts of an audit: the accuracy of each layer beside the baselines, and the noise matrix."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from layerprobe.auditing.method.policies import POLICIES
from layerprobe.figures import DASHED, PROBE_TITLES, RC, STYLES, blank_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

MANY = 40  # largest number of layers in a chart
LEGIBLE = 20  # largest number of classes that leaves room for numbers
CLASS_LETTERS, LAYER_LETTERS = 20, 48
BEST, DECODER, NEUTRAL = STYLES[0][0], STYLES[1][0], "#555555"


@styled
def layer_chart(audit: Any) -> "Figure":
    """Draw the best candidate of every layer and the baselines, each with its interval, on one scale.

    A hollow circle is the best candidate of a layer, a diamond a member of the decoder, a hollow square a
    baseline. The shade is the interval of the decoder, the dashed line the accuracy of the head. Of more than
    40 layers only the best 40 and those of the decoder are drawn. A candidate or baseline without a
    measurement, NaN, is left out.
    """
    layers = audit.layers.dropna(subset="criterion")
    best = layers.loc[layers.groupby("layer", sort=False)["criterion"].idxmax()].set_index("layer")
    chosen = layers[layers["chosen"].astype(bool)]
    kept = {*best["criterion"].nlargest(MANY).index, *chosen["layer"]}
    best = best[best.index.isin(kept)]
    controls = audit.controls.dropna(subset="criterion").set_index("control")
    names = [*short_names(best.index, LAYER_LETTERS, from_end=True), *controls.index]
    # The first row is at the top; a gap separates the layers from the baselines.
    y = [*range(len(best)), *(len(best) + 0.5 + i for i in range(len(controls)))]
    figure = blank_figure(9.6, 1.9 + 0.3 * len(names), pad=0.1)
    ax = figure.subplots()
    _points(ax, best, y[: len(best)], BEST, "o", "best candidate of a layer")
    if not chosen.empty:
        members = chosen["layer"].map(dict(zip(best.index, y, strict=False)))
        ax.plot(chosen["criterion"], members, "D", color=DECODER, label="chosen for the decoder")
    _baselines(ax, controls, y[len(best) :])
    notes = [_note(here, chosen[chosen["layer"] == layer]) for layer, here in best.iterrows()]
    notes += [percent(value) for value in controls["criterion"]]
    for height, note in zip(y, notes, strict=True):
        right = ax.get_yaxis_transform()
        ax.text(1.015, height, note, transform=right, va="center", fontsize=9, parse_math=False)
    _rows(ax, y, names)
    ax.set_xlabel(f"accuracy on {POLICIES[audit.policy].rows}")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, handlelength=1.6, columnspacing=1.3)
    return figure


def _rows(ax: "Axes", y: list[float], names: list[str]) -> None:
    """Name the rows, from the top down, over a light grid."""
    from matplotlib.ticker import MaxNLocator

    ax.set_yticks(y, names, parse_math=False)
    ax.set_ylim(max(y) + 0.7, min(y) - 0.7)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(lambda share, _: f"{round(100 * share, 2):g} %")
    ax.grid(axis="both", color="#e8e8e8", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines["left"].set_visible(False)
    ax.tick_params(length=0, pad=6)


def _points(ax: "Axes", frame: pd.DataFrame, y: Iterable[float], color: str, marker: str, label: str) -> None:
    """Draw hollow points with their intervals."""
    y = list(y)
    ax.hlines(y, frame["low"], frame["high"], color=color, linewidth=1.6)
    ax.plot(frame["criterion"], y, marker, color=color, markerfacecolor="white", markersize=6.5, label=label)


def _baselines(ax: "Axes", controls: pd.DataFrame, y: list[float]) -> None:
    """Draw the baselines, the line of the head and the shade of the decoder."""
    is_decoder = controls.index == "decoder"
    heights = pd.Series(y, index=controls.index)
    if not is_decoder.all():
        _points(ax, controls[~is_decoder], heights[~is_decoder], NEUTRAL, "s", "baseline")
    if "head" in controls.index:
        value = controls["criterion"]["head"]
        ax.axvline(value, color=NEUTRAL, linestyle=DASHED, linewidth=1.1, label="the head")
    if is_decoder.any():
        value, low, high = (float(controls[name]["decoder"]) for name in ("criterion", "low", "high"))
        ax.axvspan(low, high, color=DECODER, alpha=0.14, linewidth=0, label="the decoder, 95 %")
        ax.hlines(heights["decoder"], low, high, color=DECODER, linewidth=1.6)
        ax.plot(value, heights["decoder"], "D", color=DECODER)


def _note(best: pd.Series, chosen: pd.DataFrame) -> str:
    """Name the best candidate of a layer and count its other candidates in the decoder."""
    title = PROBE_TITLES.get(best["probe"], str(best["probe"]))
    value = "" if pd.isna(best["strength"]) else f" {best['strength']:g}"
    others = len(chosen) - bool(best["chosen"])
    more = f", {others} {'more' if best['chosen'] else 'other'} chosen" if others else ""
    return f"{percent(best['criterion'])}  {title}{value}{more}"


def percent(share: float) -> str:
    """Return a share in percent, a missing one as a dash."""
    return "\u2013" if pd.isna(share) else f"{100 * share:.1f} %"


@styled
def noise_chart(audit: Any) -> "Figure":
    """Draw the estimated noise matrix: per true class, the shares of the given labels.

    With up to 20 classes each cell shows its share in percent; with more, only some classes are named.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import PercentFormatter

    matrix, names = audit.noise.matrix, short_names(audit.classes, CLASS_LETTERS)
    K, longest = len(names), max(map(len, names))
    few = K <= LEGIBLE
    side = max(0.46 * K, 2.4) if few else 10.0
    figure = blank_figure(
        side + 0.085 * longest + (0.7 if few else 1.7), side + 0.055 * longest + 0.7, pad=0.1
    )
    ax = figure.subplots()
    # The square root makes small shares off the diagonal visible.
    image = ax.imshow(matrix, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    ticks = range(0, K, -(-K // 40))
    shown, size = [names[k] for k in ticks], 10 if few else 8
    slant: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(ticks, shown, fontsize=size, parse_math=False, **slant)
    ax.set_yticks(ticks, shown, fontsize=size, parse_math=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("given label")
    ax.set_ylabel("true label, estimated")
    if few:
        _numbers(ax, image)
        return figure
    bar = figure.colorbar(image, shrink=0.8, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return figure


def _numbers(ax: "Axes", image: "AxesImage") -> None:
    """Write the shares in percent into their cells; a share that rounds to zero is left out."""
    for i, row in enumerate(np.asarray(image.get_array())):
        for j, share in enumerate(row):
            text = f"{100 * share:.0f}".removeprefix("-")
            if text != "0":
                light = np.array(image.to_rgba(share)[:3]) ** 2.2 @ [0.21, 0.72, 0.07]
                color = "black" if light > 0.18 else "white"  # equal contrast with black and with white
                ax.text(j, i, text, color=color, ha="center", va="center", fontsize=8.5)


def short_names(names: Iterable[object], letters: int, *, from_end: bool = False) -> list[str]:
    """Return names that fit into a chart and that its font can show.

    White space becomes one blank. A name with a character that the font lacks becomes its position, as
    "no. 3".

    Parameters
    ----------
    names : iterable
    letters : int
        Maximal number of characters; longer names are cut.
    from_end : bool
        Keep the end of a long name instead of its beginning: names of layers differ at their ends.
    """
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont(RC["font.family"]))
    shown = []
    for i, name in enumerate(names):
        text = " ".join(str(name).split())
        if not text or not all(font.get_char_index(ord(letter)) for letter in text):
            text = f"no. {i + 1}"
        if len(text) > letters:
            text = f"\u2026{text[1 - letters :]}" if from_end else f"{text[: letters - 1]}\u2026"
        shown.append(text)
    return shown
