"""Every figure shows the numbers that its rows were made of."""

import numpy as np
import pandas as pd
import pytest

from layerprobe.errors import InputError
from layerprobe.figures import STYLES
from layerprobe.paper.figures import FIGURES
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


@pytest.mark.parametrize(("name", "fitted_on"), [("figure2", "noisy"), ("figure3", "true")])
def test_subspaces_over_the_layers_beside_the_network(drawn, name, fitted_on):
    figure = drawn(name)
    assert titles(figure) == [MLP, "cnn-cifar10", "cnn-cifar10, human labels"]
    ax = panel(figure, MLP)
    assert names(ax) == [*LAYERS, "network"]
    for style, p in zip(STYLES, DEGREES, strict=False):  # at p = 0 noisy subspaces are the true ones
        x, y = line(ax, style)
        assert x.tolist() == [0, 1, 2, 3]
        assert np.allclose(y, [masc(p, i, 0, fitted_on, extra=0.04) + SEED for i in range(4)])
        x, y = line(ax, style, hollow=True)
        assert x.tolist() == [0, 4]
        assert np.allclose(y, network(p, 0, 0.04) + SEED)
    assert legend(figure)[:6] == P
    assert legend(figure)[-2:] == ["network itself", "range over runs"]


def test_shades_span_the_runs(drawn):
    ax = panel(drawn("figure2"), "cnn-cifar10")
    spanned = [masc(0.2, i, seed, extra=0.04) for i in range(3) for seed in (0, 1)]
    assert np.allclose(shade(ax, STYLES[1]), np.unique(np.round(spanned, 6)))


@pytest.mark.parametrize("name", ["figure12", "figure13", "latent"])
def test_a_family_has_one_panel_for_each_accuracy(drawn, name):
    figure = drawn(name, MLP)
    kinds = {"training, noisy labels": 0.0, "training, true labels": 0.02, "test": 0.04}
    assert titles(figure)[:3] == [f"{MLP}: {kind}" for kind in kinds]
    fitted_on = "true" if name == "figure13" else "noisy"
    for kind, extra in kinds.items():
        _, y = line(panel(figure, f"{MLP}: {kind}"), STYLES[3])
        assert np.allclose(y, [masc(0.6, i, 0, fitted_on, extra=extra) + SEED for i in range(4)])


def test_latent_memorisation_is_by_the_degree_of_the_later_labels(drawn):
    assert legend(drawn("latent", MLP)) == [*P[1:], "range over runs"]


@pytest.mark.parametrize("name", ["figure15", "figure17"])
def test_components_are_means_over_classes_with_their_range(drawn, name):
    ax = panel(drawn(name), MLP)
    _, y = line(ax, STYLES[2])
    assert np.allclose(y, [10 * (i + 1) + 8 + 1 for i in range(4)])
    assert np.allclose(shade(ax, STYLES[2]), [10 * (i + 1) + 8 + k for i in range(4) for k in (0, 2)])
    assert "range over classes" in legend(drawn(name))


@pytest.mark.parametrize(("name", "fitted_on"), [("figure4", "noisy"), ("figure27", "true")])
def test_retraining_before_and_after(drawn, name, fitted_on):
    ax = panel(drawn(name), MLP)
    degrees = np.array(DEGREES[1:])
    assert names(ax) == P[1:]
    before = network(degrees, 0) + SEED
    expected = {
        0: masc(degrees, 1, 0, fitted_on) + SEED,
        1: before + 0.04,  # the last of four epochs
        2: before + 0.02,  # the best on validation is the second
        3: 0.5,  # MASC on the retrained network at the chosen layer alone
    }
    for i, y in expected.items():
        assert np.allclose(line(ax, STYLES[i])[1], y)
    assert np.allclose(line(ax, ("#333333", ">"), hollow=True)[1], before)


def test_the_best_validation_epoch_is_the_first_of_equals_and_not_before_retraining(rows):
    of = rows[(rows["experiment"] == "retraining") & (rows["pair"] == MLP)].copy()
    of.loc[of["split"] == "validation", "value"] = 0.5
    of.loc[(of["split"] == "validation") & (of["epoch"] == 0), "value"] = 0.9
    _, y = line(panel(FIGURES["figure4"].draw(of), MLP), STYLES[2])
    assert np.allclose(y, network(np.array(DEGREES[1:]), 0) + SEED + 0.01)


@pytest.mark.parametrize(
    ("name", "step"), [("figure28", 0.01), ("figure29", 0.01), ("figure30", 0.02), ("figure31", 0.02)]
)
def test_retraining_epoch_by_epoch(drawn, name, step):
    x, y = line(panel(drawn(name), MLP), STYLES[4])
    assert x.tolist() == list(range(11))
    assert np.allclose(y, network(0.8, 0) + SEED + step * np.arange(11))


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


@pytest.mark.parametrize("fitted_on", ["noisy", "true"])
def test_probes_at_their_best_layers_beside_both_epochs_of_the_network(drawn, fitted_on):
    figure = drawn("probes")
    ax = panel(figure, f"{MLP}: fitted on {fitted_on} labels")
    degrees = np.array(DEGREES)
    assert names(ax) == P
    for j, style in enumerate(STYLES[:7]):
        assert np.allclose(line(ax, style)[1], masc(degrees, 1, 0, fitted_on) - 0.04 * j + SEED)
    assert np.allclose(line(ax, ("#333333", ">"), hollow=True)[1], network(degrees, 0) + SEED)
    assert np.allclose(line(ax, ("#333333", "*"), hollow=True)[1], network(degrees / 2, 0) + SEED)
    assert legend(figure)[:2] == ["MASC", "nearest class mean"]
    assert legend(figure)[-3:] == ["network, last epoch", "network, best epoch", "range over runs"]


