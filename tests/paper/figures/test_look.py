"""What holds for every figure: legible, in grey too, complete in itself, and the same for the same rows."""

from itertools import pairwise

import pandas as pd
import pytest

from layerprobe.errors import InputError
from layerprobe.figures import encode
from layerprobe.paper.figures import FIGURES
from layerprobe.paper.rows import COLUMNS
from paper.figures import synthetic

EVERY = sorted(FIGURES)


def panels(figure):
    return [ax for ax in figure.axes if ax.axison]


@pytest.mark.parametrize("name", EVERY)
def test_lines_differ_without_colour(drawn, name):
    for ax in panels(drawn(name)):
        looks = [
            (line.get_marker(), line.get_markerfacecolor() == "white")
            for line in ax.lines
            if len(line.get_xdata())
        ]
        bars = {(bar.get_facecolor(), bar.get_hatch()) for bar in ax.patches if bar.get_facecolor()[3] == 1}
        hatches = [hatch for _, hatch in bars]
        if FIGURES[name].plot.__module__.endswith("retrained") and not looks:
            assert len(set(hatches)) == len(hatches) > 1
            continue
        assert looks
        assert len(set(looks)) == len(looks)
        assert "None" not in {marker for marker, _ in looks}


@pytest.mark.parametrize("name", EVERY)
def test_nothing_is_clipped_and_nothing_overlaps(drawn, name):
    figure = drawn(name)
    figure.draw_without_rendering()
    page = figure.bbox
    (legend,) = [legend.get_window_extent() for legend in figure.legends]
    texts = [text.get_window_extent() for text in figure.texts]
    axes = [ax.get_tightbbox() for ax in panels(figure)]
    for box in [legend, *texts, *axes]:
        assert box.x0 >= page.x0 - 1
        assert box.x1 <= page.x1 + 1
        assert box.y0 >= page.y0 - 1
        assert box.y1 <= page.y1 + 1
    assert not any(legend.overlaps(box) for box in [*texts, *axes])
    for ax in panels(figure):
        low, high = sorted(ax.get_xlim())
        ticks = [t for t in ax.get_xticklabels() if t.get_text() and low <= t.get_position()[0] <= high]
        if ticks[0].get_rotation() == 0:
            boxes = [tick.get_window_extent() for tick in ticks]
            assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


@pytest.mark.parametrize("name", EVERY)
def test_no_row_of_panels_is_wider_than_four(drawn, name):
    figure = drawn(name)
    assert figure.axes[0].get_gridspec().ncols <= 4
    assert figure.get_suptitle().replace("\n", " ") == FIGURES[name].title
    assert FIGURES[name].caption.endswith(".")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("figure2", "png"), ("figure2", "svg"), ("figure2", "pdf"), ("cost", "png"), ("history", "svg")],
)
def test_the_same_rows_give_the_same_bytes(name, kind):
    frames = [(synthetic.frame(degrees=(0.0, 0.4)), synthetic.histories(degrees=(0.4,))) for _ in range(2)]
    first, second = (encode(FIGURES[name].draw(*both), kind) for both in frames)
    assert first == second


def footer(figure):
    return " ".join(figure.texts[-1].get_text().split())


def test_the_scale_is_written_below():
    full, small = (synthetic.frame(degrees=(0.2, 0.4), seeds=n, subset=s) for n, s in ((1, None), (2, 2000)))
    draw = FIGURES["figure2"].draw
    rest = "Not run: mlp-mnist at p = 0, 0.6, 0.8, 1; cnn-fashion-mnist; alexnet-cifar100."
    assert footer(draw(full)) == f"full scale: all training images. Runs behind each point: 1. {rest}"
    assert footer(draw(small)) == (
        f"small scale: subsets of the training images (2,000). Runs behind each point: 2. {rest}"
    )
    tested = small.assign(variant="subset 2000, test_subset 500")
    assert "(2,000) and of the test images." in footer(draw(tested))
    tested = full.assign(variant="test_subset 500")
    assert footer(draw(tested)).startswith("small scale: all training images, subsets of the test images.")
    two = synthetic.frame(("mlp-mnist", "cnn-fashion-mnist"), degrees=(0.2,), subset=2000)
    fewer = two.assign(variant=two["variant"].mask(two["pair"] == "mlp-mnist", "subset 2000, num_classes 5"))
    assert "images (2,000); mlp-mnist: 5 classes. Runs" in footer(draw(fewer))
    weights = two.assign(variant="shuffle False, noise published, weights published")
    assert "images (2,000); noise published, weights published. Runs" in footer(draw(weights))
    mixed = pd.concat([full, small.assign(key=small["key"] + "s")])
    assert footer(draw(mixed)).startswith(
        "small and full scale: subsets of the training images (2,000), and all of them. Runs"
    )
    recipe = full.assign(variant="optimizer adam")
    assert footer(draw(recipe)).startswith("another recipe: all training images. Runs")
    assert footer(draw(pd.concat([recipe, small.assign(key=small["key"] + "s")]))).startswith(
        "small scale and another recipe: subsets of the training images (2,000), and all of them. Runs"
    )
    assert "at p\u00a0=\u00a00," in draw(full).texts[-1].get_text()  # no line ends there
    few = small[(small["corruption"] != 0.4) | (small["seed"] == 0)]
    assert footer(draw(few)).endswith(f"Runs behind each point: 1 to 2. {rest}")


