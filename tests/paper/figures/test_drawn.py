"""Every figure shows the numbers that its rows were made of."""

import numpy as np
import pandas as pd
import pytest

from layerprobe.errors import InputError, MissingRowsError
from layerprobe.figures import STYLES
from layerprobe.paper.figures import FIGURES
from layerprobe.paper.figures.lines import with_names
from paper.figures import synthetic
from paper.figures.synthetic import DEGREES, LAYERS, masc, network

MLP = "mlp-mnist"
SEED = 0.005  # the mean of 0.01 * seed over two seeds
P = [f"p = {p:g}" for p in DEGREES]


def panel(figure, title):
    (found,) = [ax for ax in figure.axes if ax.get_title(loc="left").replace("\n", " ") == title]
    return found


def titles(figure):
    return [ax.get_title(loc="left").replace("\n", " ") for ax in figure.axes if ax.axison]


def line(ax, style, *, hollow=False):
    """Return (x, y) of the line of a style, filled or hollow."""
    color, marker = style
    (found,) = [
        line
        for line in ax.lines
        if (line.get_color(), line.get_marker()) == (color, marker)
        and (line.get_markerfacecolor() in ("white", "none")) == hollow
    ]
    return np.asarray(found.get_xdata(), float), np.asarray(found.get_ydata(), float)


def names(ax):
    return [label.get_text() for label in ax.get_xticklabels()]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def shade(ax, style):
    """Return the corners of the shades of a style's colour."""
    from matplotlib.colors import to_hex

    (found,) = [
        c
        for c in ax.collections
        if len(c.get_facecolor()) and to_hex(c.get_facecolor()[0]) == style[0].lower()
    ]
    return np.unique(found.get_paths()[0].vertices[:, 1].round(6))