def test_controls_show_the_untrained_network_too(drawn):
    ax = panel(drawn("controls"), f"{MLP}: noisy subspaces")
    degrees = np.array(DEGREES)
    assert np.allclose(line(ax, STYLES[0])[1], masc(degrees, 1, 0, extra=0.04) + SEED)
    assert np.allclose(line(ax, STYLES[4])[1], masc(degrees, 1, 0) - 0.2 + SEED)


def test_cost_leaves_out_costs_of_zero(drawn):
    axes = [ax for ax in drawn("cost").axes if ax.axison and ax.get_title(loc="left") == MLP]
    assert [ax.get_ylabel() for ax in axes] == [
        "seconds to fit",
        "seconds to predict",
        "FLOPs to fit",
        "FLOPs to predict",
    ]
    assert {ax.get_yscale() for ax in axes} == {"log"}
    assert np.allclose(line(axes[2], STYLES[1])[1], [3e6, 6e6, 9e6, 12e6])
    assert np.allclose(line(axes[3], STYLES[5])[1], 3**5 * 1e5 * np.arange(1, 5))
    assert len(axes[2].lines) == 6  # kNN does nothing when it is fitted


def test_similarity_by_layer_and_degree(drawn):
    figure = drawn("similarity")
    of = np.array([0.9 - 0.3 * 0.4 - 0.05 * i + SEED for i in range(4)])
    assert np.allclose(line(panel(figure, f"{MLP}: linear CKA"), STYLES[2])[1], of)
    for fitted_on in ("noisy", "true"):
        ax = panel(figure, f"{MLP}: principal cosine, {fitted_on}")
        assert np.allclose(line(ax, STYLES[2])[1], of - 0.05)
        assert np.allclose(line(ax, STYLES[2], hollow=True)[1], of - 0.25)


@pytest.mark.parametrize("name", ["cost", "similarity", "latent"])
def test_rows_of_no_layer_have_no_place_among_the_layers(drawn, name):
    assert names(drawn(name, MLP).axes[0]) == LAYERS


def test_dynamics_follow_the_layer_that_is_best_at_the_last_epoch(drawn):
    ax = panel(drawn("dynamics"), f"{MLP}, p = 0.4")
    x, y = line(ax, STYLES[0])
    assert x.tolist() == [0, 1, 2, 5, 10, 20, 50]
    learnt = 1 - 0.5 ** (x / 3)
    assert np.allclose(y, 0.3 + learnt * (masc(0.4, 1, 0) + SEED - 0.3))
    assert np.allclose(line(ax, ("#333333", ">"), hollow=True)[1], 0.1 + learnt * 0.5)
    assert legend(drawn("dynamics")) == [
        "MASC",
        "logistic regression",
        "VeLPIC",
        "network itself",
        "range over runs",
    ]


def test_histories_have_a_panel_for_every_condition_with_human_labels_by_name(drawn):
    figure = drawn("history")
    assert sorted(titles(figure)) == sorted(
        f"{pair}{condition}"
        for pair in (MLP, "cnn-cifar10")
        for condition in (", p = 0", ", p = 0.4", ", human labels, cifar-10n:worst")
    )
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


def test_gains_are_ours_and_published_numbers_are_hollow_grey_and_say_so(rows):
    figure = FIGURES["gains"].draw(rows, published=synthetic.table1())
    ax = panel(figure, MLP)
    degrees = np.array(DEGREES)
    assert np.allclose(line(ax, STYLES[0])[1], masc(degrees, 1, 0, extra=0.04) + SEED)
    assert np.allclose(line(ax, STYLES[2])[1], masc(degrees, 1, 0, "true", extra=0.04) + SEED)
    for marker, value in {"o": 0.6, "^": 0.7, ">": 0.5, "*": 0.8}.items():
        x, y = line(ax, ("#8a8a8a", marker), hollow=True)
        assert x.tolist() == [1, 2, 3, 4]
        assert np.allclose(y, value)
    assert [label for label in legend(figure) if label.startswith("published: ")] == [
        "published: MASC, noisy subspaces",
        "published: MASC, true subspaces",
        "published: network, last epoch",
        "published: network, best epoch",
    ]
    for title in ("cnn-cifar10", "cnn-cifar10, human labels"):  # nothing is published of them
        assert not any(line.get_color() == "#8a8a8a" for line in panel(figure, title).lines)


def test_gains_without_published_numbers_have_none(drawn):
    assert not any("published" in label for label in legend(drawn("gains")))


def test_variants_of_a_pair_are_never_mixed(rows):
    first = rows[
        (rows["experiment"] == "noisy_subspaces") & (rows["pair"] == MLP) & rows["corruption"].notna()
    ]
    second = first.assign(variant="subset 100, optimizer adam", value=0.5, key=first["key"] + "b")
    both = pd.concat([first.assign(variant="subset 100"), second])
    figure = FIGURES["figure2"].draw(both)
    assert titles(figure) == [MLP, f"{MLP} (optimizer adam)"]
    assert np.allclose(line(panel(figure, f"{MLP} (optimizer adam)"), STYLES[0])[1], 0.5)
    assert np.allclose(line(panel(figure, MLP), STYLES[0])[1][1], masc(0, 1, 0, extra=0.04) + SEED)