def test_the_history_has_its_scale_in_the_footer():
    history = synthetic.histories(degrees=(0.4,), subset=300)
    assert footer(FIGURES["history"].draw(None, history)).startswith("small scale: subsets of the training")


@pytest.mark.parametrize("name", [name for name in EVERY if not FIGURES[name].history])
def test_a_missing_experiment_is_named(rows, name):
    missing = FIGURES[name].needs[-1]
    with pytest.raises(
        InputError, match=rf"^{name} .*there are none of {missing} for .* Measure them first\."
    ):
        FIGURES[name].draw(rows[rows["experiment"] != missing])


def test_a_missing_experiment_of_one_pair_is_named_with_the_pair(rows):
    of = rows[(rows["experiment"] != "retraining") | (rows["pair"] != "mlp-mnist")]
    with pytest.raises(InputError, match="none of retraining for mlp-mnist"):
        FIGURES["figure4"].draw(of, pair="mlp-mnist")


def test_an_unknown_pair_is_named_beside_those_that_are_there(rows):
    with pytest.raises(InputError, match=r"'mlp-cifar10'; there are rows of mlp-mnist, cnn-cifar10, alex"):
        FIGURES["figure2"].draw(rows, pair="mlp-cifar10")


def test_other_degrees_of_a_shown_pair_are_refused_with_those_of_the_figure(rows):
    of = rows[(rows["pair"] == "cnn-cifar10") & (rows["corruption"] == 0)]
    with pytest.raises(
        InputError, match=r"figure29 shows p = 0\.2, 0\.4, 0\.6, 0\.8; its pairs have rows of o"
    ):
        FIGURES["figure29"].draw(of)


def test_no_rows_no_history_and_missing_columns(rows):
    with pytest.raises(InputError, match="figure2 is drawn from rows, and there are none"):
        FIGURES["figure2"].draw(rows[:0])
    with pytest.raises(InputError, match="history is drawn from training histories"):
        FIGURES["history"].draw(rows)
    with pytest.raises(InputError, match=r"missing: \['layer'\]"):
        FIGURES["figure2"].draw(rows[[name for name in COLUMNS if name != "layer"]])


def test_no_human_labels(rows):
    with pytest.raises(InputError, match="no rows of runs on human labels"):
        FIGURES["natural"].draw(rows[rows["corruption"].notna()])


def test_rows_that_hold_no_point_of_a_figure(rows):
    of = rows[(rows["experiment"] != "retraining") | (rows["setting"] == "early_stopping")]
    with pytest.raises(InputError, match="no point of this figure"):
        FIGURES["retraining_epochs"].draw(of)


def test_no_panel_is_empty(rows):
    of = rows[(rows["experiment"] == "noisy_subspaces") & (rows["pair"] == "mlp-mnist")]
    of = of[of["corruption"] > 0]  # at p = 0 noisy subspaces are also the true ones
    figure = FIGURES["thresholds"].draw(of)
    assert [ax.get_title(loc="left") for ax in panels(figure)] == ["mlp-mnist: noisy subspaces"]


def test_the_footer_describes_the_shown_pairs_only():
    few, more = (synthetic.frame(degrees=(0.4,), seeds=1, subset=n) for n in (1000, 3000))
    other = synthetic.frame(("cnn-mnist",), degrees=(0.4,), seeds=1, subset=5000)
    more = more.assign(variant="subset 3000", key="more" + more["key"])
    rows = pd.concat([few, more, other[other["experiment"] != "probes"]], ignore_index=True)
    for name in ("training_images", "probes"):
        assert "subsets of the training images (1,000, 3,000)." in footer(FIGURES[name].draw(rows))


@pytest.mark.parametrize("name", ["thresholds", "probes", "untrained", "flipped", "similarity"])
def test_missing_cells_of_own_figures_are_named(name):
    rows = synthetic.frame(degrees=(0.2, 0.4, 0.8), seeds=1)
    assert "Not run: mlp-mnist at p = 0.6" in footer(FIGURES[name].draw(rows)).replace("0, 0.6", "0.6")
    assert "resnet18-cifar10" in footer(FIGURES[name].draw(rows))
    latent = FIGURES["latent"].draw(synthetic.frame(degrees=(0.0, 0.4), seeds=1))
    assert "Not run: mlp-cifar10; cnn-mnist;" in footer(latent)