def bars(ax, style):
    """Return the heights of the bars of a style, from left to right, and their middles."""
    from matplotlib.colors import to_hex

    own = [bar for bar in ax.patches if to_hex(bar.get_facecolor()) == style[0].lower()]
    own.sort(key=lambda bar: bar.get_x())
    return np.array([(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in own]).T


def test_noisy_subspaces_have_a_panel_per_pair_and_degree(drawn):
    figure = drawn("figure2")
    assert titles(figure) == [
        f"{pair}, {p}"
        for p in P
        for pair in ("mlp-mnist", "alexnet-cifar100")
        if pair == MLP or p == "p = 0.4"
    ]
    for p in DEGREES:
        ax = panel(figure, f"{MLP}, p = {p:g}")
        assert names(ax) == [*LAYERS, "network"]
        for style, extra in ((STYLES[1], 0.0), (STYLES[2], 0.02), (STYLES[0], 0.04)):
            assert np.allclose(line(ax, style)[1], [masc(p, i, 0, extra=extra) + SEED for i in range(4)])
        for style, extra in ((STYLES[1], 0.0), (STYLES[0], 0.04)):
            x, y = line(ax, style, hollow=True)
            assert x.tolist() == [0, 4]  # the network's marker hides no layer
            assert np.allclose(y, network(p, 0, extra) + SEED)


def test_true_subspaces_stand_beside_noisy_ones(drawn):
    for p in DEGREES:  # at p = 0 noisy subspaces are the true ones
        ax = panel(drawn("figure3"), f"{MLP}, p = {p:g}")
        for style, fitted_on, extra in (
            (STYLES[2], "true" if p else "noisy", 0.02),
            (STYLES[3], "true" if p else "noisy", 0.04),
            (STYLES[1], "noisy", 0.0),
            (STYLES[0], "noisy", 0.04),
        ):
            expected = [masc(p, i, 0, fitted_on, extra=extra) + SEED for i in range(4)]
            assert np.allclose(line(ax, style)[1], expected)


def test_pairs_that_the_paper_does_not_show_have_figures_of_their_own(drawn, rows):
    assert titles(drawn("noisy_subspaces")) == ["mlp-digits, p = 0.4"]
    assert titles(drawn("retraining")) == ["mlp-digits"]
    with pytest.raises(InputError, match=r"figure27 shows alexnet-cifar100, .*rows of mlp-mnist"):
        FIGURES["figure27"].draw(rows, pair=MLP)


def test_shades_span_the_runs(drawn):
    ax = panel(drawn("figure12"), "cnn-cifar10, p = 0.2")
    spanned = [masc(0.2, i, seed, extra=0.04) for i in range(3) for seed in (0, 1)]
    assert np.allclose(shade(ax, STYLES[0]), np.unique(np.round(spanned, 6)))


def test_missing_cells_are_named(drawn):
    footer = " ".join(drawn("figure12").texts[-1].get_text().split()).replace("- ", "-")
    missing = "mlp-cifar10; cnn-mnist; cnn-cifar10 at p = 0.4, 0.6, 0.8, 1; alexnet-tiny-imagenet."
    assert footer.endswith(f"Not run: {missing}")
    assert "Not run" not in " ".join(text.get_text() for text in drawn("noisy_subspaces").texts)


def test_a_cell_that_lacks_one_of_the_needed_experiments_is_named(rows):
    of = rows[(rows["experiment"] != "true_subspaces") | (rows["corruption"] != 0.6)]
    for name in ("figure3", "gains"):
        footer = " ".join(FIGURES[name].draw(of, pair=MLP).texts[-1].get_text().split())
        assert f"Not run: {MLP} at p = 0.6;" in footer


@pytest.mark.parametrize(
    ("name", "kinds", "expected"),
    [
        (
            "latent",
            {"training, noisy labels": 0.0, "training, true labels": 0.02, "test": 0.04},
            lambda i, extra: masc(0.6, i, 0, extra=extra) + SEED,
        ),
        (
            "flipped",
            {"flipped rows, given labels": 0.0, "flipped rows, true labels": -0.3, "unflipped rows": 0.05},
            lambda i, extra: masc(0.6, i, 0) + extra + SEED,
        ),
    ],
)
def test_a_family_has_one_panel_for_each_accuracy(drawn, name, kinds, expected):
    figure = drawn(name, MLP)
    assert titles(figure) == [f"{MLP}: {kind}" for kind in kinds]
    for kind, extra in kinds.items():
        _, y = line(panel(figure, f"{MLP}: {kind}"), STYLES[3])
        assert np.allclose(y, [expected(i, extra) for i in range(4)])


def test_untrained_networks_are_dashed(drawn):
    for fitted_on in ("noisy", "true"):
        ax = panel(drawn("untrained"), f"{MLP}: {fitted_on} subspaces")
        for p, style in ((0.4, STYLES[2]), (1.0, STYLES[5])):
            trained = np.array([masc(p, i, 0, fitted_on) + SEED for i in range(4)])
            assert np.allclose(line(ax, style)[1], trained + 0.04)
            assert np.allclose(line(ax, style, hollow=True)[1], trained - 0.2)


def test_latent_memorisation_is_by_the_degree_of_the_later_labels(drawn):
    assert legend(drawn("latent", MLP)) == [*P[1:], "range over runs"]


@pytest.mark.parametrize("name", ["figure15", "figure17"])
def test_components_are_means_over_classes_with_their_range(drawn, name):
    ax = panel(drawn(name), MLP)
    _, y = line(ax, STYLES[2])
    assert np.allclose(y, [10 * (i + 1) + 8 + 1 for i in range(4)])
    assert np.allclose(shade(ax, STYLES[2]), [10 * (i + 1) + 8 + k for i in range(4) for k in (0, 2)])
    assert "range over classes" in legend(drawn(name))


@pytest.mark.parametrize(("name", "last"), [("figure4", 4), ("figure31", 10)])
def test_bars_before_and_after_retraining(drawn, name, last):
    ax = panel(drawn(name), MLP)
    degrees = np.array(DEGREES)
    before = network(degrees, 0) + SEED
    step = np.where(degrees > 0, 0.02, 0.01)  # at p = 0 noisy labels are the true ones
    expected = {7: before, 0: before + 0.01 * last, 2: before + step * last}
    if name == "figure4":
        expected[1] = masc(degrees, 1, 0) + SEED
        expected[3] = np.where(degrees > 0, masc(degrees, 1, 0, "true"), masc(degrees, 1, 0)) + SEED
    assert len(ax.patches) == len(expected) * len(DEGREES)
    for i, heights in expected.items():
        x, y = bars(ax, STYLES[i])
        assert np.allclose(y, heights)
        assert np.allclose(np.round(5 * x) / 5, degrees)  # beside their place on the number line


@pytest.mark.parametrize(
    ("name", "metric"),
    [("figure28", "incorrect_after"), ("figure29", "corrected"), ("figure30", "broken")],
)
def test_bars_of_relabelling(drawn, name, metric):
    ax = panel(drawn(name), MLP)
    degrees = DEGREES[1:5]
    for i, fitted_on in ((0, "noisy"), (2, "true")):
        expected = [synthetic.relabelled(p, fitted_on)[metric] for p in degrees]
        assert np.allclose(bars(ax, STYLES[i])[1], expected)
    if name == "figure28":
        assert np.allclose(bars(ax, STYLES[7])[1], [0.9 * p for p in degrees])


def test_a_low_bar_has_its_percent_and_the_legend_shows_ranges_as_they_are_drawn(rows):
    few = rows[(rows["pair"] == MLP) & (rows["corruption"] == 0.4)]
    corrected = few["metric"].eq("corrected") & few["fitted_on"].eq("noisy")
    figure = FIGURES["figure29"].draw(
        few.assign(value=few["value"].mask(corrected, 0.0009 + few["seed"] / 1e4))
    )
    assert [text.get_text() for text in figure.axes[0].texts] == [".1"]
    assert names(figure.axes[0]) == ["0.2", "0.4", "0.6", "0.8"]  # the degrees of the figure alone
    spread = figure.legends[0].legend_handles[-1]
    assert (spread.get_label(), spread.get_marker()) == ("range over runs", "|")


def test_probes_at_one_degree_are_side_by_side(rows):
    of = rows[(rows["pair"] == MLP) & ((rows["experiment"] == "controls") | (rows["corruption"] == 0.4))]
    ax = panel(FIGURES["probes"].draw(of), f"{MLP}: fitted on noisy labels")
    styles = [*STYLES[:7], ("#333333", ">"), ("#333333", "*")]
    places = [float(line(ax, style)[0][0]) for style in styles]
    assert np.diff(places).min() > 0.02
    assert np.isclose(np.mean(places), 0)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["p = 0.4"]


def test_degrees_are_in_order_in_the_legend_where_the_first_pair_lacks_some(rows):
    of = rows[(rows["pair"] != MLP) | (rows["corruption"] == 0.4)]
    assert legend(FIGURES["untrained"].draw(of))[:3] == ["p = 0", "p = 0.2", "p = 0.4"]


def test_retraining_epoch_by_epoch(drawn):
    for fitted_on, step in (("noisy", 0.01), ("true", 0.02)):
        ax = panel(drawn("retraining_epochs"), f"{MLP}: labels of {fitted_on} subspaces")
        x, y = line(ax, STYLES[4])
        assert x.tolist() == list(range(11))
        assert np.allclose(y, network(0.8, 0) + SEED + step * np.arange(11))
        assert len(line(ax, STYLES[0])[0]) == 11  # p = 0 is relabelled once


def test_optimisers_side_by_side(drawn, rows):
    ax = panel(drawn("optimizers"), MLP)
    degrees = np.array(DEGREES)
    for style, extra in ((STYLES[0], 0.0), (STYLES[1], 0.05)):
        assert np.allclose(line(ax, style)[1], masc(degrees, 1, 0, extra=0.04) + SEED + extra)
        assert np.allclose(line(ax, style, hollow=True)[1], network(degrees, 0, 0.04) + SEED + extra)
    with pytest.raises(InputError, match="by SGD and by Adam"):
        FIGURES["optimizers"].draw(rows)


def test_noise_taken_out_is_beside_masc_and_the_network(drawn, rows):
    ax = panel(drawn("corrected"), MLP)
    inner = np.array(DEGREES[1:-1])
    expected = masc(inner, 1, 0, extra=0.04), masc(inner, 1, 0, setting="1pc", extra=0.04)
    for style, value in zip(STYLES, (*expected, masc(inner, 1, 0) + 0.2), strict=False):
        x, y = line(ax, style)
        assert x.tolist() == inner.tolist()  # without noise there is none to take out
        assert np.allclose(y, value + SEED)
    for marker, share in ((">", 1.0), ("*", 0.5)):
        _, y = line(ax, ("#333333", marker), hollow=True)
        assert np.allclose(y, network(share * inner, 0) + SEED)
    first = rows[rows["seed"] == 0]["key"].unique()
    one = rows[rows["key"].isin(first) | (rows["experiment"] != "corrected_subspaces")]
    figure = FIGURES["corrected"].draw(one)  # of the runs that have corrected subspaces
    assert np.allclose(line(panel(figure, MLP), STYLES[0])[1], masc(inner, 1, 0, extra=0.04))
    assert "Runs behind each point: 1." in " ".join(figure.texts[-1].get_text().split())


def test_noise_taken_out_is_drawn_of_runs_with_both_subspaces(rows):
    second = (rows["experiment"] == "noisy_subspaces") & (rows["seed"] == 1)
    of = rows[~second]
    ax = panel(FIGURES["corrected"].draw(of), MLP)
    assert np.allclose(line(ax, STYLES[2])[1], masc(np.array(DEGREES[1:-1]), 1, 0) + 0.2)
    first = (of["experiment"] == "corrected_subspaces") & (of["seed"] == 0)
    with pytest.raises(MissingRowsError, match="a run with both"):
        FIGURES["corrected"].draw(of[~first])


def test_gains_over_the_number_of_training_images(drawn, rows):
    ax = panel(drawn("training_images"), f"{MLP}, p = 0.4")
    x, y = line(ax, STYLES[0])
    assert x.tolist() == [1000, 60_000]
    assert np.allclose(y, masc(0.4, 1, 0, extra=0.04) + SEED - np.array([0.1, 0]))
    assert np.allclose(line(ax, STYLES[4])[1], masc(0.4, 1, 0) + SEED - np.array([0.3, 0.2]))
    for marker, p in ((">", 0.4), ("*", 0.2)):  # the last and the best epoch
        x, y = line(ax, ("#333333", marker), hollow=True)
        assert x.tolist() == [1000, 60_000]
        assert np.allclose(y, network(p, 0) + SEED - np.array([0.1, 0]))
    assert names(ax) == ["1,000", "60,000"]
    with pytest.raises(InputError, match="two numbers of images"):
        FIGURES["training_images"].draw(rows)


def test_small_accuracies_have_a_smaller_axis_with_a_note(rows):
    few = rows[rows["pair"] == MLP]
    figure = FIGURES["retraining_epochs"].draw(few.assign(value=few["value"] / 10))
    ax = figure.axes[0]
    assert ax.get_ylabel() == "accuracy on 80 % of test,\naxis to 20 %"
    assert ax.get_ylim()[1] == pytest.approx(0.206)
    small = few["value"].where(few["experiment"] == "true_subspaces", few["value"] / 10)
    noisy, true = FIGURES["thresholds"].draw(few.assign(value=small)).axes
    assert noisy.get_ylim() == true.get_ylim()  # the panels of a pair have one range


def test_thresholds_at_the_best_layer(drawn):
    ax = panel(drawn("thresholds"), f"{MLP}: noisy subspaces")
    assert names(ax) == ["one", "25 %", "50 %", "75 %", "90 %", "95 %", "99 %", "99.9 %"]
    settings = ["1pc", "0.25", "0.5", "0.75", "0.9", "0.95", "0.99", "0.999"]
    _, y = line(ax, STYLES[5])
    assert np.allclose(y, [masc(1.0, 1, 0, setting=s, extra=0.04) + SEED for s in settings])


def test_the_best_layer_is_that_of_the_best_mean(rows):
    of = rows[
        (rows["experiment"] == "noisy_subspaces") & (rows["corruption"] == 0.4) & (rows["pair"] == MLP)
    ].copy()
    lucky = (of["layer"] == "fc3") & (of["seed"] == 0) & (of["split"] == "test")
    of.loc[lucky, "value"] = masc(0.4, 1, 0) + 0.05  # the best single run, not the best mean
    _, y = line(panel(FIGURES["thresholds"].draw(of), f"{MLP}: noisy subspaces"), STYLES[2])
    assert np.isclose(y[6], masc(0.4, 1, 0, extra=0.04) + SEED)


def test_a_further_probe_is_drawn_and_fits_without_noise_stand_for_true_labels(rows):
    of = rows[rows["experiment"].isin(["probes", "controls"]) & (rows["pair"] == MLP)]
    of = of[(of["corruption"] > 0) | (of["fitted_on"] != "true")]
    lda = of[of["probe"] == "lda"]
    figure = FIGURES["probes"].draw(pd.concat([of, lda.assign(probe="bayes")]))
    assert "bayes" in legend(figure)
    for labels in ("noisy", "true"):
        x, y = line(panel(figure, f"{MLP}: fitted on {labels} labels"), (STYLES[-1][0], "p"))
        assert list(x) == list(DEGREES)
        assert np.allclose(y, line(panel(figure, f"{MLP}: fitted on {labels} labels"), STYLES[3])[1])


@pytest.mark.parametrize("fitted_on", ["noisy", "true"])
def test_probes_at_their_best_layers_beside_both_epochs_of_the_network(drawn, fitted_on):
    figure = drawn("probes")
    ax = panel(figure, f"{MLP}: fitted on {fitted_on} labels")
    degrees = np.array(DEGREES)
    assert names(ax) == [f"{p:g}" for p in DEGREES]
    assert ax.get_xlabel() == "corruption degree p"
    for j, style in enumerate(STYLES[:7]):
        assert np.allclose(line(ax, style)[1], masc(degrees, 1, 0, fitted_on) - 0.04 * j + SEED)
    assert np.allclose(line(ax, ("#333333", ">"), hollow=True)[1], network(degrees, 0) + SEED)
    assert np.allclose(line(ax, ("#333333", "*"), hollow=True)[1], network(degrees / 2, 0) + SEED)
    assert legend(figure)[:2] == ["MASC", "nearest class mean"]
    assert legend(figure)[-3:] == ["network, last epoch", "network, best epoch", "range over runs"]


def test_cost_of_all_layers_together(drawn):
    axes = [ax for ax in drawn("cost").axes if ax.axison]
    assert [ax.get_ylabel() for ax in axes] == [
        "seconds to fit",
        "seconds to predict",
        "FLOPs to fit",
        "FLOPs to predict",
    ]
    assert {ax.get_yscale() for ax in axes} == {"log"}
    assert names(axes[0])[0] == MLP
    assert line(axes[2], STYLES[1])[1][0] == pytest.approx(3e6 * (1 + 2 + 3 + 4))
    assert line(axes[3], STYLES[5])[1][0] == pytest.approx(3**5 * 1e5 * 10)
    assert len(axes[2].lines) == 6  # kNN does nothing when it is fitted
    of_pair = [one.get_xdata()[0] for one in axes[3].lines]
    assert np.diff(of_pair).min() > 0.1  # side by side, so that no range covers another
    assert np.mean(of_pair) == pytest.approx(0)
    assert axes[3].get_xlim()[0] == -0.5  # no marker is on the axis


def test_a_point_of_cost_is_of_the_runs_of_all_degrees():
    figure = FIGURES["cost"].draw(synthetic.frame(degrees=(0.2, 0.4, 0.6), seeds=2))
    assert figure.texts[-1].get_text().endswith("Runs behind each point: 6.")


def test_the_range_of_a_cost_is_that_of_whole_runs(rows):
    of = rows[(rows["experiment"] == "cost") & (rows["pair"] == MLP) & rows["corruption"].eq(0.4)]
    changed = of["layer"].eq("fc1") == of["seed"].eq(0)  # each run is the slower one on some layers
    of = of.assign(value=of["value"].where(~changed, 2 * of["value"]))
    one = of[(of["metric"] == "fit_flops") & (of["probe"] == "ncm") & (of["layer"] != "")]
    totals = one.groupby("seed")["value"].sum()
    ends = [
        segment[:, 1] for c in FIGURES["cost"].draw(of).axes[2].collections for segment in c.get_segments()
    ]
    assert any(np.allclose(end, [totals.min(), totals.max()]) for end in ends)


def test_a_probe_that_was_left_out_on_a_layer_has_no_cost_of_all_layers(rows):
    of = rows[(rows["experiment"] == "cost") & (rows["pair"] == MLP)]
    of = of[(of["probe"] != "qda") | (of["layer"] != "fc3")]
    assert len(FIGURES["cost"].draw(of).axes[0].lines) == 6


def test_similarity_by_layer_and_degree(drawn):
    figure = drawn("similarity")
    of = np.array([0.9 - 0.3 * 0.4 - 0.05 * i + SEED for i in range(4)])
    assert np.allclose(line(panel(figure, f"{MLP}: linear CKA"), STYLES[2])[1], of)
    for fitted_on in ("noisy", "true"):
        ax = panel(figure, f"{MLP}: principal cosine, {fitted_on}")
        assert np.allclose(line(ax, STYLES[2])[1], of - 0.05)
        assert np.allclose(line(ax, STYLES[2], hollow=True)[1], of - 0.25)


@pytest.mark.parametrize("name", ["similarity", "latent"])
def test_rows_of_no_layer_have_no_place_among_the_layers(drawn, name):
    assert names(drawn(name, MLP).axes[0]) == LAYERS


def test_dynamics_follow_the_layer_that_is_best_at_the_last_epoch(drawn):
    ax = panel(drawn("dynamics"), f"{MLP}, p = 0.4")
    x, y = line(ax, STYLES[0])
    assert x.tolist() == [0, 1, 2, 5, 10, 20, 50]
    learnt = 1 - 0.5 ** (x / 3)
    assert np.allclose(y, 0.3 + learnt * (masc(0.4, 1, 0) + SEED - 0.3))
    assert np.allclose(line(ax, ("#333333", ">"), hollow=True)[1], 0.1 + learnt * 0.5)
    assert np.allclose(line(ax, STYLES[7])[1], 0.2)  # one component
    assert legend(drawn("dynamics"))[:5] == [
        "MASC",
        "logistic regression",
        "VeLPIC",
        "MASC, one component",
        "network itself",
    ]


def test_histories_have_a_panel_for_every_condition_with_human_labels_by_name(drawn):
    figure = drawn("history")
    conditions = (", p = 0", ", p = 0.4", ", human labels, cifar-10n:worst")
    # pairs in the order of the paper, and not of the alphabet
    assert titles(figure) == [f"{pair}{what}" for pair in (MLP, "cnn-cifar10") for what in conditions]
    ax = panel(figure, f"{MLP}, p = 0.4")
    _, y = line(ax, STYLES[0])
    assert np.allclose(y, 0.07 * np.array([1, 2, 3, 4, 5, (5 + 6 + 6) / 3, 6]))


def test_midway_shows_edited_and_unedited_runs(history, drawn):
    ax = panel(drawn("midway"), "cnn-cifar10, p = 0.4")
    plain, edited = (line.get_ydata() for line in ax.lines)
    means = 0.07 * np.arange(1, 8)
    assert plain == pytest.approx(means[: len(plain)])
    assert edited - plain == pytest.approx([0, 0, *[0.1] * (len(plain) - 2)])
    with pytest.raises(InputError, match="no point of this figure"):
        FIGURES["midway"].draw(None, history)  # nobody edited


def test_natural_shows_human_and_clean_labels(drawn):
    figure = drawn("natural")
    ax = panel(figure, "cnn-cifar10: noisy subspaces")
    assert legend(figure)[:4] == ["p = 0", *synthetic.HUMAN]
    assert np.allclose(line(ax, STYLES[0])[1], [masc(0, i, 0, extra=0.04) + SEED for i in range(3)])
    assert np.allclose(line(ax, STYLES[8])[1], [masc(0.4, i, 0, extra=0.04) + SEED for i in range(3)])
    _, true = line(panel(figure, "cnn-cifar10: true subspaces"), STYLES[8])
    assert np.allclose(true, [masc(0.4, i, 0, "true", extra=0.04) + SEED for i in range(3)])


def test_published_gains_are_hollow_grey_and_labelled(rows):
    figure = FIGURES["gains"].draw(rows, published=synthetic.table1())
    ax = panel(figure, MLP)
    degrees = np.array(DEGREES)
    assert np.allclose(line(ax, STYLES[0])[1], masc(degrees, 1, 0, extra=0.04) + SEED)
    assert np.allclose(line(ax, STYLES[4])[1], masc(degrees, 1, 0) - 0.2 + SEED)  # untrained
    true = masc(degrees, 1, 0, "true", extra=0.04)
    true[0] = masc(0, 1, 0, extra=0.04)
    assert np.allclose(line(ax, STYLES[2])[1], true + SEED)
    for marker, value in {"o": 0.6, "^": 0.7, ">": 0.5, "*": 0.8}.items():
        x, y = line(ax, ("#8a8a8a", marker), hollow=True)
        assert x.tolist() == [0.2, 0.4, 0.6, 0.8]
        assert np.allclose(y, value)
    assert [label for label in legend(figure) if label.startswith("published: ")] == [
        "published: MASC, noisy subspaces",
        "published: MASC, true subspaces",
        "published: network, last epoch",
        "published: network, best epoch",
    ]
    for title in ("cnn-cifar10", "cnn-cifar10, human labels"):  # nothing is published of them
        assert not any(line.get_color() == "#8a8a8a" for line in panel(figure, title).lines)
    other = rows[rows["pair"] == MLP].assign(variant="optimizer adam")
    axes = FIGURES["gains"].draw(other, published=synthetic.table1()).axes
    assert not any(line.get_color() == "#8a8a8a" for ax in axes for line in ax.lines)


def test_gains_have_the_last_epoch_of_runs_without_controls(rows):
    some = rows[(rows["experiment"] != "controls") | (rows["corruption"] == 0.4)]
    ax = panel(FIGURES["gains"].draw(some), MLP)
    x, y = line(ax, ("#333333", ">"), hollow=True)
    assert x.tolist() == list(DEGREES)
    extra = np.where(x == 0.4, 0, 0.04)  # the rows of noisy subspaces have other values in these tests
    assert np.allclose(y, network(x, 0, extra) + SEED)
    assert line(ax, ("#333333", "*"), hollow=True)[0].tolist() == [0.4]


@pytest.mark.parametrize("name", ["gains", "corrected"])
def test_the_axis_of_degrees_ends_with_the_runs(name):
    within = FIGURES[name].draw(synthetic.frame(degrees=(0.2, 0.8))).axes[0].get_xlim()
    beyond = FIGURES[name].draw(synthetic.frame(degrees=(0.1, 0.9))).axes[0].get_xlim()
    assert 0.1 < within[0] < 0.2 < 0.8 < within[1] < 0.9
    assert beyond[0] < 0.1 < 0.9 < beyond[1]


def test_gains_without_published_numbers_have_none(drawn):
    assert not any("published" in label for label in legend(drawn("gains")))
    assert "MASC, untrained network, hidden layers" in legend(drawn("gains"))  # MASC may be on the input


def test_variants_of_a_pair_are_never_mixed(rows):
    first = rows[
        (rows["experiment"] == "noisy_subspaces") & (rows["pair"] == MLP) & rows["corruption"].notna()
    ]
    second = first.assign(variant="subset 100, optimizer adam", value=0.5, key=first["key"] + "b")
    both = pd.concat([first.assign(variant="subset 100"), second])
    figure = FIGURES["figure2"].draw(both[both["corruption"] == 0.4])
    adam = f"{MLP} (optimizer adam), p = 0.4"
    assert titles(figure) == [f"{MLP}, p = 0.4", adam]
    assert np.allclose(line(panel(figure, adam), STYLES[0])[1], 0.5)
    assert np.allclose(line(panel(figure, f"{MLP}, p = 0.4"), STYLES[1])[1][1], masc(0.4, 1, 0) + SEED)


def test_titles_of_families_name_whole_options():
    variants = ["widths (8, 16), subset 50", "widths (8, 32), subset 50"]
    rows = pd.DataFrame({"pair": "net", "variant": variants, "noise": "uniform", "corruption": 0.4})
    assert with_names(rows)["family"].tolist() == ["net (widths (8, 16))", "net (widths (8, 32))"]
