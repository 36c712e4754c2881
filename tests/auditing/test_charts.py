from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from auditing.synthetic import CLASSES, CONTROLS, LAYERS, make_audit
from layerprobe.auditing.report.charts import MANY, layer_chart, noise_chart, short_names
from layerprobe.figures import encode


def points(ax):
    """Every point of a chart: marker, x, y."""
    return [
        (line.get_marker(), x, y)
        for line in ax.lines
        if line.get_marker() != "None"
        for x, y in zip(*line.get_data(), strict=True)
    ]


def rows(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def spans(ax):
    """Every interval of a chart: low, high, y."""
    return [(*segment[:, 0], segment[0, 1]) for drawn in ax.collections for segment in drawn.get_segments()]


def test_layer_chart_shows_the_best_candidate_per_layer():
    audit = make_audit()
    (ax,) = layer_chart(audit).axes
    assert rows(ax) == [*LAYERS, *CONTROLS]
    best = audit.layers.loc[audit.layers.groupby("layer", sort=False)["criterion"].idxmax()]
    expected = [("o", value, i) for i, value in enumerate(best["criterion"])]
    assert [point for point in points(ax) if point[0] == "o"] == expected
    for i, (low, high) in enumerate(zip(best["low"], best["high"], strict=True)):
        assert (low, high, i) in spans(ax)


def test_layer_chart_marks_the_members_of_the_decoder():
    audit = make_audit()
    audit.layers["chosen"] = audit.layers.index.isin([1, 15])  # the input's second best, the best of fc1
    (ax,) = layer_chart(audit).axes
    diamonds = [(x, y) for marker, x, y in points(ax) if marker == "D"]
    assert diamonds[:2] == list(zip(audit.layers.loc[[1, 15], "criterion"], [0, 3], strict=True))
    beside = [text.get_text() for text in ax.texts]
    assert beside[0] == "56.0 %  ridge 0.1, 1 other chosen"
    assert beside[3] == "66.0 %  ridge 0.1"


def test_layer_chart_shows_baselines_below_and_the_interval_of_the_decoder():
    (ax,) = layer_chart(make_audit()).axes
    ticks = dict(zip(rows(ax), ax.get_yticks(), strict=True))
    squares = {y: x for marker, x, y in points(ax) if marker == "s"}
    assert squares == {ticks[name]: value for name, value in CONTROLS.items() if name != "decoder"}
    assert ("D", CONTROLS["decoder"], ticks["decoder"]) in points(ax)
    assert min(squares) > len(LAYERS) - 1
    (shade,) = ax.patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == pytest.approx((0.665, 0.695))
    (head,) = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert list(head.get_xdata()) == [CONTROLS["head"]] * 2


def test_layer_chart_leaves_out_missing_values():
    audit = make_audit()
    audit.layers.loc[audit.layers["layer"] == "conv2", "criterion"] = np.nan
    audit.controls.loc[audit.controls["control"] == "early stopping", ["criterion", "low", "high"]] = np.nan
    (ax,) = layer_chart(audit).axes
    assert rows(ax) == [name for name in [*LAYERS, *CONTROLS] if name not in {"conv2", "early stopping"}]


def test_legend_lists_exactly_the_drawn_markers():
    def legend(audit):
        return [text.get_text() for text in layer_chart(audit).legends[0].get_texts()]

    audit = make_audit()
    every = [
        "best candidate of a layer",
        "chosen for the decoder",
        "baseline",
        "the head",
        "the decoder, 95 %",
    ]
    assert legend(audit) == every
    audit.layers["chosen"] = False
    audit.controls = audit.controls[:0]
    assert legend(audit) == every[:1]


def test_layer_chart_of_many_layers_shows_the_best_and_the_chosen():
    audit = make_audit(layers=[f"layer{i}" for i in range(MANY + 30)])
    audit.layers["chosen"] = audit.layers["layer"] == "layer0"  # among the worst
    (ax,) = layer_chart(audit).axes
    assert len(rows(ax)) == MANY + 1 + len(CONTROLS)
    assert rows(ax)[:2] == ["layer0", "layer15"]


def test_noise_chart_shows_the_matrix_with_true_classes_as_rows():
    audit = make_audit()
    (ax,) = noise_chart(audit).axes
    assert np.array_equal(ax.images[0].get_array(), audit.noise.matrix)
    assert rows(ax) == CLASSES
    numbers = [text.get_text() for text in ax.texts]
    assert numbers[:3] == ["71", "15", "2"]
    assert len(numbers) == len(CLASSES) ** 2


def test_share_that_rounds_to_zero_is_an_empty_cell():
    audit = make_audit(["a", "b"])
    audit.noise = SimpleNamespace(matrix=np.array([[1.0, -0.001], [0.004, 0.996]]))
    (ax,) = noise_chart(audit).axes
    assert [text.get_text() for text in ax.texts] == ["100", "100"]


def luminance(color):
    """WCAG 2's relative luminance."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_numbers_contrast_with_their_cells():
    audit = make_audit()
    audit.noise.matrix = np.linspace(0.01, 1, 100).reshape(10, 10)
    (ax,) = noise_chart(audit).axes
    for text, share in zip(ax.texts, audit.noise.matrix.ravel(), strict=True):
        dark, light = sorted(map(luminance, (text.get_color(), ax.images[0].to_rgba(share)[:3])))
        assert (light + 0.05) / (dark + 0.05) > 4.5


def test_noise_chart_of_many_classes_has_a_colour_bar():
    figure = noise_chart(make_audit([f"class {i}" for i in range(100)]))
    ax, bar = figure.axes
    assert not ax.texts
    assert rows(ax) == [f"class {i}" for i in range(0, 100, 3)]
    assert [label.get_text() for label in bar.get_yticklabels()][-1] == "100 %"


def test_names_are_plain_text_in_the_font():
    names = ["a$b$c", "$\\frac", "猫", "x\n y", "", "the longest name of all classes", "<b>'\""]
    shown = short_names(names, 20)
    assert shown == ["a$b$c", "$\\frac", "no. 3", "x y", "no. 5", "the longest name of\u2026", "<b>'\""]
    assert short_names(["stages.3.blocks.1.relu"], 8, from_end=True) == ["\u2026.1.relu"]
    audit = make_audit(names, layers=["$\\frac", "$x$"])
    (noise,), (layers,) = noise_chart(audit).axes, layer_chart(audit).axes
    assert rows(noise) == shown
    assert rows(layers)[:2] == ["$\\frac", "$x$"]
    assert encode(noise.figure) == encode(noise_chart(audit))  # a broken formula would raise here


@pytest.mark.parametrize(
    "figure",
    [
        lambda: layer_chart(make_audit()),
        lambda: layer_chart(make_audit(layers=[f"stages.{i}.blocks.1.convolution.relu" for i in range(30)])),
        lambda: noise_chart(make_audit(["cat", "dog"])),
        lambda: noise_chart(make_audit([f"class number {i}" for i in range(20)])),
        lambda: noise_chart(make_audit([f"a long class name {i}" for i in range(100)])),
    ],
    ids=["layers", "many layers", "two", "twenty", "hundred"],
)
def test_charts_are_not_clipped_and_names_do_not_overlap(figure):
    figure = figure()
    figure.draw_without_rendering()
    page = figure.bbox
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    for box in [*boxes, *(legend.get_window_extent() for legend in figure.legends)]:
        assert box.x0 >= page.x0
        assert box.x1 <= page.x1
        assert box.y0 >= page.y0
        assert box.y1 <= page.y1
    names = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(above.y0 > below.y1 for above, below in pairwise(names))


def test_chart_is_reproducible():
    assert encode(layer_chart(make_audit())) == encode(layer_chart(make_audit()))
